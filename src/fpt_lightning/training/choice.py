"""The checkpoint that validation chooses: what `run` needs of the callback that keeps it."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint, WeightAveraging

from fpt_lightning.errors import FPTError, UsageError, brief
from fpt_lightning.training.artifacts.checkpoint import chosen_step
from fpt_lightning.training.classification import FPTClassifier
from fpt_lightning.training.language.pretraining import LanguageModel

FIGURES: Mapping[type, Sequence[str]] = {FPTClassifier: (), LanguageModel: ("val_perplexity", "val_copying_gain")}
"""What a validation logs beside the metrics, of the modules that are known."""
LESS_IS_BETTER = ("loss", "mae", "perplexity")
LOGGED = ("train_loss", "train_accuracy", "samples_per_second", "epoch", "step")  # besides those of a validation


def check_callback(name: str, callback: L.Callback, module: L.LightningModule) -> None:
    """Refuses a callback that would end the training at its first validation, or leave it without an end.

    Args:
        name: The option that holds it.
        callback: The callback.
        module: What trains. Only of those in :data:`FIGURES` themselves it is known which figures there will be.

    Raises:
        UsageError: If it watches a figure that nobody logs, or the wrong way round, the name of its files is no
            pattern, or it averages weights.
    """
    if isinstance(callback, WeightAveraging):
        raise UsageError(f"{name}: {type(callback).__name__} needs all weights in a checkpoint, which has what trains")
    if not isinstance(callback, ModelCheckpoint | EarlyStopping):
        return
    if isinstance(module, FPTClassifier | LanguageModel) and type(module) in FIGURES and callback.monitor is not None:
        figures = [*module.validation_metrics, *FIGURES[type(module)]]
        known = figures if isinstance(callback, EarlyStopping) else [*figures, *LOGGED]
        if callback.monitor not in known:
            raise UsageError(f"{name}.monitor is one of {', '.join(figures)}, not {brief(callback.monitor)}")
        mode = "min" if callback.monitor.endswith(LESS_IS_BETTER) else "max"
        if callback.monitor in figures and callback.mode != mode:
            better = {"min": "smaller", "max": "larger"}[mode]
            raise UsageError(f"{name}.monitor {callback.monitor} is better the {better} it is: set {name}.mode {mode}")
    if isinstance(callback, ModelCheckpoint):
        if callback.save_on_exception and name != "trainer.callbacks":
            raise UsageError(f"{name}.save_on_exception saves a half-made step as if it were validated: leave it")
        try:
            callback.format_checkpoint_name({})
        except (ValueError, LookupError, AttributeError) as error:
            raise UsageError(f"{name}.filename {brief(callback.filename)} is no pattern of a name: {error}") from error


def check_choice(callbacks: Sequence[ModelCheckpoint]) -> None:
    """Refuses checkpoints, the first of which is to be tested, that would not be the best on validation.

    Raises:
        UsageError: If the first keeps another number than one, takes its figure elsewhere or at another time than the
            weights, or if another callback writes the same file.
    """
    if not callbacks:
        raise UsageError("fpt run chooses among checkpoints: leave trainer.enable_checkpointing on, or use fpt fit")
    chooser, *others = callbacks
    if chooser.monitor is None or not chooser.monitor.startswith("val_"):
        raise UsageError(
            f"fpt run chooses on validation: checkpoint.monitor must be a figure such as val_loss, "
            f"got {chooser.monitor}"
        )
    kept = {"save_top_k": chooser.save_top_k == 1, "save_last": not chooser.save_last}
    # whose figure would be that of an earlier validation
    between = {
        "every_n_train_steps": not chooser._every_n_train_steps,
        "train_time_interval": chooser._train_time_interval is None,
        "save_on_train_epoch_end": not chooser._save_on_train_epoch_end,
    }
    for option, fits in {**kept, **between}.items():
        if not fits:
            raise UsageError(
                f"fpt run tests the one checkpoint that was best at a validation: leave checkpoint.{option} away, "
                "or use fpt fit"
            )
    if "{" in (chooser.filename or ""):
        raise UsageError(
            f"checkpoint.filename {chooser.filename} is a pattern, by which no run folder is read: name it"
        )
    for other in others:
        names = [other.filename, *([other.CHECKPOINT_NAME_LAST] if other.save_last else [])]
        if other.dirpath == chooser.dirpath and chooser.filename is not None and chooser.filename in names:
            raise UsageError(
                f"two callbacks would write {chooser.filename}.ckpt: "
                "checkpoint.filename and last_checkpoint.filename must differ"
            )


def chosen(callback: ModelCheckpoint) -> tuple[str, dict[str, Any]]:
    """The best checkpoint, its step and the figures of its validation under the names of result.json.

    Raises:
        FPTError: If there is none, or the file is not the one that was chosen.
    """
    if not (path := callback.best_model_path):
        raise FPTError(
            "the run ended without a validated checkpoint to choose: "
            "set trainer.val_check_interval to at most the batches that it trains on"
        )
    figures = chosen_step(path)
    best, own = callback.best_model_score, figures.get(callback.monitor or "")
    # infinite is what Lightning makes of a figure that is none; None where the folder was moved before a resumption
    if best is not None and math.isfinite(best) and own != best.item():
        raise FPTError(
            f"{path} is not the checkpoint that validation chose: its {callback.monitor} is {own}, the best was "
            f"{best.item()}; keep other files out of the run's checkpoints"
        )
    return path, figures
