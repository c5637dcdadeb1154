"""Tables that are wrong: one clear error that names the file, the place in it and the cause."""

import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet

from conftest import Fpt
from fpt_lightning.data.columnar.hub import HubDataset
from fpt_lightning.data.columnar.sequence_file import SequenceFile
from fpt_lightning.errors import FPTError

GOOD = b"x,label\n1,a\n2,b\n3,a\n"


@pytest.fixture
def error(fpt: Fpt, capsys: pytest.CaptureFixture[str]) -> Any:
    """What `fpt prepare` says of a table, with options of the data."""

    def call(*options: str) -> str:
        words = ["--data=SequenceFile", "--data.target_column=label", *[f"--data.{option}" for option in options]]
        assert fpt("prepare", *words) in (1, 2)
        message = capsys.readouterr().err
        assert "Traceback" not in message
        message = message[message.index("fpt: error: ") :].strip()
        assert message.count("\n") <= 1, message
        assert len(message) < 500, message
        return message

    return call


CSV = {
    "an empty file": (b"", "", "train.csv is empty"),
    "a quote that is not closed": (
        b'x,label\n1,a\n2,"b\n' + b"3,a\n" * 300,
        "",
        "train.csv, line 3: the quotes of the row that begins here do not match",
    ),
    "a quote that another row closes": (
        b'x,label\n1,a\n2,"b\n' + b"3,a\n" * 100 + b'4,b"\n5,a\n',
        "",
        "train.csv, line 3: a quote opens here and closes 101 lines below",
    ),
    "text behind a quote": (
        b'x,label\n1,"a"b\n2,b\n',
        "",
        "line 2: the quotes of the row that begins here do not match",
    ),
    "a header alone": (b"x,label\n", "", "train.csv has no rows"),
    "semicolons": (
        b"x;label\n1;a\n",
        "",
        "train.csv has no column 'label'; its cells seem to be parted by ';': set data.delimiter",
    ),
    "a missing column": (b"x,lable\n1,a\n", "", "train.csv has no column 'label'; did you mean 'lable'?"),
    "a column twice": (b"x,x,label\n1,1,a\n", "input_columns=x", "train.csv has two columns called 'x'"),
    "a target alone": (b"label\na\nb\n", "", "there is no input column beside the target"),
    "an empty cell": (b"x,label\n1,a\n,b\n", "", "line 3, column 'x': the sequence is empty: fill it or drop the row"),
    "a blank sequence": (b"x,label\n1,a\n  ,b\n", "kind=words", "line 3, column 'x': the sequence is empty"),
    "no characters": (b'x,label\n1,a\n"",b\n', "kind=characters", "line 3, column 'x': the sequence is empty"),
    "an empty cell of several": (
        b"x,y,label\n1,2,a\n1,,b\n",
        "",
        "train.csv, line 3, column 'y': is empty: fill it, drop the row, or leave the column out of data.input_columns",
    ),
    "an empty word of several": (b"x,y,label\n1,2,a\n1, ,b\n", "kind=words", "line 3, column 'y': is empty"),
    "a label that is empty": (
        b"x,label\n1,a\n2,\n",
        "",
        "train.csv, line 3, column 'label': is empty: fill it or drop the row",
    ),
    "no answer among numbers": (
        b"x,label\n1,0\n2,1\n3,NaN\n",
        "",
        "train.csv, line 4, column 'label': 'NaN' among numbers is a missing answer: fill it, drop the row, or",
    ),
    "a row too short": (b"x,label\n1,a\n\n2\n", "", "train.csv, line 4 has 1 cells where the first line names 2"),
    "a row too long": (b"x,label\n1,a\n2,b,c\n", "", "train.csv, line 3 has 3 cells where the first line names 2"),
    "no number": (b"x,label\n1 2,a\n3 four 5,b\n", "", "train.csv, line 3, column 'x': 'four' is not a number"),
    "no number of several": (b"x,y,label\n1,2,a\n1,2 3,b\n", "", "line 3, column 'y': '2 3' is not a number"),
    "not finite": (b"x,label\n1,a\nNaN,b\n", "", "line 3, column 'x': 'NaN' is not a finite number"),
    "too large": (b"x,label\n1,a\n1e999,b\n", "", "line 3, column 'x': '1e999' is not a finite number"),
    "beyond single precision": (
        b"x,label\n1,a\n-1e200,b\n",
        "",
        "line 3, column 'x': '-1e200' is not a finite number of single precision, which ends at 3.4e+38",
    ),
    "a target beyond it": (b"x,label\n1,2\n2,1e39\n", "regression=true", "line 3, column 'label': '1e39' is not a fin"),
    "a target that is no number": (
        b"x,label\n1,2\n2,high\n",
        "regression=true",
        "train.csv, line 3, column 'label': 'high' is not a number",
    ),
    "no whole number": (b"x,label\n1,a\n2.5,b\n", "kind=ids", "line 3, column 'x': '2.5' is not a whole number"),
    "a negative id": (b"x,label\n1,a\n2 -3,b\n", "kind=ids", "line 3, column 'x': '-3' is no token id"),
    "a vast id": (b"x,label\n1,a\n3000000000,b\n", "kind=ids", "'3000000000' is no token id"),
    "one id too many": (b"x,label\n1,a\n2147483647,b\n", "kind=ids", "is no token id: these go from 0 to 2147483646"),
    "an id in another base": (
        b"x,label\n1,a\n0x10,b\n",
        "kind=ids",
        "line 3, column 'x': '0x10' is not a whole number",
    ),
    "an id beyond all": (b"x,label\n1,a\n" + b"9" * 30 + b",b\n", "kind=ids", "is not a whole number"),
    "not UTF-8": (b"x,label\n1,a\n2,caf\xe9\n", "", "train.csv, line 3: byte 0xe9 is not UTF-8"),
    "a header not UTF-8": (b"x\xe9,label\n1,a\n", "", "train.csv, line 1: byte 0xe9 is not UTF-8"),
    "UTF-16": ("x,label\n1,a\n".encode("utf-16"), "", "train.csv, line 1: byte 0xff is not UTF-8"),
    "one class": (b"x,label\n1,a\n2,a\n", "", "column 'label': every row is of class 'a'"),
    "one number": (b"x,label\n" + b"1,0.1\n" * 9, "regression=true", "every row to train on has 0.1, so"),
    "too few to cut": (b"x,label\n1,a\n2,b\n", "", "leave none of 2 rows to train on"),
    "a line break in a cell before it": (b'x,label\n1,"a\nb"\nz,c\n', "", "line 4, column 'x': 'z' is not a number"),
}


@pytest.mark.parametrize("case", CSV)
def test_a_wrong_csv_file(error: Any, case: str) -> None:
    content, option, message = CSV[case]
    Path("train.csv").write_bytes(content)
    assert message in error(*([option] if option else []))


def test_a_long_cell_is_no_obstacle_to_naming_the_line(error: Any) -> None:
    Path("train.csv").write_text("x,label\n" + "1 " * 200_000 + ",a\ntwo,b\n")
    assert "line 3, column 'x': 'two' is not a number" in error()


EVALUATION = {
    "a class": (b"x,label\n1,a\n2,c\n", "", "new.csv, line 3, column 'label': the training table has no class 'c'"),
    "a token": (b"x,label\n1 9,a\n", "kind=words", "new.csv, line 2, column 'x': the training table has no token '9'"),
    "an id": (b"x,label\n1,a\n7,b\n", "kind=ids", "new.csv, line 3, column 'x': the training table has no token '7'"),
    "a column": (b"y,label\n1,a\n", "", "new.csv has no column 'x'"),
    "nothing": (b"x,label\n", "", "new.csv has no rows"),
}


@pytest.mark.parametrize("case", EVALUATION)
@pytest.mark.parametrize("split", ["validation", "test"])
def test_what_training_never_had(error: Any, split: str, case: str) -> None:
    content, option, message = EVALUATION[case]
    Path("train.csv").write_bytes(GOOD)
    Path("new.csv").write_bytes(content)
    assert message in error(f"{split}_file=new.csv", *([option] if option else []))


def test_a_regression_cannot_be_judged_on_one_row(error: Any) -> None:
    Path("train.csv").write_bytes(b"x,label\n1,1\n2,2\n3,4\n4,5\n5,7\n")
    Path("new.csv").write_bytes(b"x,label\n1,1\n")
    assert "needs two rows for test" in error("test_file=new.csv", "regression=true")


@pytest.mark.parametrize("content", [b"PAR1", GOOD, b"PAR1" * 20])
def test_a_parquet_file_that_is_none(error: Any, content: bytes) -> None:
    Path("train.parquet").write_bytes(content)
    assert "train.parquet is not a Parquet file, or not whole" in error("train_file=train.parquet")


def test_a_damaged_parquet_file(error: Any) -> None:
    parquet.write_table(pa.table({"x": list(range(5000)), "label": ["a", "b"] * 2500}), "train.parquet")
    content = bytearray(Path("train.parquet").read_bytes())
    content[4:200] = b"\x00" * 196
    Path("train.parquet").write_bytes(content)
    assert "train.parquet is not a Parquet file, or not whole" in error("train_file=train.parquet")


PARQUET: dict[str, tuple[Any, str, str]] = {
    "a null": ([1.0, None], "", "row 1 counted from 0, column 'x': is empty"),
    "NaN": ([1.0, float("nan")], "", "row 1 counted from 0, column 'x': is empty"),
    "infinity": ([1.0, float("inf")], "", "row 1 counted from 0, column 'x': 'inf' is not a finite number"),
    "no list": ([[1.0], None], "", "row 1 counted from 0, column 'x': the sequence is empty"),
    "an empty list": ([[1.0], []], "", "row 1 counted from 0, column 'x': the sequence is empty"),
    "a null in a list": ([[1.0], [2.0, None]], "", "row 1 counted from 0, column 'x': is empty"),
    "a half": ([[1.0], [2.0, 2.5]], "kind=ids", "row 1 counted from 0, column 'x': '2.5' is not a whole number"),
    "lists of lists": ([[[1.0]], [[2.0]]], "", "column 'x': holds list"),
    "neither": ([{"a": 1}, {"a": 2}], "", "neither numbers nor text"),
}


@pytest.mark.parametrize("case", PARQUET)
def test_a_wrong_column_of_a_parquet_file(error: Any, case: str) -> None:
    column, option, message = PARQUET[case]
    parquet.write_table(pa.table({"x": column, "label": ["a", "b"]}), "train.parquet")
    assert message in error("train_file=train.parquet", *([option] if option else []))


def test_a_file_that_does_not_exist_or_is_of_another_format(error: Any) -> None:
    assert "there is no file data/train.csv" in error("root=data")
    assert "a table is a file in .csv, .tsv, .parquet; did you mean '.csv'?" in error("train_file=train.cvs")
    assert ".parquet; hub_dataset.yaml reads the folder of this one" in error("train_file=train.jsonl")


def test_a_required_option_is_asked_for(fpt: Fpt, capsys: pytest.CaptureFixture[str]) -> None:
    assert fpt("prepare", "--data=SequenceFile") == 2
    assert "SequenceFile needs data.target_column" in capsys.readouterr().err
    assert fpt("prepare", "--data=SequenceFile", "--data.target_column=y", "--data.kind=tokens") == 2
    assert "data.kind: expected 'numbers', 'ids', 'words' or 'characters'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("task", "package", "extra"), [(SequenceFile, "pyarrow", "tables"), (HubDataset, "datasets", "hub")]
)
def test_a_missing_package_is_named(
    task: type[SequenceFile | HubDataset], package: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    options = {"path": "."} if task is HubDataset else {}
    with pytest.raises(FPTError, match=rf'needs {package}: pip install "fpt-lightning\[{extra}\]"'):
        task(target_column="label", **options)  # type: ignore[arg-type]


def test_a_cell_of_many_lines_is_no_swallowed_row(fpt: Fpt) -> None:
    letter = "Dear Sir,\nit rains.\n" + "Day, after day,\n" * 8 + "Yours"
    rows = "".join(f'"{letter}",{label}\n' for label in "ab" * 10)
    Path("train.csv").write_text(f"text,label\n{rows}")
    assert fpt("prepare", "--data=SequenceFile", "--data.target_column=label", "--data.kind=words") == 0
