"""Small checkpoints: what trains, and the identity of what does not.

A checkpoint holds the trained parameters, the state of optimizer, loops and callbacks, the random number generators,
and a hash that names the frozen weights and the task. It holds tensors and plain values only, so it loads with
``weights_only=True``.
"""

import inspect
import pickle
import struct
import zipfile
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning.pytorch.callbacks import GradientAccumulationScheduler, ModelCheckpoint
from lightning.pytorch.trainer.states import TrainerFn

from fpt_lightning.data.datamodule import FPTDataModule
from fpt_lightning.errors import FPTError, UsageError, first_line
from fpt_lightning.files import whole_file
from fpt_lightning.models.fpt import FrozenPretrainedTransformer

IDENTITY = "fpt_lightning"
VALIDATION = "validation"  # the figures of the last validation before the checkpoint
ENCODING = "encoding"  # how the training data was read, see FPTDataModule.encoding
SETTINGS = "settings"  # what else the training depends on, by the names of the options
UNSEEN = (
    "lr",
    "part_lr",
    "dropout",
    "input_dropout",
    "shuffle_tokens",
    "lora",
    "input_initialization",
    "align_steps",
    "moved_share",
    "warmup_steps",
    "weight_decay",
    "optimizer",
    "lr_scheduler",
    "label_smoothing",
    "seed",
)
PARTS = ("limit_val_batches", "overfit_batches")  # of the data
DAMAGE = (pickle.UnpicklingError, zipfile.BadZipFile, RuntimeError, OSError, EOFError, ArithmeticError, AssertionError,
          AttributeError, LookupError, TypeError, ValueError, struct.error)  # fmt: skip
"""What torch and zipfile raise of a file that is no checkpoint."""

VERSION = "transformers_version"  # of a config
PREFIX = "model."  # where FPTClassifier keeps the transformer


def shrink(checkpoint: dict[str, Any], model: FrozenPretrainedTransformer) -> None:
    """Takes the frozen tensors out of a checkpoint and writes the identity of the model into it."""
    kept = {PREFIX + name for name in model.trained_parameters()}
    checkpoint["state_dict"] = {key: value for key, value in checkpoint["state_dict"].items() if key in kept}
    checkpoint[IDENTITY] = model.identity()


def add_run(checkpoint: dict[str, Any], trainer: L.Trainer) -> None:
    """Adds the figures of the last validation, which :func:`chosen_step` reads, and what :func:`check_resumed` does."""
    checkpoint[VALIDATION] = {
        name: value.item() for name, value in trainer.callback_metrics.items() if name.startswith("val_")
    }
    checkpoint[SETTINGS] = _settings(trainer)


def check_resumed(checkpoint: dict[str, Any], module: L.LightningModule) -> None:
    """Refuses to go on with a run under other options, of which the result would name the last, or the first, alone.

    So it does with the test that a run was left without. The model's sizes and frozen weights are compared elsewhere,
    by what they are; ``max_steps`` may change.

    Raises:
        UsageError: If the class, an option of one's own class, a rate, a dropout, a seed, the body's values, what makes
            a step or the precision is another than it was, or the training data is read otherwise, or the checkpoint
            holds weights alone and is to be trained.
    """
    if module._trainer is None:
        return
    fits, same_data = module.trainer.state.fn == TrainerFn.FITTING, getattr(module.trainer, "same_data", None)
    if not fits and not (same_data and same_data.tests_only):
        return
    if fits and "optimizer_states" not in checkpoint:
        raise UsageError("this checkpoint holds weights alone: a training goes on from one with the optimizer's state")
    own, saved_options = _own_names(module), checkpoint.get(module.CHECKPOINT_HYPER_PARAMS_KEY, {})
    before = _of_model(saved_options, own) | checkpoint.get(SETTINGS, {})
    now = _of_model(module.hparams, own) | _settings(module.trainer)
    model: Any = module.model
    if "backbone" in saved_options:  # those of its values that train are no frozen weights
        before |= _drawn(checkpoint[IDENTITY]["backbone"], saved_options["backbone"])
        now |= _drawn(str(model.choice), model.choice.name)
    for name, here in now.items():
        if name in before and (before[name] or None) != (here or None):
            raise UsageError(
                f"{name} was {before[name]} up to this checkpoint and is {here} here: leave it as it was, or start "
                "another run"
            )
    datamodule = getattr(module.trainer, "datamodule", None)
    saved = checkpoint.get(ENCODING, {}) if fits else {}
    encoding = datamodule.encoding() if isinstance(datamodule, FPTDataModule) and saved else {}
    if any(saved[name] != value for name, value in encoding.items() if name in saved):  # older ones may hold more
        raise UsageError(
            "the training data has other classes, words or units than up to this checkpoint: leave it as it was, or "
            "start another run"
        )


def _own_names(module: L.LightningModule) -> set[str]:
    """The hyperparameters that a class of the user's own has beside those of ours."""
    ours = next((each for each in type(module).__mro__ if each.__module__.startswith("fpt_lightning.")), type(module))
    known = inspect.signature(ours).parameters
    return {name for name in module.hparams if name not in known and name[0] != "_"}


def _of_model(hparams: Mapping[str, Any], own: Collection[str]) -> dict[str, Any]:
    """The options of a model that no weights show; those of the user's own, which may be tensors, in words."""
    seen = {f"model.{name}": hparams[name] for name in UNSEEN if name in hparams}
    return seen | {f"model.{name}": repr(hparams[name]) for name in own if name in hparams}


def _drawn(choice: str, name: str) -> dict[str, str]:
    """How the values of a body came about, wherever it lies."""
    return {"model.backbone": choice.removeprefix(name).strip(" ()")}


def _settings(trainer: L.Trainer) -> dict[str, Any]:
    datamodule = getattr(trainer, "datamodule", None)  # None where loaders are passed
    settings = {
        "model": type(trainer.lightning_module).__name__,
        "data.batch_size": getattr(datamodule, "batch_size", None),
        "trainer.precision": str(trainer.precision),
        "trainer.gradient_clip_val": trainer.gradient_clip_val,
        **{f"trainer.{name}": getattr(trainer, name) for name in PARTS},
        "trainer.gradient_clip_algorithm": getattr(trainer.gradient_clip_algorithm, "value", "norm"),
    }
    if isinstance(datamodule, FPTDataModule):
        settings["data_seed"] = datamodule.seed
    callbacks = trainer.callbacks  # type: ignore[attr-defined]
    if not any(isinstance(each, GradientAccumulationScheduler) for each in callbacks):  # which changes it on the way
        settings["trainer.accumulate_grad_batches"] = trainer.accumulate_grad_batches
    for chooser in [each for each in callbacks if isinstance(each, ModelCheckpoint)][:1]:
        settings |= {"checkpoint.monitor": chooser.monitor, "checkpoint.mode": chooser.mode}
    return settings


class FollowFolder(L.Callback):
    """Tells those that keep checkpoints where the files lie now of a folder which was moved or copied.

    Lightning forgets them where the folder has another name, and the next validation would count as the best.
    """

    def on_load_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Changes the checkpoint, of which the callbacks are told behind this hook."""
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, ModelCheckpoint):
                _follow(callback.dirpath, checkpoint.get("callbacks", {}).get(callback.state_key))


def _follow(folder: Any, state: dict[str, Any] | None) -> None:
    if state is None or state.get("dirpath") == folder:
        return

    def here(path: str) -> str:
        return str(Path(folder) / Path(path).name) if path else path

    if (best := state["best_model_path"]) and Path(here(best)).is_file():
        paths = {name: here(state[name]) for name in ("best_model_path", "kth_best_model_path", "last_model_path")}
        kept = {here(path): score for path, score in state["best_k_models"].items()}
        state |= {**paths, "best_k_models": kept, "dirpath": folder}


def verify(checkpoint: dict[str, Any], model: FrozenPretrainedTransformer) -> None:
    """Compares a checkpoint with the model it is loaded into.

    Raises:
        FPTError: If it is of another program, task, set of trained parts, or other frozen weights.
    """
    if IDENTITY not in checkpoint:
        raise FPTError("this checkpoint was not written by fpt-lightning")
    saved, own = checkpoint[IDENTITY], model.identity()
    if saved["task"] != own["task"]:
        changed = [key for key in own["task"] if saved["task"].get(key) != own["task"][key]]
        raise FPTError(
            "this checkpoint is of another task: "
            + ", ".join(f"{key} {saved['task'].get(key)} there, {own['task'][key]} here" for key in changed)
            + ".\nPass the config.yaml of its run folder with --config."
        )
    names = saved["trained"].keys() | own["trained"].keys()
    different = sorted(name for name in names if saved["trained"].get(name) != own["trained"].get(name))
    if not different and checkpoint["state_dict"].keys() != {PREFIX + name for name in own["trained"]}:
        different = ["its tensors"]
    if different:
        raise FPTError(
            f"this checkpoint holds other trained parts than this model: {different[0]} is only in one of them, or of "
            f"another shape ({len(different)} differ).\nPass the config.yaml of its run folder with --config."
        )
    if saved.get("architecture", own["architecture"]) != own["architecture"]:  # 0.4 did not say
        raise FPTError(
            f"this checkpoint is of {saved['backbone']}, this model has {own['backbone']}, of another "
            "model.architecture.\nPass the config.yaml of its run folder with --config."
        )
    there, here = saved.get("frozen_dtype", "float32"), own["frozen_dtype"]
    if saved["frozen"] != own["frozen"] and saved["backbone"] == own["backbone"] and there != here:
        raise FPTError(
            f"this checkpoint was trained with model.frozen_dtype {there}, here it is {here}: the frozen weights of "
            f"{own['backbone']} differ.\nPass the config.yaml of its run folder, or --model.frozen_dtype {there}."
        )
    if saved["frozen"] != own["frozen"]:
        raise FPTError(
            f"this checkpoint was trained on the frozen weights {saved['frozen']} of {saved['backbone']}, "
            f"this model has {own['frozen']} of {own['backbone']}.\n"
            "Pass the config.yaml of its run folder with --config, or the backbone it was trained on."
        )
    expect_same_config("this checkpoint", saved.get("config", {}), own)


def expect_same_config(what: str, saved: Mapping[str, Any], own: Mapping[str, Any]) -> None:
    """Compares what a config said of a body with what one says of a body of the same weights, ``identity()``.

    Two versions of transformers may word the same config in two ways: what they say is not compared.

    Raises:
        FPTError: If the body would compute something else.
    """
    here = own["config"]
    if saved.get(VERSION) != here.get(VERSION):
        return
    if changed := [field for field in here if saved.get(field) != here[field]]:
        raise FPTError(
            f"{what} was trained on {own['backbone']} of another config, whose weights are the same: "
            + ", ".join(f"{field} {saved.get(field)} there, {here[field]} here" for field in changed)
            + "; give the backbone the config.json that it had"
        )


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Opens a checkpoint as data, on the CPU; a missing, damaged or hostile file is named.

    Every tensor lies in the file with its checksum (CRC-32), which is compared: torch itself believes a flipped bit.

    Raises:
        FPTError: If it is not a whole file of tensors and plain values, or none of Lightning's.
    """
    if not Path(path).is_file():
        raise FPTError(f"there is no checkpoint {path}")
    try:
        _compare_checksums(path)
        checkpoint: dict[str, Any] = torch.load(path, weights_only=True, map_location="cpu")
        if not isinstance(checkpoint, dict) or not {"state_dict", "global_step"} <= checkpoint.keys():
            raise ValueError("it holds something else")
    except DAMAGE as error:
        raise FPTError(f"{path} is not a checkpoint of fpt-lightning, or not whole ({first_line(error)})") from error
    return checkpoint


def _compare_checksums(path: str | Path) -> None:
    if not zipfile.is_zipfile(path):  # torch would take it for a file of its first years and stumble in it
        raise EOFError("it is cut short or of another kind")
    with zipfile.ZipFile(path) as archive:
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
            raise ValueError("it is compressed, as torch writes none")
        if (damaged := archive.testzip()) is not None:
            raise ValueError(f"its part {damaged} is damaged")


def chosen_step(path: str | Path) -> dict[str, Any]:
    """The step of a checkpoint and what validation measured there, under the names of result.json."""
    checkpoint = read_checkpoint(path)
    return {"best_step": checkpoint["global_step"], **checkpoint.get(VALIDATION, {})}


class WholeCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint beside its place and moves it there once it is on the disk; reads none that is damaged.

    Lightning collects it in the system's temporary folder; where that is another file system, moving it is a copy over
    the checkpoint before, and a kill leaves neither.
    """

    def load_checkpoint(self, path: str | Path, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """See :func:`read_checkpoint`; one that may hold more than plain values is Lightning's to read."""
        if "://" in str(path) or kwargs.get("weights_only") is False:
            return super().load_checkpoint(path, *args, **kwargs)
        return read_checkpoint(path)

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None) -> None:
        if "://" in str(path) or storage_options is not None:  # not a file of this machine: Lightning knows how
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        with whole_file(Path(path)) as part, part.open("wb") as file:
            try:
                torch.save(checkpoint, file)
            except RuntimeError as error:  # torch's own, over a write that failed
                if isinstance(error.__context__, OSError):
                    raise error.__context__ from None
                raise
