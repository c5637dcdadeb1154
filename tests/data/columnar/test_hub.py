"""Hugging Face datasets, in the formats that folders have."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pytest
import torch

from conftest import write_table
from fpt_lightning.data.columnar.hub import HubDataset
from fpt_lightning.data.columnar.sequence_file import SequenceFile
from fpt_lightning.data.datamodule import SPLITS
from fpt_lightning.errors import FPTError, UsageError

REVIEWS: dict[str, Any] = {"target_column": "label", "input_columns": "text", "kind": "words"}


def _reviews(path: Path | str, **options: Any) -> HubDataset:
    return HubDataset(str(path), **{**REVIEWS, **options})


def test_several_splits_on_disk(hub_folder: Path) -> None:
    data = _reviews(hub_folder, test_split="test")
    assert [len(data.dataset(split)) for split in SPLITS] == [22, 2, 9]
    assert (data.task.name, data.task.classes, data.task.vocabulary_size) == ("reviews", 2, 5)
    vocabulary = ["a", "bad", "film", "fine", "one"]
    first = data.dataset("test")[0]
    assert [vocabulary[token] for token in first.tokens[0].tolist()] == ["fine", "film"]
    assert first.target.tolist() == [[1]]
    assert data.describe()[-1] == "validation cut from the training table, split_seed 0"


def test_one_split_on_disk(hub_folder: Path) -> None:
    datasets.load_from_disk(str(hub_folder))["train"].save_to_disk("alone")  # type: ignore[index]
    data = _reviews("alone")
    assert [len(data.dataset(split)) for split in SPLITS] == [20, 2, 2]


def _as_parquet(dataset: datasets.Dataset, stem: str) -> None:
    dataset.to_parquet(f"{stem}.parquet")


def _as_csv(dataset: datasets.Dataset, stem: str) -> None:
    dataset.to_csv(f"{stem}.csv")


def _as_json(dataset: datasets.Dataset, stem: str) -> None:
    dataset.to_json(f"{stem}.jsonl")


@pytest.mark.parametrize("write", [_as_parquet, _as_csv, _as_json])
def test_a_folder_of_files(hub_folder: Path, write: Callable[[datasets.Dataset, str], None]) -> None:
    saved = datasets.load_from_disk(str(hub_folder))
    Path("files").mkdir()
    for name in ("train", "test"):
        write(saved[name], f"files/{name}")  # type: ignore[arg-type]
    ours, theirs = _reviews("files", test_split="test"), _reviews(hub_folder, test_split="test")
    for split in SPLITS:
        assert torch.equal(ours.dataset(split).values, theirs.dataset(split).values)
        assert torch.equal(ours.dataset(split).targets, theirs.dataset(split).targets)


def test_lists_of_numbers_and_a_number_to_answer() -> None:
    rows = [[float(row), row / 2] * (1 + row % 3) for row in range(20)]
    dataset = datasets.Dataset.from_dict({"series": rows, "y": [sum(row) for row in rows], "note": ["x"] * 20})
    dataset.save_to_disk("series")
    data = HubDataset("series", "y", input_columns="series", regression=True, token_width=2, standardize=False)
    assert (data.task.classes, data.task.token_width, data.task.max_length) == (None, 2, 3)
    table = data.dataset("train")
    sums = [part.sum().item() for part in table.values.split(table.lengths.tolist())]
    assert table.targets[:, 0].tolist() == pytest.approx(sums)


def test_rows_that_were_chosen_are_those_that_are_read(hub_folder: Path) -> None:
    whole = datasets.load_from_disk(str(hub_folder))["test"]  # type: ignore[index]
    whole.select([1, 0, 1]).save_to_disk("chosen")  # type: ignore[union-attr]
    data = _reviews("chosen", validation_share=0.3, test_share=0.3)
    lengths = torch.cat([data.dataset(split).lengths for split in SPLITS])
    assert sorted(lengths.tolist()) == [2, 3, 3]


def test_the_same_rows_are_the_same_data_in_a_table(hub_folder: Path) -> None:
    rows = datasets.load_from_disk(str(hub_folder))["train"].to_dict()  # type: ignore[index,union-attr]
    rows["label"] = [["negative", "positive"][label] for label in rows["label"]]  # type: ignore[index]
    file = write_table(Path("reviews.csv"), rows)  # type: ignore[arg-type]
    assert _reviews(hub_folder).fingerprint() == SequenceFile(train_file=str(file), **REVIEWS).fingerprint()


def _labelled(path: str, names: list[str], labels: list[int | None], **others: list[Any]) -> HubDataset:
    """A dataset on disk of the texts ``a b`` and ``b c`` in turn, whose labels have names."""
    columns = {"text": ["a b", "b c"] * (len(labels) // 2), "label": labels, **others}
    dataset = datasets.Dataset.from_dict(columns)
    dataset.cast_column("label", datasets.ClassLabel(names=names)).save_to_disk(path)
    return _reviews(path, predict_split="train")


def test_labels_are_known_by_their_names_whatever_numbers_another_dataset_gives_them() -> None:
    learnt = _labelled("one", ["dog", "cat", "bird"], [0, 1] * 10)
    assert learnt.class_names == ["dog", "cat"], "in the order of the dataset, those that it has"
    assert learnt.facts()["classes"] == ["dog", "cat"]
    texts = datasets.Dataset.from_dict({"text": ["a b", "b c"], "label": ["dog", "cat"]})
    texts.save_to_disk("three")
    for other in (_labelled("two", ["cat", "dog"], [1, 0]), _reviews("three", predict_split="train")):
        other.use_encoding(learnt.encoding())
        new = other.new_examples()
        assert new is not None
        assert new.targets[:, 0].tolist() == [0, 1]


def test_a_checkpoint_that_knows_labels_by_their_numbers_reads_them() -> None:
    learnt = _labelled("one", ["dog", "cat"], [0, 1] * 10)
    before = {**learnt.encoding(), "classes": ["0", "1"]}  # of 0.4.0
    again = _labelled("two", ["dog", "cat"], [0, 1] * 10)
    again.use_encoding(before)
    assert again.class_names == ["dog", "cat"]
    assert torch.equal(again.dataset("test").targets, learnt.dataset("test").targets)


def test_a_row_without_a_label_is_named() -> None:
    with pytest.raises(FPTError, match=r"row 5 counted from 0, column 'label': has no label \(-1\): filter such rows"):
        _labelled("snli", ["yes", "no"], [0, 1, 0, 1, 0, -1]).prepare_data()
    with pytest.raises(FPTError, match=r"row 2 counted from 0, column 'label': is empty"):
        _labelled("nulls", ["yes", "no"], [0, 1, None, 1, 0, 1]).prepare_data()


def test_labels_that_nobody_gives_away_are_none() -> None:
    learnt = _labelled("known", ["yes", "no"], [0, 1] * 10)
    secret = _labelled("secret", ["yes", "no"], [-1] * 6)
    secret.use_encoding(learnt.encoding())
    new = secret.new_examples()
    assert new is not None
    assert new.targets is not None
    assert new.targets.shape == (6, 0)
    with pytest.raises(FPTError, match=r"row 0 counted from 0, column 'label': is empty"):
        _labelled("nothing", ["yes", "no"], [-1] * 6).prepare_data()


def test_named_labels_are_numbers_where_a_number_is_the_answer() -> None:
    _labelled("stars", ["1 star", "2 stars", "3 stars"], [0, 1, 2, 1, 0, 2] * 3)
    assert _reviews("stars", regression=True).dataset("train").targets.unique().tolist() == [0.0, 1.0, 2.0]


def test_row_numbers_of_pandas_are_no_input() -> None:
    data = _labelled("indexed", ["yes", "no"], [0, 1] * 10, __index_level_0__=["x"] * 20)
    data.input_columns = None
    assert data.encoding()["columns"] == ["text"]


def test_a_dataset_above_is_no_name_of_a_task(hub_folder: Path) -> None:
    assert HubDataset("..", "label").default_name == "dataset"
    assert HubDataset(str(hub_folder), "label").default_name == hub_folder.name


def test_a_split_or_column_that_is_not_there(hub_folder: Path) -> None:
    with pytest.raises(UsageError, match=r"no split 'tset'; did you mean 'test'\? Its splits are train, test"):
        _reviews(hub_folder, test_split="tset").prepare_data()
    with pytest.raises(UsageError, match=r"split 'train' has no column 'txt'; did you mean 'text'\?"):
        _reviews(hub_folder, input_columns="txt").prepare_data()


def test_a_wrong_cell_is_named_with_its_split_and_row() -> None:
    datasets.Dataset.from_dict({"text": ["a", " ", "b"], "label": ["x", "y", "x"]}).save_to_disk("d")
    with pytest.raises(FPTError, match=r"dataset d, split 'train', row 1 counted from 0, column 'text': .*empty"):
        _reviews("d").prepare_data()


@pytest.mark.parametrize("path", ["nobody/nothing", "stanfordnlp/imdb"])
def test_a_dataset_that_is_nowhere(hub_folder: Path, path: str) -> None:
    with pytest.raises(FPTError, match=f"dataset '{path}' is neither a readable folder here nor in the Hugging Face"):
        _reviews(path).prepare_data()


def test_a_folder_without_data_or_with_damaged_data(hub_folder: Path) -> None:
    Path("empty").mkdir()
    with pytest.raises(FPTError, match="dataset 'empty' is neither a readable folder"):
        _reviews("empty").prepare_data()
    datasets.Dataset.from_dict({"text": [], "label": []}).save_to_disk("nothing")
    with pytest.raises(FPTError, match="dataset 'nothing' is neither a readable folder"):
        _reviews("nothing").prepare_data()
    Path("damaged").mkdir()
    Path("damaged/train.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(FPTError, match=r"dataset 'damaged' is neither a readable folder .*Parquet"):
        _reviews("damaged").prepare_data()
    (hub_folder / "train/data-00000-of-00001.arrow").write_bytes(b"ARROW")
    with pytest.raises(FPTError, match="is neither a readable folder"):
        _reviews(hub_folder).prepare_data()


def test_code_beside_the_data_is_not_run(hub_folder: Path) -> None:
    Path("script").mkdir()
    Path("script/script.py").write_text("from pathlib import Path\nPath('ran').touch()\n")
    with pytest.raises(FPTError, match="neither a readable folder"):
        _reviews("script").prepare_data()
    assert not Path("ran").exists()


def test_a_folder_elsewhere_of_the_same_name_is_not_found(
    hub_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for place in ("first", "second"):
        (tmp_path / place).mkdir()
    (tmp_path / "first/ds").mkdir()
    (tmp_path / "first/ds/train.csv").write_text("text,label\n" + "a film,x\na book,y\n" * 20)
    monkeypatch.chdir(tmp_path / "first")
    assert len(_reviews("ds").dataset("train")) == 32
    monkeypatch.chdir(tmp_path / "second")
    with pytest.raises(FPTError, match="dataset 'ds' is neither a readable folder here nor"):
        _reviews("ds").dataset("train")
