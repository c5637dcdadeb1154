"""``predictions.csv``: what a model answers, a row an example."""

import csv
from collections.abc import Sequence
from contextlib import ExitStack
from itertools import zip_longest
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from lightning.pytorch import callbacks
from lightning.pytorch.utilities import rank_zero_info

from fpt_lightning.data.spec import Batch, Prediction, TaskSpec
from fpt_lightning.errors import UsageError
from fpt_lightning.files import whole_file
from fpt_lightning.training.metrics import NONE

# names of files need not be UTF-8
TEXT: dict[str, Any] = {"newline": "", "encoding": "utf-8", "errors": "surrogateescape"}


class PredictionWriter(callbacks.BasePredictionWriter):
    """Writes the answers of ``fpt predict`` to a CSV file, a row an example, several answers separated by spaces.

    ``example`` is its number in the data, counted from 0, or the path of its file; ``prediction`` the class by its
    name, or the number in the data's units; ``probability`` that of the class, both empty where the model's logits are
    not finite; ``target`` is there where the data has it.

    Args:
        path: The file, by default ``predictions.csv`` in the folder of the run whose checkpoint answers, and here where
            there is none. What is there stays until all answers are. Processes that see no common file system leave a
            file each, the rank behind the name.
    """

    def __init__(self, path: str | None = None) -> None:
        super().__init__(write_interval="batch")
        self.asked = path
        self.path = Path(path or "predictions.csv")
        self._rows = self._lost = 0
        self._file: Any = None
        self._open = ExitStack()

    def on_predict_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        checkpoint = Path(trainer.ckpt_path or "")
        self.path = Path(self.asked or "predictions.csv")
        if self.asked is None and checkpoint.parent.name == "checkpoints":
            self.path = checkpoint.parent.parent / self.path.name
        if self.path.is_dir():  # else it is met when all answers are there, and they are lost
            raise UsageError(f"--predictions.path {self.path} is a folder: name the file")
        self._rows = self._lost = 0
        part = self._open.enter_context(whole_file(self._own(trainer.global_rank, trainer.world_size)))
        self._file = self._open.enter_context(part.open("w", **TEXT))

    def write_on_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        prediction: Prediction | torch.Tensor,
        batch_indices: Sequence[int] | None,
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int,
    ) -> None:
        answer, probability = prediction if isinstance(prediction, Prediction) else (prediction, None)
        dataset = getattr(trainer.predict_dataloaders, "dataset", None)
        examples, names = getattr(dataset, "names", None), _class_names(trainer, pl_module)
        indices = batch_indices or range(self._rows, self._rows + len(answer))
        columns = {
            "example": [index if examples is None else examples[index] for index in indices],
            "prediction": _words(answer, names, getattr(pl_module, "task", None)),
            "probability": None if probability is None else _words(probability),
            "target": _words(batch[1], names) if batch[1].numel() else None,
        }
        written = {name: column for name, column in columns.items() if column is not None}
        writer = csv.writer(self._file)
        if not self._rows:
            writer.writerow(written)
        writer.writerows(zip(*written.values(), strict=True))
        self._rows += len(answer)
        if probability is not None:
            self._lost += int((answer == NONE).sum())

    def on_predict_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._open.close()
        trainer.strategy.barrier()
        parts = [self._own(rank, trainer.world_size) for rank in range(trainer.world_size)]
        if len(parts) > 1 and trainer.is_global_zero and all(part.is_file() for part in parts):
            _join(parts, self.path)
        there = self.path if self.path.is_file() else ", ".join(map(str, parts))
        lost = torch.tensor(self._lost)
        if len(parts) > 1:
            lost = trainer.strategy.reduce(lost.to(trainer.strategy.root_device), reduce_op="sum")
        empty = f", {int(lost):,} of them empty because the logits are not finite" if lost else ""
        rank_zero_info(f"predictions: {there}{empty}")

    def _own(self, rank: int, processes: int) -> Path:
        return self.path.with_stem(f"{self.path.stem}-{rank}") if processes > 1 else self.path

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Leaves the file that was there."""
        self._open.__exit__(type(exception), exception, exception.__traceback__)


def _join(parts: Sequence[Path], path: Path) -> None:
    """Puts the rows of all processes into one file and takes theirs away; they have had every so many-th example."""
    with ExitStack() as files:
        opened = [files.enter_context(part.open(**TEXT)) for part in parts]
        out = files.enter_context(files.enter_context(whole_file(path)).open("w", **TEXT))
        readers, writer = [csv.reader(file) for file in opened], csv.writer(out)
        headers = [next(reader, []) for reader in readers]
        writer.writerow(headers[0])
        writer.writerows(row for rows in zip_longest(*readers) for row in rows if row is not None)
    for part in parts:
        part.unlink()


def _class_names(trainer: L.Trainer, module: L.LightningModule) -> Sequence[str] | None:
    """Those that the model was trained with; those of the data where it was not."""
    datamodule = trainer.datamodule  # type: ignore[attr-defined]  # None where loaders are passed instead
    of_data: Sequence[str] | None = getattr(datamodule, "class_names", None)
    learnt: Sequence[str] | None = getattr(module, "encoding", {}).get("class_names")
    return learnt or of_data


def _words(values: torch.Tensor, names: Sequence[str] | None = None, answers: TaskSpec | None = None) -> list[str]:
    """The values ``[batch, answers]`` of every example in a line; answers to a task in the digits that they are."""

    def word(value: Any) -> str:
        if value == NONE if value.dtype == np.int64 else answers is None and value != value:
            return ""
        if names is not None:
            return names[value]
        # numpy's numbers know their precision: 0.3 is written where Python would write 0.30000001192092896
        return str(value) if answers is None or value.dtype != np.float64 else _in_few_digits(value, answers)

    return [" ".join(map(word, row)) for row in values.cpu().numpy()]


def _in_few_digits(number: float, task: TaskSpec) -> str:
    """As few digits as make the same answer in standard units, where a model answers in single precision."""
    shorter = [float(f"{number:.{digits}g}") for digits in range(1, 18)]
    standard = task.in_standard_units(torch.tensor(shorter, dtype=torch.float64))
    return str(shorter[int((standard == standard[-1]).int().argmax())])
