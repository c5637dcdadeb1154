"""The end of a run: what ran and what it measured become its result, learning curve and exported parts."""

import math
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import ModelCheckpoint

from fpt_lightning.data.datamodule import FPTDataModule
from fpt_lightning.errors import UsageError, first_line
from fpt_lightning.machine import machine
from fpt_lightning.runs.folder import RunFolder, finite
from fpt_lightning.runs.learning_curve import plot_learning_curve
from fpt_lightning.runs.result import read_json
from fpt_lightning.training.artifacts.checkpoint import chosen_step
from fpt_lightning.training.artifacts.export import export_trained
from fpt_lightning.training.classification import FPTClassifier
from fpt_lightning.training.language.pretraining import LanguageModel

# arguments of the model that a result holds in another form, or not at all
OTHERWISE = ("backbone", "initialization", "trainable", "seed")


def what_ran(
    model: FPTClassifier | LanguageModel,
    datamodule: FPTDataModule,
    trainer: L.Trainer,
    seed: int,
    arm: str | None,
    protocol: str,
) -> dict[str, Any]:
    """The part of a result that is known before the run, under the names of ``result.json``.

    Where ``arm`` is None, backbone and initialisation name it; a body that is being made has neither.
    """
    chooser = trainer.checkpoint_callback
    assert isinstance(chooser, ModelCheckpoint)
    trained = {name: parameter for name, parameter in model.model.named_parameters() if parameter.requires_grad}
    named: dict[str, Any] = {"arm": arm or "language model"}
    if isinstance(model, FPTClassifier):
        choice, trained = model.model.choice, model.model.trained_parameters()
        named = {
            "arm": arm or f"{choice.name} {choice.resolved_initialization}",
            "backbone": choice.name,
            "initialization": choice.resolved_initialization,
            "trainable": model.trainable,
        }
    ran_on = machine(trainer.strategy.root_device.type)
    options = {name: model.hparams[name] for name in model.hparams if name not in OTHERWISE and name[0] != "_"}
    return {
        "task": datamodule.task.name,
        **named,
        **options,
        "protocol": protocol,
        "batch_size": datamodule.batch_size,
        "precision": str(trainer.precision),
        "device": ran_on["device"],
        "threads": ran_on["threads"],
        "checkpoint": {"monitor": chooser.monitor, "mode": chooser.mode},
        "seed": seed,
        "trained_parameters": sum(parameter.numel() for parameter in trained.values()),
        "total_parameters": sum(parameter.numel() for parameter in model.model.parameters()),
        "data_fingerprint": datamodule.fingerprint(),
    }


def untested_result(folder: RunFolder, checkpoint: str | None) -> dict[str, Any]:
    """The result of a run that was trained and not tested, and the checkpoint of which it tells.

    Raises:
        UsageError: If there is none, it diverged, or it was tested before: the test split is read once; or if the
            checkpoint is another.
        FPTError: If the checkpoint cannot be read.
    """
    result = read_json(folder.result)
    if result is None:
        raise UsageError(f"{folder.path} holds no finished run: leave --test away to train it")
    if result.get("status") == "diverged":
        raise UsageError(f"{folder.path} holds a run that diverged: there is nothing to test")
    if tested := [name for name in result if name.startswith("test_")]:
        raise UsageError(f"{folder.path} was tested before; its result.json holds {', '.join(tested)}")
    figures = {} if checkpoint is None else chosen_step(checkpoint)
    if any(figure != finite(result.get(name)) for name, figure in finite(figures).items()):
        raise UsageError(
            f"{checkpoint} is not the checkpoint that {folder.result} tells of, which is the best on validation: "
            f"fpt run {folder.path} --test only"
        )
    return result


def finish(folder: RunFolder, result: dict[str, Any], model: FPTClassifier | LanguageModel) -> None:
    """Leaves the result in the run folder, first of all, then what is made of it, and says what it is.

    Raises:
        OSError: If the result or the exported parts cannot be written.
    """
    folder.write_result(result)
    metric = model.task.metric
    names = {"test": "test", "val": "validation"}
    scores = {name: result[f"{split}_{metric}"] for split, name in names.items() if f"{split}_{metric}" in result}
    split, score = next(iter(scores.items()))
    files = ["result.json", "metrics.csv", os.path.relpath(folder.best, folder.path)]
    if "test" in scores and isinstance(model, FPTClassifier):  # which has put the model back to the best checkpoint
        export_trained(model.model, folder.path / "trained.safetensors", model.encoding.get("class_names"))
        files.append("trained.safetensors")
    title = f"{result['task']} on {result['arm']}: {split} {metric} {score:.3f}"
    picture = folder.path / "learning_curve.png"
    try:
        plot_learning_curve(folder.metrics, picture, title, metric)
        files.append(picture.name)
    except (ArithmeticError, ImportError, LookupError, OSError, RuntimeError, TypeError, ValueError) as error:
        print(f"fpt: warning: {picture} could not be drawn: {first_line(error)}", file=sys.stderr)
    beside = {name: worth["test" if "test" in scores else "val"] for name, worth in result.get("baselines", {}).items()}
    print(
        ", ".join(f"{split} {metric} {score:.4f}" for split, score in scores.items())
        + f" at step {result['best_step']:,} of {result['steps']:,}\n"
        f"{_beside(beside, split, score)}"
        f"{result['samples_per_second']:,} samples/s, {result['wall_seconds']} s, {result['peak_memory_mb']} MiB\n"
        f"{folder.path}: {', '.join(files)}"
    )


def leave_paused(folder: RunFolder, step: int) -> None:
    """Leaves word in the run folder that the run pauses, and says how it goes on.

    Raises:
        OSError: If it cannot be written.
    """
    folder.write_pause(step)
    print(f"{folder.path} pauses at step {step:,}: the same command without --pause_at goes on, with --ckpt_path last")


def _beside(worth: dict[str, float], split: str, score: float) -> str:
    """A line, or nothing, that says what the split is worth without a backbone."""
    said = ", ".join(f"{name} {worth[name]:.4f}" for name in sorted(worth, key=lambda name: -worth[name]))
    verdict = ", which is no less" if max(worth.values(), default=-math.inf) >= score else ""
    return f"{split} without a backbone: {said}{verdict}\n" if said else ""


@contextmanager
def own_wandb_run() -> Iterator[None]:
    """Ends a run of Weights & Biases that the block has opened, which the next run's figures would join.

    One that was open before is that of whoever called.
    """
    before = _wandb_run()
    try:
        yield
    finally:
        if _wandb_run() not in (None, before):
            sys.modules["wandb"].finish()


def _wandb_run() -> Any:
    """The run that is open in this process; None where none is."""
    return getattr(sys.modules.get("wandb"), "run", None)
