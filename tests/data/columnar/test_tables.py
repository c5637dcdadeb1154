"""Tables of one's own: what is in the file is what the model reads."""

import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import lightning as L
import pyarrow as pa
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import parquet

from conftest import Fpt, write_table
from fpt_lightning import FPTClassifier
from fpt_lightning.data.columnar.sequence_file import SequenceFile
from fpt_lightning.data.datamodule import SPLITS
from fpt_lightning.data.spec import Batch
from fpt_lightning.errors import FPTError

WORD = st.text(st.characters(exclude_categories=("Z", "C")), min_size=1, max_size=5)
NUMBER = st.floats(-1e6, 1e6)
LABELS = ["no", "yes"]


def _whole(file: str | Path, **options: Any) -> SequenceFile:
    """One file as all three splits, so that the training split keeps its order."""
    options = {"target_column": "label", **options}
    return SequenceFile(train_file=str(file), validation_file=str(file), test_file=str(file), **options)


def _sequences(data: SequenceFile) -> list[list[Any]]:
    """The real tokens of every training example."""
    table = data.dataset("train")
    return [part.tolist() for part in table.values.split(table.lengths.tolist())]


def _labels(count: int) -> list[object]:
    return [LABELS[row % 2] for row in range(count)]


@given(rows=st.lists(st.lists(WORD, min_size=1, max_size=6), min_size=2, max_size=12))
def test_words_survive_a_csv_file(rows: list[list[str]]) -> None:
    file = write_table(Path("words.csv"), {"text": [" ".join(row) for row in rows], "label": _labels(len(rows))})
    data = _whole(file, input_columns="text", kind="words")
    vocabulary = sorted({word for row in rows for word in row})
    assert [[vocabulary[token] for token in row] for row in _sequences(data)] == rows
    assert data.task.vocabulary_size == len(vocabulary)
    assert data.task.max_length == max(map(len, rows))
    assert data.dataset("train").targets[:, 0].tolist() == [row % 2 for row in range(len(rows))]


@given(texts=st.lists(st.text(st.characters(exclude_categories=["C"]), min_size=1, max_size=9), min_size=2))
def test_characters_survive_a_csv_file(texts: list[str]) -> None:
    file = write_table(Path("text.csv"), {"text": list(texts), "label": _labels(len(texts))})
    data = _whole(file, input_columns="text", kind="characters")
    vocabulary = sorted({character for text in texts for character in text})
    assert ["".join(vocabulary[token] for token in row) for row in _sequences(data)] == texts


@given(rows=st.lists(st.lists(NUMBER, min_size=1, max_size=5), min_size=2, max_size=9))
def test_parquet_equals_csv(rows: list[list[float]]) -> None:
    labels = _labels(len(rows))
    text = write_table(Path("table.csv"), {"x": [" ".join(map(str, row)) for row in rows], "label": labels})
    parquet.write_table(pa.table({"x": rows, "label": pa.array(labels).dictionary_encode()}), "table.parquet")
    ours, theirs = (_whole(file, input_columns="x") for file in (text, "table.parquet"))
    assert ours.fingerprint() == theirs.fingerprint()
    for split in SPLITS:
        assert torch.equal(ours.dataset(split).values, theirs.dataset(split).values)
        assert torch.equal(ours.dataset(split).targets, theirs.dataset(split).targets)
    plain = _whole(text, input_columns="x", standardize=False)
    assert _sequences(plain) == [torch.tensor(row)[:, None].tolist() for row in rows]


@given(
    rows=st.lists(st.lists(st.integers(0, 40), min_size=3, max_size=3), min_size=2, max_size=9),
    kind=st.sampled_from(["ids", "words", "numbers"]),
)
def test_several_columns_are_the_sequence_that_one_would_hold(rows: list[list[int]], kind: Any) -> None:
    labels = _labels(len(rows))
    columns: dict[str, list[object]] = {name: [row[index] for row in rows] for index, name in enumerate("abc")}
    several = write_table(Path("several.csv"), columns | {"label": labels})
    one = write_table(Path("one.csv"), {"x": [" ".join(map(str, row)) for row in rows], "label": labels})
    parquet.write_table(pa.table(columns | {"label": labels}), "several.parquet")
    options = {"kind": kind, "standardize": False}
    ours = _whole(several, **options)
    assert _sequences(ours) == _sequences(_whole(one, **options))
    assert _sequences(ours) == _sequences(_whole("several.parquet", **options))
    if kind == "ids":
        assert _sequences(ours) == rows
        assert ours.task.vocabulary_size == max(map(max, rows)) + 1


def test_decimals_and_views_of_text_are_what_they_are_in_a_text_file() -> None:
    """As databases write them."""
    columns = {"price": ["1.25", "2.50", "0.75"], "word": ["a b", "c", "b a"], "label": ["x", "y", "x"]}
    text = write_table(Path("data.csv"), {name: list(column) for name, column in columns.items()})
    stored = {name: pa.array(column, pa.string_view()) for name, column in columns.items()}
    parquet.write_table(pa.table({**stored, "price": pa.array(map(Decimal, columns["price"]))}), "data.parquet")
    for kind, column in (("numbers", "price"), ("words", "word")):
        ours, theirs = (_whole(file, input_columns=column, kind=kind) for file in (text, "data.parquet"))
        assert ours.fingerprint() == theirs.fingerprint()


def test_characters_of_whole_numbers_are_those_of_their_text() -> None:
    columns: dict[str, list[object]] = {"x": [10, 217], "label": ["x", "y"]}
    parquet.write_table(pa.table(columns), "t.parquet")
    ours, theirs = (_whole(file, kind="characters") for file in ("t.parquet", write_table(Path("t.csv"), columns)))
    assert _sequences(ours) == [[1, 0], [2, 1, 3]]
    assert ours.fingerprint() == theirs.fingerprint()


def test_the_row_numbers_of_pandas_are_no_input_unless_they_are_named() -> None:
    table = pa.table({"x": [1, 2], "label": ["x", "y"], "__index_level_0__": [7, 9]})
    index = {"index_columns": ["__index_level_0__", {"kind": "range"}]}
    parquet.write_table(table.replace_schema_metadata({"pandas": json.dumps(index)}), "t.parquet")
    assert _sequences(_whole("t.parquet", kind="ids")) == [[1], [2]]
    assert _sequences(_whole("t.parquet", kind="ids", input_columns=["__index_level_0__", "x"])) == [[7, 1], [9, 2]]


def test_nor_are_they_in_a_file_of_text_or_one_that_was_read_from_there() -> None:
    Path("t.csv").write_text(",Unnamed: 0,x,label\n0,7,1,x\n1,9,2,y\n")
    table = pa.table({"Unnamed: 0": [7, 9], "x": [1, 2], "label": ["x", "y"]})
    parquet.write_table(table, "t.parquet")
    for file in ("t.csv", "t.parquet"):
        assert _sequences(_whole(file, kind="ids")) == [[1], [2]]
        assert _sequences(_whole(file, kind="ids", input_columns=["Unnamed: 0", "x"])) == [[7, 1], [9, 2]]


@pytest.mark.parametrize(
    ("header", "inputs"),
    [
        ("x,Unnamed: 1,Unnamed: 0,label", [1, 2]),  # the second is what a column without a name holds
        ("Unnamed: 0.1,Unnamed: 0,x,label", [3]),  # written and read twice
        ("Unnamed: 0,Unnamed: 1,x,label", [3]),  # an index of two levels
    ],
)
def test_a_column_without_a_name_is_an_input_where_it_numbers_no_rows(header: str, inputs: list[int]) -> None:
    Path("t.csv").write_text(f"{header}\n1,2,3,x\n1,2,3,y\n")
    assert _sequences(_whole("t.csv", kind="ids")) == [inputs, inputs]


def test_whole_numbers_that_no_double_holds_are_rounded_as_those_of_a_text_are() -> None:
    columns: dict[str, list[object]] = {"x": [2**53 + 1, 3], "y": [2**62 + 1, 5], "label": [2**60 + 1, 7]}
    parquet.write_table(pa.table(columns), "t.parquet")
    ours, theirs = (
        _whole(file, regression=True, standardize=False) for file in ("t.parquet", write_table(Path("t.csv"), columns))
    )
    assert ours.dataset("train").targets.flatten().tolist() == [2.0**60, 7.0]
    assert ours.fingerprint() == theirs.fingerprint()


def test_the_largest_id_leaves_room_for_an_unknown_one() -> None:
    file = write_table(Path("t.csv"), {"x": [1, 2**31 - 2], "label": ["x", "y"]})
    data = _whole(file, kind="ids", unknown=True)
    assert data.task.vocabulary_size == 2**31
    assert _sequences(data) == [[1], [2**31 - 2]]


def test_no_double_goes_to_an_apple_gpu(weights_csv: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = SequenceFile("weight", train_file=str(weights_csv), regression=True)
    batch = data.dataset("train").__getitems__([0, 1])
    assert batch.target.dtype == torch.float64
    moved: list[torch.dtype] = []
    monkeypatch.setattr(torch.Tensor, "to", lambda self, *_, **__: moved.append(self.dtype) or self)
    for device, expected in {"mps": [torch.float32], "cpu": [torch.float32, torch.float64]}.items():
        moved.clear()
        met = data.transfer_batch_to_device(batch, torch.device(device), 0)
        assert all(ours is theirs for ours, theirs in zip(met, batch, strict=True))
        assert moved == expected


def test_the_order_of_the_columns_is_that_of_the_option() -> None:
    file = write_table(Path("t.csv"), {"a": [1, 2], "b": [3, 4], "c": [9, 9], "label": ["x", "y"]})
    assert _sequences(_whole(file, input_columns=["b", "a"], kind="ids")) == [[3, 1], [4, 2]]


def test_answers_that_are_numbers_of_their_own_are_told(weights_csv: Path) -> None:
    told = "most answers are a number of their own: data.regression true learns them as numbers"
    assert told in SequenceFile("weight", train_file=str(weights_csv)).describe()
    assert told not in SequenceFile("weight", train_file=str(weights_csv), regression=True).describe()
    write_table(Path("names.csv"), {"x": [*range(30)], "label": [f"n{row}" for row in range(30)]})
    assert told not in _whole("names.csv").describe()
    write_table(Path("digits.csv"), {"x": [*range(30)], "label": [row % 10 for row in range(30)]})
    assert told not in _whole("digits.csv").describe()


def test_every_column_is_standardized_by_itself_over_the_training_split(weights_csv: Path) -> None:
    data = SequenceFile("weight", train_file=str(weights_csv), regression=True)
    table = data.dataset("train").values.reshape(-1, 3)
    assert len(table) == 48
    torch.testing.assert_close(table.mean(dim=0), torch.zeros(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(table.std(dim=0, correction=0), torch.ones(3), atol=1e-5, rtol=0)
    targets = data.dataset("train").targets.double()
    assert data.task.target_mean == pytest.approx(targets.mean().item())
    assert data.task.target_std == pytest.approx(targets.std(correction=0).item(), rel=1e-4)
    assert (data.task.classes, data.task.metric, data.task.token_width) == (None, "r2", 1)


def test_several_numbers_a_token_are_standardized_by_their_place_in_it() -> None:
    file = write_table(Path("t.csv"), {"x": ["0 .1 2 .1", "4 .1 6 .1", "8 .1"], "label": ["x", "y", "y"]})
    data = _whole(file, token_width=2)
    assert data.task.token_width == 2
    assert data.dataset("train").lengths.tolist() == [2, 2, 1]
    values = data.dataset("train").values
    assert values.shape == (5, 2)
    assert values[:, 1].tolist() == pytest.approx([0.0] * 5), "a constant is 0, not infinite"
    assert values[:, 0].tolist() == pytest.approx([(x - 4) / 8**0.5 for x in (0, 2, 4, 6, 8)])


def test_numbers_too_small_to_have_a_deviation_are_not_divided_by_nothing() -> None:
    file = write_table(Path("t.csv"), {"x": ["0", "1e-200"], "label": ["x", "y"]})
    assert torch.isfinite(_whole(file, input_columns="x").dataset("train").values).all()


def test_classes_that_are_numbers_are_sorted_as_numbers() -> None:
    file = write_table(Path("t.csv"), {"x": [1, 2, 3], "label": [10, 9, 2]})
    data = _whole(file)
    assert data.dataset("train").targets[:, 0].tolist() == [2, 1, 0]
    assert "classes: 2, 9, 10" in data.describe()


def test_classes_of_more_digits_than_python_reads_are_sorted_as_text() -> None:
    file = write_table(Path("t.csv"), {"x": [1, 2], "label": ["9" * 5000, "10"]})
    assert _whole(file).class_names == ["10", "9" * 5000]


def test_splits_are_cut_by_a_fixed_seed(weights_csv: Path) -> None:
    def parts(**options: Any) -> list[torch.Tensor]:
        data = SequenceFile("weight", train_file=str(weights_csv), regression=True, **options)
        return [data.dataset(split).targets[:, 0] for split in SPLITS]

    first, again, other = parts(seed=0), parts(seed=1), parts(split_seed=1)
    assert [len(part) for part in first] == [48, 6, 6]
    assert len(torch.cat(first).unique()) == 60
    for ours, theirs in zip(first, again, strict=True):
        assert torch.equal(ours, theirs)
    assert not torch.equal(first[1], other[1])
    assert [len(part) for part in parts(validation_share=0.5, test_share=0.25)] == [15, 30, 15]


def test_files_of_ones_own_for_validation_and_test() -> None:
    for name, rows in (("train", 4), ("validation", 3), ("test", 2)):
        write_table(Path(f"{name}.tsv"), {"x": list(range(rows)), "label": _labels(rows)}, delimiter="\t")
    data = SequenceFile("label", train_file="train.tsv", validation_file="validation.tsv", test_file="test.tsv")
    assert [len(data.dataset(split)) for split in SPLITS] == [4, 3, 2]
    data = SequenceFile("label", train_file="train.tsv", test_file="test.tsv", validation_share=0.25)
    assert [len(data.dataset(split)) for split in SPLITS] == [3, 1, 2]
    assert "validation cut from the training table, split_seed 0" in data.describe()


def test_what_is_longer_than_the_limit_loses_its_end_and_is_counted() -> None:
    file = write_table(Path("t.csv"), {"x": ["1 2 3 4", "5 6", "7 8 9"], "label": ["x", "y", "y"]})
    data = _whole(file, kind="ids", limit=2)
    assert _sequences(data) == [[1, 2], [5, 6], [7, 8]]
    assert (data.task.max_length, data.task.vocabulary_size) == (2, 9)
    assert "limit 2: 6 sequences lost their end" in data.describe()  # 2 in each of the three splits
    numbers = write_table(Path("n.csv"), {"x": ["1 2 3 4", "5 6", "7 8 9 10"], "label": ["x", "y", "y"]})
    assert _whole(numbers, token_width=2, limit=1).dataset("train").lengths.tolist() == [1, 1, 1]
    assert _whole(numbers, limit=2**64).dataset("train").lengths.tolist() == [4, 2, 4], "no limit at all"


@pytest.mark.parametrize(("kind", "size"), [("words", 3), ("ids", 5)])
def test_unknown_tokens_share_an_id_where_that_is_asked_for(kind: Any, size: int) -> None:
    write_table(Path("train.csv"), {"x": ["2", "3"], "label": ["x", "y"]})
    write_table(Path("test.csv"), {"x": ["2 7", "8"], "label": ["x", "y"]})
    data = SequenceFile("label", kind=kind, validation_file="test.csv", test_file="test.csv", unknown=True)
    assert data.task.vocabulary_size == size
    assert data.dataset("test").values.tolist() == [0 if kind == "words" else 2, size - 1, size - 1]
    with pytest.raises(FPTError, match=r"test\.csv, line 2, column 'x': the training table has no token '7'"):
        SequenceFile("label", kind=kind, validation_file="test.csv", test_file="test.csv").prepare_data()


def test_a_file_with_a_byte_order_mark_and_windows_line_ends() -> None:
    Path("t.csv").write_bytes("\ufeffx,label\r\n1 2,ä\r\n3, b \r\n".encode())
    data = _whole("t.csv", input_columns="x", kind="ids")
    assert _sequences(data) == [[1, 2], [3]]
    assert "classes: b, ä" in data.describe()


def test_a_delimiter_of_ones_own() -> None:
    file = write_table(Path("t.csv"), {"x": [1, 2], "label": ["p", "q"]}, delimiter=";")
    assert _sequences(_whole(file, kind="ids", delimiter=";")) == [[1], [2]]


def test_the_fingerprint_follows_the_rows_and_the_split_and_nothing_else(weights_csv: Path) -> None:
    def fingerprint(**options: Any) -> str:
        data = SequenceFile("weight", train_file=str(weights_csv), regression=True, **options)
        return data.fingerprint()

    first = fingerprint()
    assert fingerprint(seed=3, batch_size=8) == first
    assert len({first, fingerprint(split_seed=1), fingerprint(standardize=False), fingerprint(limit=2)}) == 4
    content = weights_csv.read_text()
    weights_csv.write_text(content.replace("\n", " \n").replace("weight \n", "weight\n"))
    assert fingerprint() == first
    weights_csv.write_text(content + "1,2,3,5000\n")
    assert fingerprint() != first


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"token_width": 0}, "at least 1"),
        ({"limit": 0}, "at least 1"),
        ({"token_width": 2, "kind": "words"}, "is for numbers"),
        ({"input_columns": ["a", "label"]}, "among data.input_columns"),
        ({"input_columns": ["a", "a"]}, "twice"),
        ({"input_columns": []}, "no input column"),
        ({"validation_share": 0.0}, "validation_share"),
        ({"test_share": 1.0}, "test_share"),
        ({"delimiter": ",,"}, "one character"),
        ({"delimiter": "§"}, "one character of ASCII"),
        ({"delimiter": "\0"}, "one character of ASCII"),
        ({"delimiter": '"'}, "one character of ASCII"),
        ({"kind": "characters"}, "one column"),
        ({"validation_share": 0.6, "test_share": 0.6}, "leave none of 2 rows"),
        ({"validation_share": 0.9}, "leave none of 2 rows"),
        ({"split_seed": 2**64}, "data.split_seed lies between"),
        ({"token_width": 3}, "does not divide"),
    ],
)
def test_options_that_contradict_each_other_are_refused(options: dict[str, Any], message: str) -> None:
    write_table(Path("train.csv"), {"a": [1, 2], "b": [3, 4], "label": ["x", "y"]})
    with pytest.raises(FPTError, match=message):
        SequenceFile(**{"target_column": "label", **options}).prepare_data()


class _Seen(L.Callback):
    """The targets of the first batch of a test."""

    def on_test_batch_start(self, trainer: L.Trainer, pl_module: Any, batch: Batch, batch_idx: int, *_: Any) -> None:
        if batch_idx == 0:
            self.first = batch.target


@pytest.mark.parametrize(("limit", "few"), [(2, True), (0.5, True), (4, False), (1.0, False)])
def test_some_batches_stand_for_all_and_all_begin_with_the_longest(limit: float, few: bool) -> None:
    columns: dict[str, list[object]] = {
        "text": ["a"] * 60 + ["a b c d e f"] * 20, "label": ["short"] * 60 + ["long"] * 20,
    }  # fmt: skip
    write_table(Path("t.csv"), columns)
    data = SequenceFile("label", train_file="t.csv", test_file="t.csv", kind="words", eval_batch_size=20)
    seen = _Seen()
    trainer = L.Trainer(logger=False, limit_test_batches=limit, callbacks=[seen], accelerator="cpu")
    trainer.test(FPTClassifier(data.task, backbone="tiny"), data, verbose=False)
    assert (len(seen.first.unique()) == 2) == few


def test_a_class_without_a_row_to_train_on_is_refused_and_one_that_is_not_measured_told(
    fpt: Fpt, tiny: list[str], capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    words = ["--config=table.yaml", "--data.train_file=rare.csv", "--data.batch_size=4"]
    file = write_table(Path("rare.csv"), {"x": [*range(40)], "label": ["a", "b"] * 19 + ["b", "rare"]})
    seeds: dict[str, list[int]] = {
        split: [] for split in SPLITS
    }  # the only row of the class falls into one split or another
    for seed in range(40):
        targets = {split: SequenceFile("label", str(file), split_seed=seed).dataset(split).targets for split in SPLITS}
        seeds[next(split for split in SPLITS if (targets[split] == 2).any())].append(seed)
    for command in (["prepare", *words], ["fit", *words, *tiny]):
        assert fpt(*command, f"--data.split_seed={seeds['test'][0]}") == 2
        error = capsys.readouterr().err
        assert "rare, column 'label': class 'rare' has no row left to train on (1 of 3 classes)" in error
        assert "add rows of it, choose another data.split_seed, or give tables of their own" in error
        assert fpt(*command, f"--data.split_seed={seeds['train'][0]}") == 0
        told = capsys.readouterr().out + caplog.text
        for split in SPLITS[1:]:
            assert told.count(f"{split} has no row of 1 of 3 classes: rare") == 1


def test_classes_that_are_numbers_of_their_own_are_told_whoever_asks(
    fpt: Fpt,
    tiny: list[str],
    weights_csv: Path,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    words = ["--config=table.yaml", *tiny, "--data.target_column=weight", "--data.batch_size=4"]
    assert fpt("fit", *words, f"--data.train_file={weights_csv}") == 2
    assert "and data.regression true learns them as numbers" in capsys.readouterr().err
    files = [f"--data.{split}_file={weights_csv}" for split in ("train", "validation", "test")]
    assert fpt("fit", *words, *files) == 0
    assert "most answers are a number of their own: data.regression true" in caplog.text
