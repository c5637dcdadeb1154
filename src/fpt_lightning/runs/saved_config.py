"""``config.yaml`` of a run folder."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.cli import LightningArgumentParser, SaveConfigCallback

from fpt_lightning.files import write_whole


class SaveRunConfig(SaveConfigCallback):
    """Saves the resolved config without what belongs to this session alone: folder, checkpoint, when to test.

    Args:
        parser: The parser of the command.
        config: The config.
        begin: What to do before, in the first process: :meth:`RunFolder.begin`.
        kwargs: Those of Lightning's callback.
    """

    def __init__(
        self, parser: LightningArgumentParser, config: Any, *, begin: Callable[[], None] | None = None, **kwargs: Any
    ) -> None:
        config = config.clone()
        config.run_folder = config.ckpt_path = None
        config.overwrite = False
        for own in (config.checkpoint, config.last_checkpoint):  # from whatever folder the run goes on
            if own.dirpath is not None and "://" not in str(own.dirpath):
                own.dirpath = str(Path(own.dirpath).absolute())
        if "test" in config:  # that of run
            config.test, config.pause_at = "after", None
        super().__init__(parser, config, save_to_log_dir=False, **kwargs)
        self._begin = begin

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Saves nothing yet: a checkpoint, or batches, that are refused leave the folder as it was."""

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self.already_saved:
            return
        if self._begin is not None and trainer.is_global_zero:
            self._begin()
        super().setup(trainer, pl_module, "fit")

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Begins, too, where no step was left to train."""
        self.on_train_start(trainer, pl_module)

    def save_config(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Writes it whole or not at all, which Lightning does not: it is what repeats the run."""
        # parsed and so valid: to look once more takes three quarters of it
        content = self.parser.dump(self.config, skip_none=False, skip_validation=True)
        write_whole(Path(trainer.default_root_dir) / self.config_filename, content)
