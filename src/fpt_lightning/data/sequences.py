"""Sequences of different lengths, held in memory end to end and padded a batch at a time."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence

from fpt_lightning.data.loading import BatchDataset
from fpt_lightning.data.spec import Batch, TaskSpec
from fpt_lightning.errors import UsageError


class LabelledSequences(NamedTuple):
    """Sequences end to end, and what each is labelled with.

    Attributes:
        values: ``[tokens of all sequences]`` ids of any integer type, or ``[tokens of all sequences, token_width]``
            float64.
        lengths: ``[sequences]`` integers, the tokens of each; none is empty.
        targets: ``[sequences]``, integer classes or float64 numbers.
    """

    values: np.ndarray
    lengths: np.ndarray
    targets: np.ndarray

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, torch.Tensor], prefix: str = "") -> "LabelledSequences":
        return cls(*(tensors[prefix + name].numpy() for name in cls._fields))

    def as_tensors(self, prefix: str = "") -> dict[str, torch.Tensor]:
        return {prefix + name: torch.from_numpy(array) for name, array in self._asdict().items()}

    @property
    def starts(self) -> np.ndarray:
        """``[sequences]``, the place of each one's first token."""
        return self.lengths.cumsum() - self.lengths

    def take(self, rows: np.ndarray) -> "LabelledSequences":
        """The sequences of these rows, in that order."""
        lengths = self.lengths[rows]
        shifts = self.starts[rows] - (lengths.cumsum() - lengths)
        return LabelledSequences(
            self.values[np.repeat(shifts, lengths) + np.arange(lengths.sum())], lengths, self.targets[rows]
        )

    def truncated(self, limit: int) -> "LabelledSequences":
        """Without what lies behind the first ``limit`` tokens of each."""
        if self.lengths.max() <= limit:
            return self
        values = self.values[is_within(self.lengths, limit)]
        return self._replace(values=values, lengths=np.minimum(self.lengths, limit))

    def table(self, *, masked: bool = True) -> "SequenceTable":
        """A dataset of them with targets ``[examples, 1]``; the numbers of tokens become single precision."""
        values = self.values.astype(np.float32) if self.values.dtype == np.float64 else self.values
        lengths, targets = torch.from_numpy(self.lengths).long(), torch.tensor(self.targets)
        return SequenceTable(torch.from_numpy(values), lengths, targets[:, None], masked=masked)


def is_within(lengths: np.ndarray, limit: int) -> np.ndarray:
    """Which tokens of sequences end to end are among the first ``limit`` of theirs.

    Args:
        lengths: ``[sequences]``, all above 0.
        limit: At least 1.

    Returns:
        ``[tokens of all sequences]`` bool.
    """
    ends = lengths.cumsum()
    starts = ends - lengths
    # a token inside counts 1: steps up where a sequence begins, down behind its last, in a byte a token
    steps = np.zeros(int(ends[-1]) + 1, dtype=np.int8)
    steps[starts] = 1
    steps[starts + np.minimum(lengths, limit)] -= 1
    return steps[:-1].cumsum(dtype=np.int8).view(bool)


class SequenceTable(BatchDataset):
    """Sequences end to end in one tensor; a batch is padded with zeros to its longest.

    Args:
        values: Those of :class:`LabelledSequences`, in single precision.
        lengths: ``[examples]`` int64, the tokens of each.
        targets: ``[examples, answers]``, classes or float64 numbers.
        masked: Whether batches say what is padding; otherwise it is read like any token.
    """

    lengths: torch.Tensor
    targets: torch.Tensor

    def __init__(
        self, values: torch.Tensor, lengths: torch.Tensor, targets: torch.Tensor, *, masked: bool = True
    ) -> None:
        self.values = values
        self.masked = masked
        self.lengths = lengths
        self.targets = targets if targets.is_floating_point() else targets.long()
        self.starts = lengths.cumsum(0) - lengths

    def __len__(self) -> int:
        return len(self.lengths)

    def check(self, task: TaskSpec, split: str) -> None:
        """Refuses what a model cannot read, or would answer at a token that is none of the sequence.

        Raises:
            UsageError: If lengths, tokens or targets are not what the task promises.
        """
        name, width = f"{task.name}, {split}:", [] if task.token_width is None else [task.token_width]
        if len(self):
            _expect(f"{name} lengths", self.lengths, [len(self)], task.answer_tokens, task.max_length + 1)
            _expect(f"{name} tokens", self.values, [int(self.lengths.sum()), *width], 0, task.vocabulary_size)
            _expect(f"{name} targets", self.targets, [len(self), task.answers], 0, task.classes)

    def __getitems__(self, indices: Sequence[int]) -> Batch:
        chosen = torch.as_tensor(indices)
        lengths = self.lengths[chosen]
        rows = [
            self.values[start : start + length]
            for start, length in zip(self.starts[chosen].tolist(), lengths.tolist(), strict=True)
        ]
        tokens = pad_sequence(rows, batch_first=True)  # [batch, longest] or [batch, longest, token_width]
        mask = torch.arange(tokens.size(1)) < lengths[:, None]  # [batch, longest]
        return Batch(
            tokens=tokens if tokens.is_floating_point() else tokens.long(),
            target=self.targets[chosen],
            mask=mask if self.masked and not mask.all() else None,
        )


def _expect(what: str, tensor: torch.Tensor, shape: list[int], least: int, end: int | None) -> None:
    """Refuses a tensor of another shape, or, where there is an end, of others than whole numbers from least to it."""
    kind = "floating-point" if end is None else "whole"
    if list(tensor.shape) != shape or tensor.is_floating_point() != (end is None):
        raise UsageError(f"{what} should be {kind} numbers {shape}, got {tensor.dtype} {list(tensor.shape)}")
    if end is not None and not (least <= (low := int(tensor.min())) and int(tensor.max()) < end):
        raise UsageError(f"{what} should lie between {least} and {end - 1}, got {low} to {int(tensor.max())}")
