"""A run as it was: model and data of its config, the weights of its checkpoint."""

from pathlib import Path
from typing import Any

from fpt_lightning.cli import FPTCLI
from fpt_lightning.data.datamodule import FPTDataModule
from fpt_lightning.errors import UsageError
from fpt_lightning.runs.folder import RunFolder
from fpt_lightning.training.artifacts.checkpoint import read_checkpoint, verify
from fpt_lightning.training.classification import FPTClassifier
from fpt_lightning.training.trainer import FPTTrainer


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
        super().__init__(["fit", "--config", str(config)])

    def before_instantiate_classes(self) -> None:
        """Leaves out what would reach outside: loggers, callbacks, and parts that the checkpoint replaces."""
        config = self.config[self.subcommand]
        config.trainer.logger, config.trainer.callbacks, config.cache_features = False, None, False
        if "trained_parts" in config.model.init_args:
            config.model.init_args.trained_parts = None
        super().before_instantiate_classes()

    def instantiate_trainer(self, **kwargs: Any) -> FPTTrainer:
        """A Trainer that leaves nothing behind."""
        return FPTTrainer(accelerator="cpu", devices=1, logger=False, enable_checkpointing=False)

    def _run_subcommand(self, subcommand: str) -> None:
        """Runs nothing."""
