"""The end of a run: what ran and what it measured become its result, learning curve and exported parts."""

from typing import Any

from fpt_lightning.data.datamodule import FPTDataModule
from fpt_lightning.errors import UsageError
from fpt_lightning.runs.folder import RunFolder
from fpt_lightning.runs.learning_curve import plot_learning_curve
from fpt_lightning.runs.result import read_json
from fpt_lightning.training.classification import FPTClassifier
from fpt_lightning.training.export import export_trained

# what else of the model's arguments tells one arm from another
MODEL_CHOICES = (
    "architecture",
    "layers",
    "positions",
    "lora",
    "input_initialization",
    "align_steps",
    "part_lr",
    "shuffle_tokens",
)


def what_ran(
    model: FPTClassifier, datamodule: FPTDataModule, seed: int, arm: str | None, protocol: str
) -> dict[str, Any]:
    """The part of a result that is known before the run, under the names of ``result.json``.

    Where ``arm`` is None, backbone and initialisation name it.
    """
    choice = model.model.choice
    return {
        "task": datamodule.task.name,
        "arm": arm or f"{choice.name} {choice.resolved_initialization}",
        "backbone": choice.name,
        **{name: model.hparams[name] for name in MODEL_CHOICES},
        "initialization": choice.resolved_initialization,
        "trainable": model.trainable,
        "protocol": protocol,
        "lr": model.lr,
        "batch_size": datamodule.batch_size,
        "seed": seed,
        "trained_parameters": sum(parameter.numel() for parameter in model.model.trained_parameters().values()),
        "total_parameters": sum(parameter.numel() for parameter in model.model.parameters()),
        "data_fingerprint": datamodule.fingerprint(),
    }


def untested_result(folder: RunFolder) -> dict[str, Any]:
    """The result of a run that was trained and not tested.

    Raises:
        UsageError: If there is none, it diverged, or it was tested before: the test split is read once.
    """
    result = read_json(folder.result)
    if result is None:
        raise UsageError(f"{folder.path} holds no finished run: leave --test away to train it")
    if result.get("status") == "diverged":
        raise UsageError(f"{folder.path} holds a run that diverged: there is nothing to test")
    if tested := [name for name in result if name.startswith("test_")]:
        raise UsageError(f"{folder.path} was tested before; its result.json holds {', '.join(tested)}")
    return result


def finish(folder: RunFolder, result: dict[str, Any], model: FPTClassifier) -> None:
    """Leaves the result in the run folder, last of all, and says what it is."""
    metric = model.task.metric
    names = {"test": "test", "val": "validation"}
    scores = {name: result[f"{split}_{metric}"] for split, name in names.items() if f"{split}_{metric}" in result}
    files = ["result.json", "learning_curve.png", "metrics.csv", "checkpoints/best.ckpt"]
    if "test" in scores:  # which has put the model back to the best checkpoint
        export_trained(model.model, folder.path / "trained.safetensors")
        files.append("trained.safetensors")
    split, score = next(iter(scores.items()))
    title = f"{result['task']} on {result['arm']}: {split} {metric} {score:.3f}"
    plot_learning_curve(folder.metrics, folder.path / "learning_curve.png", title, metric)
    folder.write_result(result)
    print(
        ", ".join(f"{split} {metric} {score:.4f}" for split, score in scores.items())
        + f" at step {result['best_step']:,} of {result['steps']:,}\n"
        f"{result['samples_per_second']:,} samples/s, {result['wall_seconds']} s, {result['peak_memory_mb']} MiB\n"
        f"{folder.path}: {', '.join(files)}"
    )
