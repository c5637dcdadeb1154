"""What a command has before any config: its own options, values of the Trainer, the callbacks that have a name."""

import inspect

import lightning as L
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.cli import LightningCLI

from fpt_lightning.training.artifacts.predictions import PredictionWriter
from fpt_lightning.training.callbacks import KeepLast, ProgressBar, StopEarly
from fpt_lightning.training.language.export_backbone import ExportBackbone
from fpt_lightning.training.trainer import FPTTrainer

TRAINER_DEFAULTS = {
    "max_steps": 1000,
    "val_check_interval": 100,  # steps, not epochs: generated tasks have no epochs
    "check_val_every_n_epoch": None,
    "num_sanity_val_steps": 0,
    "gradient_clip_val": 1.0,  # the reference implementation's
    "log_every_n_steps": 10,
    "enable_model_summary": False,  # PartsSummary says more
}

DEFAULT_MONITOR = "val_accuracy"

# Two keep checkpoints: with `save_last` Lightning leaves last.ckpt alone wherever validation did not improve.
CALLBACKS: dict[str, type[L.Callback]] = {
    "checkpoint": ModelCheckpoint,
    "last_checkpoint": KeepLast,  # after it, to hold its state
    "early_stopping": StopEarly,
    "progress": ProgressBar,
    "predictions": PredictionWriter,
    "export_backbone": ExportBackbone,
}

CALLBACK_DEFAULTS = {
    "checkpoint.monitor": DEFAULT_MONITOR,
    "checkpoint.mode": "max",
    "checkpoint.filename": "best",
    "checkpoint.enable_version_counter": False,
    "checkpoint.save_on_train_epoch_end": False,  # but behind validations, whose figures and state it holds
    "last_checkpoint.filename": "last",
    "last_checkpoint.enable_version_counter": False,
    "last_checkpoint.save_on_train_epoch_end": False,
}

# Lightning refuses a callback whose kind the Trainer switches off.
SWITCHES = {
    "progress": "enable_progress_bar",
    "checkpoint": "enable_checkpointing",
    "last_checkpoint": "enable_checkpointing",
}


def commands() -> dict[str, set[str]]:
    """Methods of the Trainer, and which of their arguments are no options."""
    ours = {"model", "datamodule"}
    return {**LightningCLI.subcommands(), "run": ours, "prepare": ours}


def options_of_commands() -> set[str]:
    """The options that some commands have of their own."""
    return {
        option
        for command, skipped in commands().items()
        for option in inspect.signature(getattr(FPTTrainer, command)).parameters.keys() - skipped - {"self"}
    }
