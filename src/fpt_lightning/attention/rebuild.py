"""A run as it was: model and data of its config, the weights of its checkpoint."""

from pathlib import Path
from typing import Any

from fpt_lightning.cli import FPTCLI
from fpt_lightning.config_files import read_config
from fpt_lightning.data.datamodule import FPTDataModule
from fpt_lightning.errors import FPTError, UsageError
from fpt_lightning.runs.folder import RunFolder
from fpt_lightning.training.checkpoint import read_checkpoint, verify
from fpt_lightning.training.classification import FPTClassifier
from fpt_lightning.training.trainer import FPTTrainer


def find_run(path: Path) -> tuple[RunFolder, Path]:
    """Finds the run folder and the checkpoint that somebody means.

    Args:
        path: A run folder, whose ``best.ckpt`` is meant, or one of its checkpoints.

    Raises:
        FPTError: If it is neither.
    """
    if not path.exists():
        raise FPTError(f"there is no run folder {path}")
    folder = RunFolder(path if path.is_dir() else path.parent.parent)
    if not folder.config.is_file():
        raise FPTError(
            f"{folder.path} has no config.yaml: it is not a run folder\n"
            "Give the folder that `fpt run` printed, or a file in its checkpoints/."
        )
    if path.is_file():
        return folder, path
    best, last = (folder.checkpoints / f"{name}.ckpt" for name in ("best", "last"))
    if not best.is_file():
        again = f"fpt run --config {folder.config} --run_folder {folder.path}"
        way_out = f"`{again} --ckpt_path {last}` goes on with it" if last.is_file() else f"`{again}` starts it again"
        raise FPTError(
            f"{folder.path} has no checkpoints/best.ckpt: the run ended before a validation\n"
            f"{way_out}, or give another of its checkpoints."
        )
    return folder, best


def rebuild(folder: RunFolder, checkpoint: Path) -> tuple[FPTClassifier, FPTDataModule]:
    """Builds model and data of a run, with the trained parts of a checkpoint, on the CPU.

    Raises:
        UsageError: If the run is of a language model, or its config is no longer valid.
        FPTError: If backbone, data or checkpoint cannot be read, or do not belong together.
    """
    content = read_checkpoint(checkpoint)
    built = _Rebuilt(folder.config)
    if not isinstance(built.model, FPTClassifier):
        raise UsageError(f"{folder.path} trained a language model: only runs of a task answer at certain tokens")
    verify(content, built.model.model)
    built.model.load_state_dict(content["state_dict"], strict=False)  # the frozen rest is that of the backbone
    return built.model.eval(), built.datamodule


class _Rebuilt(FPTCLI):
    """The command line of a run, which stops once model and data are there."""

    def __init__(self, config: Path) -> None:
        super().__init__([_command(config), "--config", str(config)])

    def before_instantiate_classes(self) -> None:
        """Leaves out what would reach outside: loggers, callbacks, and parts that the checkpoint replaces."""
        config = self.config[self.subcommand]
        config.trainer.logger, config.trainer.callbacks = False, None
        if "trained_parts" in config.model.init_args:
            config.model.init_args.trained_parts = None
        super().before_instantiate_classes()

    def instantiate_trainer(self, **kwargs: Any) -> FPTTrainer:
        """A Trainer that leaves nothing behind."""
        return FPTTrainer(accelerator="cpu", devices=1, logger=False, enable_checkpointing=False)

    def _run_subcommand(self, subcommand: str) -> None:
        """Runs nothing."""


def _command(config: Path) -> str:
    """The command whose options a saved config holds."""
    saved = read_config(config)
    return "run" if isinstance(saved, dict) and "protocol" in saved else "fit"
