"""From the columns of a table to ids and numbers: the training table decides what every token and class is called."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fpt_lightning.data.columnar.columns import Kind, Sequences, TableSource
from fpt_lightning.data.sequences import LabelledSequences
from fpt_lightning.errors import FPTError


@dataclass(frozen=True)
class Columns:
    """What was read of a table.

    Attributes:
        source: Where it was read.
        inputs: The input columns.
        target: The target column.
        sequences: The sequence of every row.
        targets: ``pyarrow`` text ``[rows]`` of class labels, or float64 ``[rows]`` numbers.
        shortened: Rows whose sequence was cut.
    """

    source: TableSource
    inputs: Sequence[str]
    target: str
    sequences: Sequences
    targets: Any
    shortened: int

    def fault(self, element: int, what: str) -> FPTError:
        """The error that names the place of an element."""
        row = self.sequences.row_of(element)
        first = int(self.sequences.lengths[:row].sum())
        column = self.inputs[element - first] if len(self.inputs) > 1 else self.inputs[0]
        return self.source.fault(row, column, what)


@dataclass(frozen=True)
class Codes:
    """The ids of tokens and classes.

    Args:
        kind: What an element of a sequence is.
        token_width: Numbers in a token.
        vocabulary: ``pyarrow`` text, the word of every id; None where tokens are numbers or ids already.
        vocabulary_size: Ids, that of unknown tokens included; None for numbers.
        classes: ``pyarrow`` text, the label of every class; None where targets are numbers.
        unknown: Whether the last id stands for tokens that training never had.
    """

    kind: Kind
    token_width: int
    vocabulary: Any
    vocabulary_size: int | None
    classes: Any
    unknown: bool

    @classmethod
    def of(cls, train: Columns, kind: Kind, token_width: int, *, unknown: bool) -> "Codes":
        """Takes tokens and classes from a training table, in sorted order.

        Raises:
            FPTError: If there is only one class.
        """
        import pyarrow as pa
        import pyarrow.compute as pc

        vocabulary, size = None, None
        if kind in ("words", "characters"):
            vocabulary = pa.array(sorted(pc.unique(train.sequences.values).to_pylist()), pa.large_string())
            size = len(vocabulary) + unknown
        elif kind == "ids":
            size = pc.max(train.sequences.values).as_py() + 1 + unknown
        classes = None
        if not isinstance(train.targets, np.ndarray):
            classes = pa.array(_sorted_labels(pc.unique(train.targets).to_pylist()), pa.large_string())
            if len(classes) < 2:
                raise FPTError(
                    f"{train.source.name}, column '{train.target}': every row is of class '{classes[0]}', "
                    "so there is nothing to learn"
                )
        return cls(kind, token_width, vocabulary, size, classes, unknown)

    def encode(self, columns: Columns) -> LabelledSequences:
        """Looks every token and class up.

        Raises:
            FPTError: If the training table does not have one, naming its place.
        """
        values, lengths = self._values(columns), columns.sequences.lengths
        if self.kind == "numbers":
            values, lengths = values.reshape(-1, self.token_width), lengths // self.token_width
        return LabelledSequences(values, lengths, self._targets(columns))

    def _values(self, columns: Columns) -> np.ndarray:
        import pyarrow.compute as pc

        values = columns.sequences.values
        if self.kind == "numbers":
            return np.asarray(values.to_numpy(zero_copy_only=False))
        if self.vocabulary is not None:
            values = pc.fill_null(pc.index_in(values, value_set=self.vocabulary), -1)
        ids = values.to_numpy(zero_copy_only=False).astype(np.int32)
        assert self.vocabulary_size is not None
        known = self.vocabulary_size - self.unknown
        missing = (ids < 0) | (ids >= known)
        if self.unknown:
            return np.where(missing, np.int32(known), ids)
        if missing.any():
            token = columns.sequences.values[int(missing.argmax())]
            raise columns.fault(
                int(missing.argmax()),
                f"the training table has no token '{token}'; data.unknown true gives such tokens an id of their own",
            )
        return ids

    def _targets(self, columns: Columns) -> np.ndarray:
        import pyarrow.compute as pc

        if self.classes is None:
            return columns.targets
        classes = pc.fill_null(pc.index_in(columns.targets, value_set=self.classes), -1)
        found = classes.to_numpy(zero_copy_only=False).astype(np.int64)
        if (found < 0).any():
            row = int((found < 0).argmax())
            raise columns.source.fault(row, columns.target, f"the training table has no class '{columns.targets[row]}'")
        return found


@dataclass(frozen=True)
class Scale:
    """Mean and standard deviation of every feature: ``[positions, token_width]``, 1 for the deviation of constants."""

    mean: np.ndarray
    std: np.ndarray

    @classmethod
    def of(cls, examples: LabelledSequences, positions: int) -> "Scale":
        """Measures examples; each of ``positions`` tokens by itself where that is above 1, all alike otherwise."""
        features = examples.values.reshape(-1, positions, examples.values.shape[1])
        constant = (features == features[0]).all(axis=0)  # whose deviation need not be 0 when it is computed
        return cls(features.mean(axis=0), np.where(constant, 1.0, features.std(axis=0)))

    def apply(self, examples: LabelledSequences) -> LabelledSequences:
        """The examples in standard units."""
        features = examples.values.reshape(-1, *self.mean.shape)
        return examples._replace(values=((features - self.mean) / self.std).reshape(examples.values.shape))


def mean_and_std(numbers: np.ndarray) -> tuple[float, float]:
    """Mean and standard deviation, summed exactly: the same on every machine, and so are fingerprints."""
    mean = math.fsum(numbers) / len(numbers)
    return mean, math.sqrt(math.fsum((numbers - mean) ** 2) / len(numbers))


def _sorted_labels(labels: list[str]) -> list[str]:
    """As numbers where all are whole numbers, so that 10 comes behind 9."""
    numeric = all(label.removeprefix("-").isdecimal() for label in labels)
    return sorted(labels, key=lambda label: (int(label), label)) if numeric else sorted(labels)
