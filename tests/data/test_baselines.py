"""What guessing is worth, of tasks that know no shortcut of their own."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from conftest import write_table
from fpt_lightning import ImageFolder, SequenceFile, TextFolder
from fpt_lightning.data.datamodule import SAMPLE, FPTDataModule, Split
from fpt_lightning.data.loading import ENDLESS, BatchDataset
from fpt_lightning.data.spec import Batch, TaskSpec
from fpt_lightning.runs.baselines import linear_baseline


class _Rows(BatchDataset):
    """Answers that are a function of the row, two an example, made when they are asked for."""

    def __init__(self, answers: list[list[float]], length: int) -> None:
        self.answers, self.length = answers, length
        self.asked: list[int] = []

    def __len__(self) -> int:
        return self.length

    def __getitems__(self, indices: Sequence[int]) -> Batch:
        self.asked += indices
        target = torch.tensor([self.answers[index % len(self.answers)] for index in indices])
        return Batch(torch.zeros(len(indices), 1, 1), target)


class _Foreign(FPTDataModule):
    def __init__(self, answers: dict[Split, list[list[float]]], classes: int | None, endless: bool = False) -> None:
        super().__init__()
        self.answers, self.classes, self.endless = answers, classes, endless

    @property
    def task(self) -> TaskSpec:
        return TaskSpec("foreign", 1, self.classes, token_width=1, answers_per_token=2)

    def dataset(self, split: Split) -> BatchDataset:
        answers = self.answers[split]
        return _Rows(answers, ENDLESS if self.endless and split == "train" else len(answers))

    def facts(self) -> dict[str, Any]:
        return {}


@pytest.mark.parametrize("endless", [False, True])
def test_the_commonest_class_is_that_of_the_training_split(endless: bool) -> None:
    answers: dict[Split, list[list[Any]]] = {
        "train": [[2, 2], [2, 0]],
        "validation": [[2, 1], [1, 1], [2, 1]],
        "test": [[2, 2]],
    }
    data = _Foreign(answers, classes=3, endless=endless)
    assert data.trivial_baselines() == {"commonest class": (2 / 6, 1.0)}
    asked = data.examples("train").asked  # type: ignore[attr-defined]
    assert asked == list(range(SAMPLE if endless else 2))


def test_a_regression_guesses_the_mean_of_the_training_split() -> None:
    answers: dict[Split, list[list[float]]] = {
        "train": [[1.0, 3.0], [4.0, 4.0]],  # mean 3
        "validation": [[2.0, 4.0], [5.0, 1.0]],  # mean 3 too: R2 0
        "test": [[3.0, 5.0]],  # mean 4, off by 1: 1 - 4 / 2
    }
    assert _Foreign(answers, classes=None).trivial_baselines() == {"training mean": (0.0, -1.0)}
    answers["test"] = [[7.0, 7.0]]  # no spread to explain
    assert _Foreign(answers, classes=None).trivial_baselines()["training mean"].test == 0


def test_far_numbers_lose_nothing(weights_csv: Path) -> None:
    data = SequenceFile(target_column="weight", train_file=str(weights_csv), regression=True)
    value = data.trivial_baselines()["training mean"]
    target = data.targets("validation").double()
    mean = data.targets("train").double().mean()
    error = ((target - mean) ** 2).sum() / ((target - target.mean()) ** 2).sum()
    assert value.val == pytest.approx(1 - error.item())
    assert -1 < value.val <= 0


def test_numbers_farther_from_0_than_single_precision_sees_their_spread() -> None:
    x = torch.randn(200, generator=torch.Generator().manual_seed(0)).double()
    seconds: list[object] = (1.7e9 + 20 * x).tolist()
    write_table(Path("times.csv"), {"x": x.tolist(), "y": seconds})
    data = SequenceFile(target_column="y", train_file="times.csv", regression=True)
    value = linear_baseline(data)
    assert min(value) > 0.98
    units = torch.tensor([-1.0, 0.0, 1.0])
    assert data.task.in_own_units(units).sub(1.7e9).tolist() == pytest.approx([-20, 0, 20], abs=4)
    assert torch.equal(data.task.in_standard_units(data.task.in_own_units(units)), units)


def test_tables_and_folders(tmp_path: Path, image_root: Path, text_root: Path) -> None:
    columns: dict[str, list[object]] = {"a": list(range(10)), "label": ["yes"] * 7 + ["no"] * 3}
    file = str(write_table(tmp_path / "table.csv", columns))
    data = SequenceFile(target_column="label", train_file=file, validation_file=file, test_file=file)
    assert data.trivial_baselines() == {"commonest class": (0.7, 0.7)}
    assert ImageFolder(root=str(image_root)).trivial_baselines() == {"commonest class": (0.5, 0.5)}
    books = TextFolder(root=str(text_root), vocabulary=300, context=16, validation_books=1, test_books=1)
    tokens = books.corpus.tokens["validation"]
    (value,) = books.trivial_baselines().values()
    share = torch.from_numpy(tokens[1:].astype("int64")).bincount().max().item() / len(tokens)
    assert value.val == pytest.approx(share, abs=0.01)


def test_some_examples_are_of_every_class_where_data_lies_class_by_class() -> None:
    """And the same for every seed: what they are taken for is no part of a run's luck."""
    table = write_table(Path("t.csv"), {"x": list(range(600)), "label": ["a"] * 300 + ["b"] * 300})
    data, other = (SequenceFile("label", train_file=str(table), seed=seed) for seed in (0, 1))
    sample = data.sample(100, torch.device("cpu"))
    assert 30 < int(sample.target.sum()) < 70
    assert torch.equal(sample.tokens, other.sample(100, torch.device("cpu")).tokens)
    assert len(data.some("validation", 10**6)) == len(data.examples("validation"))
