"""Tasks from CSV, TSV and Parquet files; what is wrong with one is said with the line it stands in."""

import csv
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from fpt_lightning.data.columnar.columns import TableSource
from fpt_lightning.data.columnar.datamodule import TableTask
from fpt_lightning.data.datamodule import Split
from fpt_lightning.errors import FPTError, UsageError, did_you_mean, not_utf8

DELIMITERS = {".csv": ",", ".tsv": "\t"}
PARQUET = ".parquet"
SWALLOWED = 5  # lines of a cell that all look like rows: less may be chance in a text of many lines
BLOCK = 1 << 26  # bytes that pyarrow parses at a time; no row may be longer


class SequenceFile(TableTask):
    """A task in CSV, TSV or Parquet files (``pip install "fpt-lightning[tables]"``).

    Args:
        target_column: See :class:`TableTask`, which reads the columns.
        train_file: The training table, ``.csv``, ``.tsv`` or ``.parquet``, in ``root`` or as an absolute path; text in
            UTF-8, the first line names the columns.
        validation_file: The validation table; cut from the training table where it is left out.
        test_file: The test table, likewise.
        delimiter: What separates cells; a comma by default, a tab in ``.tsv``.
        predict_file: A table of new rows for ``fpt predict``, with the training table's input columns and perhaps the
            target; they are read as the training table was.
        kwargs: Those of :class:`TableTask`.
    """

    def __init__(
        self,
        target_column: str,
        train_file: str = "train.csv",
        validation_file: str | None = None,
        test_file: str | None = None,
        delimiter: str | None = None,
        predict_file: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(target_column, **kwargs)
        self.train_file = train_file
        self.files: dict[Split, str | None] = {"train": train_file, "validation": validation_file, "test": test_file}
        self.delimiter = delimiter
        self.predict_file = predict_file

    @property
    def default_name(self) -> str:
        return Path(self.train_file).stem

    def source(self, split: Split) -> TableSource | None:
        return self._open(self.files[split])

    def new_source(self) -> TableSource | None:
        return self._open(self.predict_file)

    def _open(self, file: str | None) -> TableSource | None:
        return None if file is None else open_table(Path(self.root) / file, self.delimiter)


def open_table(path: Path, delimiter: str | None = None) -> TableSource:
    """Opens a ``.csv``, ``.tsv`` or ``.parquet`` file.

    Raises:
        UsageError: If the ending of the name is of another format.
        FPTError: If there is no such file, or it is not what it is called.
    """
    suffix = path.suffix.lower()
    if suffix not in (*DELIMITERS, PARQUET):
        endings = [*DELIMITERS, PARQUET]
        way_out = did_you_mean(suffix, endings)
        if suffix in (".json", ".jsonl"):
            way_out = "; hub_dataset.yaml reads the folder of this one"
        raise UsageError(f"{path}: a table is a file in {', '.join(endings)}{way_out}")
    if not path.is_file():
        raise FPTError(
            f"there is no file {path}: data.root is the folder, data.train_file and the like the names in it"
        )
    if path.stat().st_size == 0:
        raise FPTError(f"{path} is empty")
    return _open_parquet(path) if suffix == PARQUET else _open_text(path, delimiter or DELIMITERS[suffix])


def _open_parquet(path: Path) -> TableSource:
    from pyarrow import parquet

    def load(columns: list[str]) -> Any:
        with _parquet_faults_named(path):
            return parquet.read_table(path, columns=columns)

    with _parquet_faults_named(path):
        schema = parquet.read_schema(path)
    described = (schema.pandas_metadata or {}).get("index_columns", [])
    index = [name for name in described if isinstance(name, str)]  # a range has no column
    return TableSource(str(path), schema.names, load, lambda row: f"row {row} counted from 0", index)


@contextmanager
def _parquet_faults_named(path: Path) -> Iterator[None]:
    import pyarrow as pa

    try:
        yield
    except (pa.ArrowException, OSError) as error:
        reason = str(error).partition(".")[0]
        raise FPTError(f"{path} is not a Parquet file, or not whole ({reason})") from error


def _open_text(path: Path, delimiter: str) -> TableSource:
    if len(delimiter) != 1 or not delimiter.isascii() or delimiter in '"\r\n\0':
        raise UsageError(
            f"data.delimiter is one character of ASCII, and no quote, line break or zero, got {delimiter!r}"
        )
    _, header = next(_rows(path, delimiter), (1, []))
    if any("\udc80" <= character <= "\udcff" for name in header for character in name):
        _check_utf8(path)

    def load(columns: list[str]) -> Any:
        import pyarrow as pa
        from pyarrow import csv as arrow_csv

        if _holds_quotes(path):
            _check_quotes(path, delimiter)
        try:
            return arrow_csv.read_csv(
                path,
                read_options=arrow_csv.ReadOptions(block_size=BLOCK),
                parse_options=arrow_csv.ParseOptions(delimiter=delimiter, newlines_in_values=True),
                # all as text, so that a wrong number is named as it stands in the file
                convert_options=arrow_csv.ConvertOptions(
                    include_columns=columns, column_types=dict.fromkeys(columns, pa.large_string())
                ),
            )
        except pa.ArrowInvalid as error:
            _check_utf8(path)
            _check_width(path, delimiter)
            raise FPTError(f"{path} cannot be read: {error}") from error

    return TableSource(str(path), header, load, lambda row: f"line {_line(path, delimiter, row)}")


def _holds_quotes(path: Path) -> bool:
    with path.open("rb") as file:
        return any(b'"' in block for block in iter(partial(file.read, BLOCK), b""))


def _check_utf8(path: Path) -> None:
    content = path.read_bytes()
    try:
        content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise not_utf8(path, content, error.start) from error


def _check_width(path: Path, delimiter: str) -> None:
    rows = _rows(path, delimiter)
    _, header = next(rows)
    for line, cells in rows:
        if len(cells) != len(header):
            raise FPTError(
                f"{path}, line {line} has {len(cells)} cells where the first line names {len(header)} columns"
            )


def _line(path: Path, delimiter: str, row: int) -> int:
    """The line on which a row begins: cells may hold line breaks, so it must be counted."""
    return next(islice(_rows(path, delimiter), row + 1, None))[0]  # behind the header


def _check_quotes(path: Path, delimiter: str) -> None:
    """Refuses a cell that swallows rows because its quote was never meant to open, or is not closed."""
    rows = _rows(path, delimiter)
    _, header = next(rows)
    for line, cells in rows:
        for cell in cells:
            within = cell.splitlines()[1:-1]
            if len(within) >= SWALLOWED and all(
                len(row) == len(header) for row in csv.reader(within, delimiter=delimiter)
            ):
                raise FPTError(
                    f"{path}, line {line}: a quote opens here and closes {len(within) + 1:,} lines below, and those "
                    f"between have {len(header)} cells each, like rows; mend the quote, or save the table as Parquet"
                )


def _rows(path: Path, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """The rows of a text file that are not blank, each with the line it begins on, read as Python reads CSV.

    Raises:
        FPTError: If a quote is not closed, or something stands behind the one that closes.
    """
    limit = csv.field_size_limit(2**31 - 1)  # by default no cell may be longer than 128 KiB
    try:
        with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
            reader, line = csv.reader(file, delimiter=delimiter, strict=True), 1
            for cells in reader:
                if cells:
                    yield line, cells
                line = reader.line_num + 1
    except csv.Error as error:
        raise FPTError(f"{path}, line {line}: the quotes of the row that begins here do not match ({error})") from error
    finally:
        csv.field_size_limit(limit)
