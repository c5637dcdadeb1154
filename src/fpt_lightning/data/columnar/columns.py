"""Columns of a table as sequences and targets; every fault is named with the row it stands in."""

import itertools
import re
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, NamedTuple

import numpy as np

from fpt_lightning.data.sequences import is_within
from fpt_lightning.errors import FPTError, UsageError, did_you_mean

Kind = Literal["numbers", "ids", "words", "characters"]
Fault = Callable[[int, str], FPTError]

NUMBER = r"^[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?$"
WHOLE_NUMBER = r"^-?\d{1,18}$"
UNNAMED_INDEX = re.compile(r"|Unnamed: 0(\.\d+)?|__index_level_\d+__")
"""What pandas calls row numbers: in CSV nothing, read from there the second, in Parquet the third."""
UNNAMED = re.compile(r"|Unnamed: \d+(\.\d+)?")
"""What it calls every column whose header was empty: of several that stand first they are levels of an index."""
MEND = "fill it or drop the row"
LARGEST_ID = 2**31 - 2  # in 32 bits there is one more, for tokens that are unknown
LARGEST_NUMBER = float(np.finfo(np.float32).max)


@dataclass(frozen=True)
class TableSource:
    """A table that is not read yet.

    Args:
        name: What errors call it: a file, or a split of a dataset.
        columns: The names of its columns, in order.
        load: Reads the columns of these names: a ``pyarrow.Table``.
        place: Says where a row stands: ``line 7``.
        index: Columns by which a table says that it was indexed.
        classes: The order of class labels, where the table says it.
        optional: A column that may be left out, as errors then say.
    """

    name: str
    columns: Sequence[str]
    load: Callable[[list[str]], Any]
    place: Callable[[int], str]
    index: Sequence[str] = ()
    classes: Sequence[str] | None = None
    optional: str | None = None

    @property
    def numbering(self) -> set[str]:
        """Those of the columns that only number the rows: no input unless they are asked for."""
        levels = itertools.takewhile(UNNAMED.fullmatch, self.columns)
        return {*self.index, *levels, *filter(UNNAMED_INDEX.fullmatch, self.columns)}

    def require(self, columns: Sequence[str]) -> None:
        """Checks that every column is there, once.

        Raises:
            UsageError: If one is not.
        """
        for column in columns:
            if column not in self.columns:
                parted = next((each for each in ";|\t" if len(self.columns) == 1 and each in self.columns[0]), None)
                delimiter = f"; its cells seem to be parted by {parted!r}: set data.delimiter" if parted else None
                raise UsageError(
                    f"{self.name} has no column '{column}'{delimiter or did_you_mean(column, self.columns)}\n"
                    f"Its columns are {textwrap.shorten(', '.join(self.columns), 200)}."
                )
            if list(self.columns).count(column) > 1:
                raise UsageError(f"{self.name} has two columns called '{column}'; rename one")

    def fault(self, column: str, row: int, what: str) -> FPTError:
        way_out = "; rows to predict need no such column: leave it out" if column == self.optional else ""
        return FPTError(f"{self.name}, {self.place(row)}, column '{column}': {what}{way_out}")


class ElementSequences(NamedTuple):
    """The elements of all rows of a table, end to end."""

    values: Any  # ``pyarrow`` array ``[elements of all rows]``: float64, int64 or text
    lengths: np.ndarray  # ``[rows]`` int64

    def row_of(self, element: int) -> int:
        return int(np.searchsorted(self.lengths.cumsum(), element, side="right"))

    def shortened(self, limit: int) -> "ElementSequences":
        import pyarrow as pa

        kept = pa.array(is_within(self.lengths, limit))
        return ElementSequences(self.values.filter(kept), np.minimum(self.lengths, limit))


def read_sequences(source: TableSource, table: Any, columns: Sequence[str], kind: Kind) -> ElementSequences:
    """Reads the sequence of every row: from one column that holds it, or from several that hold an element each.

    Raises:
        FPTError: If a cell is empty or not of that kind.
    """
    if len(columns) > 1:
        return _across(source, table, columns, kind)
    column = columns[0]
    fault = partial(source.fault, column)
    values = _plain(table[column])
    cells = _split(values, kind, fault)
    if cells is None:  # one number or id a row
        return ElementSequences(_elements(values, kind, fault), np.ones(len(values), dtype=np.int64))
    elements = _elements(cells.values, kind, lambda element, what: fault(cells.row_of(element), what))
    return cells._replace(values=elements)


def read_targets(source: TableSource, table: Any, column: str, kind: Kind) -> Any:
    """Reads a column of numbers as float64 ``[rows]``, or one of class labels ("words") as ``pyarrow`` text ``[rows]``.

    Raises:
        FPTError: If a cell is empty or not of that kind.
    """
    values = _elements(table[column], kind, partial(source.fault, column))
    return values.to_numpy(zero_copy_only=False) if kind == "numbers" else values


def is_blank(column: Any) -> bool:
    """Whether no cell of a column holds anything."""
    import pyarrow.compute as pc
    from pyarrow import types

    values = _plain(column)
    empty = pc.is_null(values, nan_is_null=True)
    if types.is_large_string(values.type):
        empty = pc.or_(empty, pc.fill_null(pc.equal(pc.utf8_trim_whitespace(values), ""), True))
    return bool(pc.all(empty).as_py())


def _across(source: TableSource, table: Any, columns: Sequence[str], kind: Kind) -> ElementSequences:
    import pyarrow as pa

    # the columns of rows to predict are those of the training
    mend = MEND if source.optional else "fill it, drop the row, or leave the column out of data.input_columns"
    parts = [_elements(table[column], kind, partial(source.fault, column), mend) for column in columns]
    order = np.arange(len(columns) * table.num_rows).reshape(len(columns), -1).T.ravel()
    lengths = np.full(table.num_rows, len(columns), dtype=np.int64)
    return ElementSequences(pa.concat_arrays(parts).take(order), lengths)


def _split(values: Any, kind: Kind, fault: Fault) -> ElementSequences | None:
    """Cuts cells that hold a whole sequence, as text or as a list, into elements; None where they hold one each."""
    import pyarrow as pa
    import pyarrow.compute as pc
    from pyarrow import types

    if kind == "characters" and types.is_integer(values.type):
        values = values.cast(pa.large_string())  # as they stand in a text file
    if types.is_large_string(values.type):
        values = values if kind == "characters" else pc.utf8_trim_whitespace(values)
        if (empty := _first(pc.fill_null(pc.equal(values, ""), True))) is not None:
            raise fault(empty, f"the sequence is empty: {MEND}")
        lists = (
            pa.array([list(text) for text in values.to_pylist()], pa.large_list(pa.large_string()))
            if kind == "characters"
            else pc.utf8_split_whitespace(values)
        )
    elif types.is_list(values.type) or types.is_large_list(values.type) or types.is_fixed_size_list(values.type):
        lists = values
    else:
        return None
    lengths = pc.fill_null(pc.list_value_length(lists), 0).to_numpy(zero_copy_only=False).astype(np.int64)
    if not lengths.all():
        raise fault(int(lengths.argmin()), f"the sequence is empty: {MEND}")
    return ElementSequences(pc.list_flatten(lists), lengths)


def _elements(values: Any, kind: Kind, fault: Fault, mend: str = MEND) -> Any:
    """Converts an array, element by element, to float64, int64 or text; an empty one is told how to ``mend`` it."""
    import pyarrow as pa
    import pyarrow.compute as pc
    from pyarrow import types

    values = _plain(values)
    if (empty := _first(pc.is_null(values, nan_is_null=True))) is not None:
        raise fault(empty, f"is empty: {mend}")
    text, kinds = types.is_large_string(values.type), (types.is_boolean, types.is_integer, types.is_floating)
    if not (text or types.is_decimal(values.type) or any(is_kind(values.type) for is_kind in kinds)):
        raise fault(0, f"holds {values.type}, neither numbers nor text")
    if text and kind != "characters":
        values = pc.utf8_trim_whitespace(values)
    if text and (empty := _first(pc.equal(values, ""))) is not None:
        raise fault(empty, f"is empty: {mend}")
    if kind in ("words", "characters"):
        return values.cast(pa.large_string())
    wanted, pattern, name = (
        (pa.float64(), NUMBER, "a number") if kind == "numbers" else (pa.int64(), WHOLE_NUMBER, "a whole number")
    )
    try:
        if text and kind == "ids" and _first(pc.match_substring(values, "x", ignore_case=True)) is not None:
            raise pa.ArrowInvalid  # it would read 0x10 as 16
        # a whole number beyond 2**53 becomes the nearest double, as one in a text file does
        numbers = values.cast(wanted, safe=text or kind == "ids")
    except pa.ArrowInvalid:
        values = values.cast(pa.large_string())
        wrong = _first(pc.invert(pc.match_substring_regex(values, pattern)))
        if wrong is None:
            raise
        raise fault(wrong, f"{_quoted(values[wrong])} is not {name}") from None
    if kind == "numbers" and (wrong := _first(pc.invert(pc.less_equal(pc.abs(numbers), LARGEST_NUMBER)))) is not None:
        what = f"is not a finite number of single precision, which ends at {LARGEST_NUMBER:.2g}"
        raise fault(wrong, f"{_quoted(values[wrong])} {what}")
    if kind == "ids" and (wrong := _first(pc.or_(pc.less(numbers, 0), pc.greater(numbers, LARGEST_ID)))) is not None:
        raise fault(wrong, f"{_quoted(values[wrong])} is no token id: these go from 0 to {LARGEST_ID}")
    return numbers


def _plain(column: Any) -> Any:
    """One array of one kind of text, without chunks and without a dictionary of categories."""
    import pyarrow as pa
    from pyarrow import types

    if isinstance(column, pa.ChunkedArray):
        if types.is_string(column.type):
            column = column.cast(pa.large_string())  # before joining chunks: text beyond 2 GB fits no other type
        column = column.combine_chunks()
    if types.is_dictionary(column.type):
        column = column.dictionary_decode()
    is_text = types.is_string(column.type) or types.is_string_view(column.type)
    return column.cast(pa.large_string()) if is_text else column


def _first(mask: Any) -> int | None:
    """The index of the first true value."""
    import pyarrow.compute as pc

    place: int = pc.index(mask, True).as_py()
    return None if place < 0 else place


def _quoted(value: Any) -> str:
    text = str(value)
    return f"'{text}'" if len(text) <= 40 else f"'{text[:37]}...'"
