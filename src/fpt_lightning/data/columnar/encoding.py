"""From the columns of a table to ids and numbers: the training table decides what every token and class is called."""

import hashlib
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from fpt_lightning.data.columnar.classes import is_number
from fpt_lightning.data.columnar.columns import ElementSequences, Kind, TableSource
from fpt_lightning.data.datamodule import Split
from fpt_lightning.data.sequences import LabelledSequences, SequenceTable
from fpt_lightning.data.spec import TaskSpec
from fpt_lightning.errors import FPTError

MISSING = frozenset({"nan", "na", "n/a", "<na>", "null", "none"})
LONGEST_NUMBER = 600  # characters; Python may be told to read no more than 640 digits


@dataclass(frozen=True)
class Columns:
    """What was read of a table.

    Targets are ``pyarrow`` text ``[rows]`` of class labels, float64 ``[rows]``, or None where nobody knows them.
    """

    source: TableSource
    inputs: Sequence[str]
    target: str
    sequences: ElementSequences
    targets: Any
    shortened: int  # rows whose sequence was cut

    def fault(self, element: int, what: str) -> FPTError:
        row = self.sequences.row_of(element)
        first = int(self.sequences.lengths[:row].sum())
        column = self.inputs[element - first] if len(self.inputs) > 1 else self.inputs[0]
        return self.source.fault(column, row, what)


@dataclass(frozen=True)
class Codes:
    """The ids of tokens and classes.

    Args:
        words: ``pyarrow`` text, the word of every id; None where tokens are numbers or ids already.
        vocabulary_size: Ids, that of unknown tokens included; None where tokens are numbers.
        classes: ``pyarrow`` text, the label of every class; None where targets are numbers.
        unknown: Whether the last id stands for tokens that training never had.
    """

    words: Any
    vocabulary_size: int | None
    classes: Any
    unknown: bool

    @classmethod
    def of(cls, train: Columns, kind: Kind, *, unknown: bool) -> "Codes":
        """Takes tokens and classes from a training table: in sorted order, classes in the table's where it has one.

        Raises:
            FPTError: If there is only one class, or one among numbers is called as a missing number is.
        """
        import pyarrow as pa
        import pyarrow.compute as pc

        words, size, classes = None, None, None
        if kind in ("words", "characters"):
            words = pa.array(sorted(pc.unique(train.sequences.values).to_pylist()), pa.large_string())
            size = len(words) + unknown
        elif kind == "ids":
            size = pc.max(train.sequences.values).as_py() + 1 + unknown
        if not isinstance(train.targets, np.ndarray):
            labels, order = set(pc.unique(train.targets).to_pylist()), train.source.classes
            _expect_answers(train, labels)
            in_order = _sorted_labels(labels) if order is None else [label for label in order if label in labels]
            classes = pa.array(in_order, pa.large_string())
            if len(classes) < 2:
                raise FPTError(
                    f"{train.source.name}, column '{train.target}': every row is of class '{classes[0]}', "
                    "so there is nothing to learn"
                )
        return cls(words, size, classes, unknown)

    @classmethod
    def from_plain(cls, saved: Mapping[str, Any]) -> "Codes":
        """Those that :meth:`as_plain` gave, with the ``class_names``, which are no part of it."""
        import pyarrow as pa

        texts = (saved["words"], saved.get("class_names"))
        words, classes = (None if known is None else pa.array(known, pa.large_string()) for known in texts)
        return cls(words, saved["vocabulary_size"], classes, saved["unknown"])

    def as_plain(self) -> dict[str, Any]:
        """The codes of tokens as values that a checkpoint can hold."""
        words = None if self.words is None else self.words.to_pylist()
        return {"words": words, "vocabulary_size": self.vocabulary_size, "unknown": self.unknown}

    def encode(self, columns: Columns, token_width: int) -> LabelledSequences:
        """Looks every token and class up.

        Raises:
            FPTError: If the training table does not have one, naming its place.
        """
        values, lengths = columns.sequences
        if columns.targets is None:
            targets = np.zeros(len(lengths), dtype=np.int64)
        else:
            targets = columns.targets if self.classes is None else self._classes(columns)
        if self.vocabulary_size is not None:
            return LabelledSequences(self._ids(columns, self.vocabulary_size), lengths, targets)
        numbers = values.to_numpy(zero_copy_only=False).reshape(-1, token_width)
        return LabelledSequences(numbers, lengths // token_width, targets)

    def _ids(self, columns: Columns, size: int) -> np.ndarray:
        elements = columns.sequences.values
        ids = _to_numpy(elements if self.words is None else _places(elements, self.words), np.int32)
        known = size - self.unknown
        missing = (ids < 0) | (ids >= known)
        if self.unknown:
            return np.where(missing, np.int32(known), ids)
        if missing.any():
            first = int(missing.argmax())
            what = f"the training table has no token '{elements[first]}'"
            raise columns.fault(
                first, f"{what}; a training with data.unknown true gives such tokens an id of their own"
            )
        return ids

    def _classes(self, columns: Columns) -> np.ndarray:
        classes = _to_numpy(_places(columns.targets, self.classes), np.int64)
        if (classes < 0).any():
            row = int((classes < 0).argmax())
            what = f"the training table has no class '{columns.targets[row]}'"
            raise columns.source.fault(columns.target, row, what)
        return classes


class Units(NamedTuple):
    """What numbers are measured in: ``[positions, token_width]`` mean and standard deviation.

    Every position of a sequence has units of its own; there is one position where all are alike.
    """

    mean: np.ndarray
    std: np.ndarray

    @classmethod
    def of(cls, train: LabelledSequences, positions: int) -> "Units":
        """Those of the training split."""
        features = train.values.reshape(-1, positions, train.values.shape[1])
        mean, std = features.mean(axis=0), features.std(axis=0)
        # a constant's deviation need not be 0 when it is computed, nor that of tiny numbers above 0
        std[(features == features[0]).all(axis=0) | (std == 0)] = 1.0
        return cls(mean, std)

    @classmethod
    def from_plain(cls, saved: Sequence[Any] | None) -> "Units | None":
        """Those of lists of numbers; None where there are none."""
        return None if saved is None else cls(*(np.array(part) for part in saved))

    def standardized(self, part: LabelledSequences) -> LabelledSequences:
        """Sequences in these units; where every position has its own, all may have lost the same end of them."""
        mean, std = (each[: int(part.lengths[0])] for each in self)
        values = (part.values.reshape(-1, *mean.shape) - mean) / std
        return part._replace(values=values.reshape(part.values.shape))


class Content(NamedTuple):
    """Everything that the tables of a task hold."""

    task: TaskSpec
    codes: Codes
    units: Units | None  # where numbers are standardized
    splits: dict[Split, SequenceTable]
    shortened: int  # sequences that lost their end to ``limit``
    facts: dict[str, Any]


def digest(examples: LabelledSequences) -> str:
    """A hash of sequences and targets."""
    digest = hashlib.sha256()
    for array in examples:
        digest.update(f"{array.dtype} {array.shape}\n".encode() + array.tobytes())
    return digest.hexdigest()


def mean_and_std(numbers: np.ndarray) -> tuple[float, float]:
    """Mean and standard deviation, summed exactly: the same on every machine, and so are fingerprints."""
    mean = math.fsum(numbers) / len(numbers)
    return mean, math.sqrt(math.fsum((numbers - mean) ** 2) / len(numbers))


def _places(words: Any, known: Any) -> Any:
    """Where words stand among known ones; -1 where they do not."""
    import pyarrow.compute as pc

    return pc.fill_null(pc.index_in(words, value_set=known), -1)


def _to_numpy(values: Any, dtype: type[np.generic]) -> np.ndarray:
    return np.asarray(values.to_numpy(zero_copy_only=False).astype(dtype))


def _expect_answers(train: Columns, labels: Collection[str]) -> None:
    """Refuses what programs write for a missing number where all other labels are numbers."""
    import pyarrow.compute as pc

    missing = [label for label in sorted(labels) if label.casefold() in MISSING]
    if missing and len(labels) > len(missing) and all(is_number(label) for label in set(labels).difference(missing)):
        row = pc.index(train.targets, missing[0]).as_py()
        way_out = "fill it, drop the row, or call the class otherwise"
        raise train.source.fault(train.target, row, f"{missing[0]!r} among numbers is a missing answer: {way_out}")


def _sorted_labels(labels: Collection[str]) -> list[str]:
    """As numbers where all are whole numbers, so that 10 comes behind 9."""
    numeric = all(label.removeprefix("-").isdecimal() and len(label) <= LONGEST_NUMBER for label in labels)
    return sorted(labels, key=lambda label: (int(label), label)) if numeric else sorted(labels)
