"""``metrics.csv``: every logged figure of a run, kept when the run is resumed."""

import csv
from argparse import Namespace
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.loggers import Logger
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_only

from fpt_lightning.files import naming, whole_file


class RunLogger(Logger):
    """Appends metrics to the ``metrics.csv`` of a run folder, each at once, so that a kill loses none.

    Lightning's CSVLogger deletes the file of an earlier session; this one goes on with it and drops only the rows that
    are now made again: those behind the checkpoint, see :class:`CountRows`, and not of a step before the first one.

    Args:
        folder: The run folder.
    """

    def __init__(self, folder: str | Path) -> None:
        super().__init__()
        self.path = Path(folder) / "metrics.csv"
        self.keep = 0
        self._rows: int | None = None  # known from the first one on
        self._columns = ["step"]

    @property
    def name(self) -> str:
        return self.path.parent.name

    @property
    def version(self) -> str:
        """None: a run folder is one run."""
        return ""

    @property
    def save_dir(self) -> str:
        return str(self.path.parent)

    @property
    def rows(self) -> int:
        """How many rows the file has."""
        return len(self._read()) if self._rows is None else self._rows

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """Does nothing: config.yaml holds them."""

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        row = {"step": step or 0} | {name: float(value) for name, value in metrics.items() if name != "epoch"}
        if self._rows is None or not row.keys() <= set(self._columns):
            rows = self._read()
            if self._rows is None:  # the row of a step is written behind a checkpoint in it
                rows = rows[: self.keep] + [kept for kept in rows[self.keep :] if int(kept["step"]) < row["step"]]
            old_columns = sorted({name for kept in rows for name in kept})
            self._columns = list(dict.fromkeys([*self._columns, *old_columns, *row]))
            self._rows = len(rows)
            self._write(rows)
        with naming(self.path), self.path.open("a", newline="", encoding="utf-8") as file:
            csv.DictWriter(file, self._columns).writerow(row)
        self._rows += 1

    def _read(self) -> list[dict[str, Any]]:
        if not self.path.is_file():
            return []
        with self.path.open(newline="", encoding="utf-8") as file:
            return list(csv.DictReader(file))

    def _write(self, rows: list[dict[str, Any]]) -> None:
        with whole_file(self.path) as part, part.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, self._columns)
            writer.writeheader()
            writer.writerows(rows)


class CountRows(L.Callback):
    """Says in a checkpoint how many rows ``metrics.csv`` had, all of which a resumed run keeps.

    Their steps do not: validations between the batches of a step have one number, before and behind a checkpoint.
    """

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        for logger in _own(trainer):
            checkpoint["rows"] = logger.rows

    def on_load_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        if trainer.state.fn == TrainerFn.FITTING:
            for logger in _own(trainer):
                logger.keep = checkpoint.get("rows", 0)  # those of version 0.4 do not say it


def _own(trainer: L.Trainer) -> list[RunLogger]:
    return [logger for logger in trainer.loggers if isinstance(logger, RunLogger)]


def is_logging_step(trainer: L.Trainer, step: int) -> bool:
    """Whether Lightning logs the step with this number, counted from 0."""
    # set by the Trainer's logger connector, where mypy does not see it
    every: int = trainer.log_every_n_steps  # type: ignore[attr-defined]
    return every > 0 and (step + 1) % every == 0
