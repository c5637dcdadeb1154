"""Runs trained in one pass are the runs that they would be alone."""

import csv
import re
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
import transformers as hf
from lightning.pytorch.callbacks import ModelCheckpoint

from fpt_lightning.data.bits import BitXOR
from fpt_lightning.data.columnar.sequence_file import SequenceFile
from fpt_lightning.data.datamodule import FPTDataModule
from fpt_lightning.data.images.folder import ImageFolder
from fpt_lightning.data.images.mnist import MNIST
from fpt_lightning.data.proteins.datamodule import RemoteHomology
from fpt_lightning.errors import DivergedError, FPTError
from fpt_lightning.models.kernels.replicas import replicated
from fpt_lightning.models.lora import LoraOptions
from fpt_lightning.models.packed import PackedTransformer, share_frozen
from fpt_lightning.training.artifacts.checkpoint import read_checkpoint
from fpt_lightning.training.callbacks import StopEarly
from fpt_lightning.training.classification import FPTClassifier
from fpt_lightning.training.logger import RunLogger
from fpt_lightning.training.optimizer import parameter_groups
from fpt_lightning.training.packs.adam import PackedAdam
from fpt_lightning.training.packs.module import Pack, PackData
from fpt_lightning.training.packs.replica import Replica
from fpt_lightning.training.trainer import FPTTrainer

RUNS = [(1e-2, 0), (1e-3, 1), (3e-2, 1)]
"""Learning rate and seed; the last two read the same batches."""
LOOP: dict[str, Any] = {
    "accelerator": "cpu",
    "val_check_interval": 5,
    "check_val_every_n_epoch": None,
    "limit_val_batches": 2,
    "num_sanity_val_steps": 0,
    "log_every_n_steps": 2,
    "gradient_clip_val": 1.0,
    "enable_progress_bar": False,
    "enable_model_summary": False,
}


def parts(
    folder: Path,
    lr: float,
    seed: int,
    max_steps: int = 10,
    patience: int | None = None,
    task: Callable[..., FPTDataModule] = BitXOR,
    kind: type[FPTClassifier] = FPTClassifier,
    **model: Any,
) -> tuple[FPTClassifier, FPTDataModule, FPTTrainer]:
    """What a run is made of, its random numbers at their start."""
    L.seed_everything(seed, verbose=False)
    data = task(seed=seed, batch_size=4, eval_batch_size=8)
    data.prepare_data()
    options = {"backbone": "tiny", "backbone_seed": 7, "dropout": 0.1, **model}
    classifier = kind(data.task, lr=lr, seed=seed, **options)
    best, last = (
        ModelCheckpoint(folder, filename=name, monitor=monitor, mode="max", enable_version_counter=False)
        for name, monitor in (("best", f"val_{data.task.metric}"), ("last", None))
    )
    stop = StopEarly(best.monitor or "", patience=patience)
    trainer = FPTTrainer(
        **LOOP, max_steps=max_steps, logger=RunLogger(folder), callbacks=[stop, best, last],
        default_root_dir=folder,
    )  # fmt: skip
    return classifier, data, trainer


def alone(folder: Path, lr: float, seed: int, ckpt_path: str | None = None, **options: Any) -> None:
    folder.mkdir(exist_ok=True)
    model, data, trainer = parts(folder, lr, seed, **options)
    trainer.fit(model, datamodule=data, ckpt_path=ckpt_path, weights_only=True)


def replica(folder: Path, run: tuple[float, int], resume: bool = False, **options: Any) -> Replica:
    folder.mkdir(exist_ok=True)
    return Replica(*parts(folder, *run, **options), str(folder / "last.ckpt") if resume else None)


def fit(replicas: list[Replica], looped: bool = True) -> Pack:
    pack = Pack(replicas, looped=looped)
    steps = max(each.max_steps for each in replicas)
    trainer = L.Trainer(**LOOP, max_steps=steps, logger=False, enable_checkpointing=False)
    trainer.fit(pack, datamodule=PackData(replicas), ckpt_path=replicas[0].ckpt_path, weights_only=True)
    return pack


def packed(folders: Sequence[Path], runs: Sequence[tuple[float, int]], **options: Any) -> Pack:
    return fit([replica(folder, run, **options) for folder, run in zip(folders, runs, strict=True)])


def folders(kind: str, runs: Sequence[Any] = RUNS) -> list[Path]:
    return [Path(f"{kind}{number}") for number in range(len(runs))]


def same(one: Any, other: Any, path: str = "") -> None:
    """Compares checkpoints to the last bit, but for folders and clocks."""
    if isinstance(one, torch.Tensor):
        assert torch.equal(one, other), path
    elif isinstance(one, dict):
        one, other = ({placeless(key): value for key, value in each.items()} for each in (one, other))
        assert one.keys() == other.keys(), path
        for key in one.keys() - set(OTHERWISE):
            same(one[key], other[key], f"{path}/{key}")
    elif isinstance(one, list | tuple):
        assert len(one) == len(other), path
        for number, (a, b) in enumerate(zip(one, other, strict=True)):
            same(a, b, f"{path}/{number}")
    else:
        assert placeless(one) == placeless(other), path


OTHERWISE = ("Throughput", "current_score")  # clocks, and what a resumed ModelCheckpoint does not read


def placeless(value: Any) -> Any:
    """A path without the name of the folder."""
    return re.sub(r"/(alone|packed)(\d)", r"/run\2", value) if isinstance(value, str) else value


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open() as file:
        return [{k: v for k, v in row.items() if k != "samples_per_second"} for row in csv.DictReader(file)]


def compare(one: Path, other: Path) -> None:
    assert rows(one) == rows(other)
    for name in ("best.ckpt", "last.ckpt"):
        same(read_checkpoint(one / name), read_checkpoint(other / name))


@pytest.mark.parametrize(
    ("count", "model"), [(1, {}), (3, {}), (3, {"shuffle_tokens": True}), (3, {"lora": LoraOptions()})], ids=str
)
def test_packed_runs_are_those_alone_to_the_last_bit(count: int, model: dict[str, Any]) -> None:
    runs = RUNS[:count]
    for folder, (lr, seed) in zip(folders("alone", runs), runs, strict=True):
        alone(folder, lr, seed, **model)
    packed(folders("packed", runs), runs, **model)
    for one, other in zip(folders("alone", runs), folders("packed", runs), strict=True):
        compare(one, other)


def proteins_in_one_order(seed: int, **options: Any) -> RemoteHomology:
    """Batches as long in all runs: one that the pack makes longer rounds in another way, and draws other dropout."""
    return RemoteHomology(seed=0, **options)


@pytest.mark.parametrize(
    ("folder", "task"),
    [
        ("mnist_root", partial(MNIST, validation_examples=10, download=False)),
        ("image_root", partial(ImageFolder, image_size=32, patch_size=8, augment=True)),
        ("tape_root", partial(proteins_in_one_order, limit=64)),
        ("weights_csv", partial(SequenceFile, "weight", train_file="weights.csv", regression=True)),
    ],
    ids=lambda value: "" if isinstance(value, str) else value.func.__name__,
)
def test_every_kind_of_data_is_packed(
    folder: str, task: Callable[..., FPTDataModule], request: pytest.FixtureRequest
) -> None:
    """Images, whose batches are made on the device, in epochs that differ; lengths that differ; a regression."""
    place = request.getfixturevalue(folder)
    task = partial(task, root=str(place.parent if place.is_file() else place))
    for own, (lr, seed) in zip(folders("alone"), RUNS, strict=True):
        alone(own, lr, seed, task=task)
    packed(folders("packed"), RUNS, task=task)
    for one, other in zip(folders("alone"), folders("packed"), strict=True):
        compare(one, other)


def test_a_pack_goes_on_and_a_run_goes_on_alone_and_joins_again() -> None:
    """Alone to step 15; packed to 5, alone to 10, and packed again: the same files."""
    for folder, (lr, seed) in zip(folders("alone"), RUNS, strict=True):
        alone(folder, lr, seed, max_steps=15)
    packed(folders("packed"), RUNS, max_steps=5)
    for folder, (lr, seed) in zip(folders("packed"), RUNS, strict=True):
        alone(folder, lr, seed, ckpt_path=str(folder / "last.ckpt"), max_steps=10)
    packed(folders("packed"), RUNS, resume=True, max_steps=15)
    for one, other in zip(folders("alone"), folders("packed"), strict=True):
        compare(one, other)


def test_a_run_that_stops_leaves_and_the_others_do_not_notice() -> None:
    """By patience, by a budget of its own, or because it diverged."""
    runs = [(1e-2, 0), (1e-9, 1), (1e-2, 2), (1e30, 3)]
    options = [{}, {"patience": 1}, {"max_steps": 7}, {}]
    for folder, (lr, seed), own in zip(folders("alone", runs), runs, options, strict=True):
        with pytest.raises(DivergedError) if lr > 1 else nullcontext():
            alone(folder, lr, seed, **{"max_steps": 20, **own})
    made = [replica(folder, run, **{"max_steps": 20, **own}) for folder, run, own in
            zip(folders("packed", runs), runs, options, strict=True)]  # fmt: skip
    pack = fit(made)
    assert [replica.steps for replica in made] == [20, 10, 7, 2]
    assert [replica.diverged is not None for replica in made] == [False, False, False, True]
    assert not pack.running or pack.running == [made[0]]
    for one, other, (lr, _) in zip(folders("alone", runs), folders("packed", runs), runs, strict=True):
        if lr < 1:
            compare(one, other)
        else:
            assert [list(folder.iterdir()) for folder in (one, other)] == [[], []]


def test_what_diverged_is_not_judged_any_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """A loss that is not finite at the step of a validation, above weights that are."""
    plain = FPTClassifier.loss

    def loss(self: FPTClassifier, *of: torch.Tensor) -> torch.Tensor:
        ends = self.training and self.lr == 1e-3 and self.trainer.global_step == 9
        return plain(self, *of) + (torch.inf if ends else 0.0)

    monkeypatch.setattr(FPTClassifier, "loss", loss)
    for folder, (lr, seed) in zip(folders("alone"), RUNS, strict=True):
        with pytest.raises(DivergedError) if lr == 1e-3 else nullcontext():
            alone(folder, lr, seed)
    packed(folders("packed"), RUNS)
    for one, other in zip(folders("alone"), folders("packed"), strict=True):
        compare(one, other)


class Focal(FPTClassifier):
    """A loss of one's own."""

    def loss(self, logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        right = logits.softmax(dim=-1).gather(-1, target.unsqueeze(-1))
        return -((1 - right) ** 2 * right.log()).mean()


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"label_smoothing": 0.2},
        {"kind": Focal},
        {"task": partial(SequenceFile, "weight", regression=True)},
        {"lora": LoraOptions(rank=2), "initialization": "random"},
    ],
    ids=["plain", "smoothed", "of one's own", "numbers", "adapters"],
)
def test_fused_runs_log_what_they_would_alone(options: dict[str, Any], weights_csv: Path) -> None:
    """To rounding: losses of all runs in one call, and products of many rows."""
    if "task" in options:
        options = {"task": partial(options["task"], train_file=str(weights_csv))}
    for folder, (lr, seed) in zip(folders("alone"), RUNS, strict=True):
        alone(folder, lr, seed, dropout=0.0, **options)
    made = [replica(folder, run, dropout=0.0, **options) for folder, run in zip(folders("packed"), RUNS, strict=True)]
    fit(made, looped=False)
    for one, other in zip(folders("alone"), folders("packed"), strict=True):
        for own, fused in zip(rows(one), rows(other), strict=True):
            assert own.keys() == fused.keys()
            for name, value in own.items():
                assert fused[name] == value or float(fused[name]) == pytest.approx(float(value), rel=1e-3, abs=1e-4)
            assert own["train_loss"] or own["val_loss"]


SIZES = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 24}
HEADS = {**SIZES, "num_key_value_heads": 2, "head_dim": 4}


@pytest.mark.parametrize(
    "config",
    [
        hf.LlamaConfig(**HEADS),
        hf.Qwen3Config(**HEADS),
        hf.Gemma3TextConfig(**HEADS, sliding_window=4),
        hf.T5Config(d_model=16, num_layers=2, num_heads=4, d_kv=4, d_ff=24),
    ],
)
def test_dropout_and_positions_are_each_runs_own_where_queries_share_keys_or_blocks_a_bias(
    config: hf.PretrainedConfig,
) -> None:
    config.save_pretrained("body")
    body = {"backbone": "body", "initialization": "random", "dropout": 0.2}
    for folder, (lr, seed) in zip(folders("alone"), RUNS, strict=True):
        alone(folder, lr, seed, **body)
    packed(folders("packed"), RUNS, **body)
    for one, other in zip(folders("alone"), folders("packed"), strict=True):
        for own, fused in zip(rows(one), rows(other), strict=True):
            assert all(float(fused[name]) == pytest.approx(float(own[name]), rel=1e-3) for name in own if own[name])


@pytest.mark.parametrize("config", [hf.LongformerConfig(**SIZES, attention_window=4), hf.Gemma2Config(**HEADS)])
def test_a_body_whose_dropout_is_not_ours_is_not_packed(config: hf.PretrainedConfig) -> None:
    """It asks the generator that all runs share."""
    config.save_pretrained("body")
    body = {"backbone": "body", "initialization": "random"}
    models = [parts(Path(), lr, seed, **body)[0].model for lr, seed in RUNS]
    state = torch.get_rng_state()
    with pytest.raises(FPTError, match="not all of its dropout is drawn for each run alone"):
        PackedTransformer(models)
    assert torch.equal(state, torch.get_rng_state())


def test_fused_products_give_the_same_gradients() -> None:
    """In fp64, and whatever becomes of a neighbour."""
    torch.set_default_dtype(torch.float64)
    try:
        models = [parts(Path(), *run, dropout=0.0)[0].model.double() for run in RUNS]
    finally:
        torch.set_default_dtype(torch.float32)
    data = BitXOR(batch_size=4)
    batches = [data.examples("train").__getitems__(range(4 * number, 4 * number + 4)) for number in range(3)]
    tokens = [batch.tokens.double() for batch in batches]
    for model, one in zip(models, tokens, strict=True):
        model(one).square().sum().backward()
    gradients = [taken(model) for model in models]
    packed = PackedTransformer(models)
    torch.stack([logits.square().sum() for logits in packed(tokens, [None] * 3)]).sum().backward()
    for model, alone in zip(models, gradients, strict=True):
        for one, other in zip(taken(model), alone, strict=True):
            assert (one - other).abs().max() <= 1e-10 * (1 + other.abs().max())
    with torch.no_grad():
        for parameter in models[1].trained_parameters().values():
            parameter.fill_(torch.nan)
    torch.stack([logits.square().sum() for logits in packed(tokens, [None] * 3)][::2]).sum().backward()
    for number in (0, 2):
        for one, other in zip(taken(models[number]), gradients[number], strict=True):
            assert (one - other).abs().max() <= 1e-10 * (1 + other.abs().max())


@pytest.mark.parametrize("trainable", [["input", "output"], ["layernorm", "output:bias"]], ids=" ".join)
def test_layers_that_lie_in_one_tensor_train_as_if_each_lay_alone(trainable: list[str]) -> None:
    """Their gradients are those of layers put together for every step, also once a run has left."""
    models = [parts(Path(), lr, 1, dropout=0.0, trainable=trainable)[0].model for lr, _ in RUNS]
    with torch.no_grad():
        for number, model in enumerate(models):
            for parameter in model.trained_parameters().values():
                parameter.add_(number / 10)
    adam = PackedAdam([parameter_groups(lr, {}, model) for (lr, _), model in zip(RUNS, models, strict=True)])
    tokens = torch.randn(4, 10, models[0].task.token_width or 0)
    for kept in ([0, 1, 2], [0, 2]):
        if len(kept) < len(models):
            adam.keep(kept)
            models = [models[number] for number in kept]
        gradients = []
        for stack in (torch.stack, adam.stacked):
            adam.zero_grad()
            answers = PackedTransformer(models, stack)([tokens] * len(models), [None] * len(models))
            torch.stack([logits.square().sum() for logits in answers]).sum().backward()
            own = [parameter for model in models for parameter in model.trained_parameters().values()]
            gradients.append([parameter.grad.clone() for parameter in own if parameter.grad is not None])
        assert all(torch.equal(*pair) for pair in zip(*gradients, strict=True))
        assert all(gradient.any() for gradient in gradients[0])
        assert len(gradients[0]) == len(own)
        adam.step()
        biases = [model.output.bias for model in models]
        assert torch.equal(adam.stacked(biases), torch.stack(biases))


@pytest.mark.parametrize("looped", [False, True])
def test_features_that_all_runs_read_are_not_copied_for_each(looped: bool) -> None:
    """One seed draws one order of examples: the answers and gradients are those of copies."""
    models = [parts(Path(), lr, 1, dropout=0.0, trainable="output")[0].model for lr, _ in RUNS]
    for model in models:
        model.reads_features = True
        torch.nn.init.normal_(model.output.weight)
        torch.nn.init.normal_(model.output.bias)
    features = torch.randn(4, models[0].task.answer_tokens, models[0].family.width)
    packed, read = PackedTransformer(models), []
    packed.model.output.register_forward_pre_hook(lambda _, inputs: read.append(len(inputs[0])))
    results = []
    for own in ([features] * len(models), [features.clone() for _ in models]):
        packed.zero_grad()
        with replicated([torch.Generator() for _ in models], looped=looped):
            answers = packed(own, [None] * len(models))
        torch.stack([logits.square().sum() for logits in answers]).sum().backward()
        results.append([*answers, *(gradient for model in models for gradient in taken(model))])
    assert read == [4, 4 * len(models)]
    assert all(torch.allclose(*pair, rtol=1e-4, atol=1e-5) for pair in zip(*results, strict=True))
    assert not torch.allclose(results[0][0], results[0][1])


def taken(model: torch.nn.Module) -> list[torch.Tensor]:
    """The gradients of what trains, taken away."""
    gradients = []
    for parameter in model.parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None
            gradients.append(parameter.grad)
            parameter.grad = None
    return gradients


def test_runs_share_one_body_wherever_it_is_moved() -> None:
    models = [parts(Path(), lr, seed)[0].model for lr, seed in RUNS]
    for model in models[1:]:
        share_frozen(models[0], model)
    torch.nn.ModuleList(models).to(torch.float64)  # which copies, as a move to a device does
    for name, value in models[0].named_parameters():
        places = {model.get_parameter(name).data_ptr() for model in models}
        assert len(places) == (len(models) if value.requires_grad else 1), name


def test_runs_of_other_bodies_or_parts_are_refused() -> None:
    for other, what in (({"backbone_seed": 8}, "frozen weights"), ({"trainable": ["output"]}, "trained parts")):
        made = [replica(folder, run) for folder, run in zip(folders("packed"), RUNS[:2], strict=False)]
        made.append(replica(Path("packed2"), RUNS[2], **other))
        with pytest.raises(FPTError, match=f"must have the same {what}"):
            Pack(made)
