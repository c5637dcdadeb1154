"""A share of the training split, ``data.fraction``."""

import json
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from conftest import Fpt, on_cpu, read_rows, write_mnist
from fpt_lightning.data.images.mnist import MNIST
from fpt_lightning.data.listops.datamodule import ListOps
from fpt_lightning.data.loading import BatchDataset, Part
from fpt_lightning.errors import UsageError


class _Numbers(BatchDataset):
    """Examples that are the place they were asked for at."""

    counts_epochs = True

    def __init__(self, count: int) -> None:
        self.targets = torch.arange(count)[:, None]

    def __len__(self) -> int:
        return len(self.targets)

    def __getitems__(self, indices: list[int]) -> list[int]:  # type: ignore[override]
        return list(indices)


@given(count=st.integers(2, 50), shares=st.tuples(st.floats(0.05, 1), st.floats(0.05, 1)), epoch=st.integers(0, 3))
def test_a_smaller_part_lies_in_a_larger_and_knows_its_epoch(
    count: int, shares: tuple[float, float], epoch: int
) -> None:
    small, large = (Part(_Numbers(count), max(1, int(share * count))) for share in sorted(shares))
    assert set(small.kept.tolist()) <= set(large.kept.tolist())
    assert small.targets is not None
    assert small.targets[:, 0].tolist() == small.kept.tolist()
    asked = [epoch * len(small) + index for index in range(len(small))]
    assert small.__getitems__(asked) == [int(place) + epoch * count for place in small.kept]


def _mnist(root: Path, **options: object) -> MNIST:
    data = MNIST(root=str(root), validation_examples=10, download=False, batch_size=4, **options)  # type: ignore[arg-type]
    data.prepare_data()
    return data


def test_training_sees_the_part_and_the_other_splits_stay(tmp_path: Path) -> None:
    root = write_mnist(tmp_path / "many", train=210, test=30)
    whole, part, other = (_mnist(root), _mnist(root, fraction=0.5), _mnist(root, fraction=0.5, seed=7))
    assert [len(part.examples(split)) for split in ("train", "validation", "test")] == [100, 10, 30]
    assert part.targets("train").tolist() == other.targets("train").tolist()
    batches = [on_cpu(data, data.examples("train").__getitems__(range(100))) for data in (part, other)]
    assert torch.equal(batches[0].tokens, batches[1].tokens)
    assert torch.equal(batches[0].target, part.targets("train"))
    assert len({data.fingerprint() for data in (whole, part, _mnist(root, fraction=0.25))}) == 3
    assert whole.fingerprint() == _mnist(root, fraction=1.0).fingerprint()


def test_baselines_are_of_the_part(tmp_path: Path) -> None:
    sizes = {"train_examples": 400, "validation_examples": 20, "test_examples": 20, "min_length": 5, "max_length": 40}
    data = ListOps(fraction=0.3, cache_folder=str(tmp_path), **sizes)  # type: ignore[arg-type]
    data.prepare_data()
    assert len(data.targets("train")) == 120
    assert data.trivial_baselines().keys() == {"commonest class", "root operator"}


@pytest.mark.parametrize("fraction", [0, -0.5, 1.5, float("nan")])
def test_no_such_share(fraction: float) -> None:
    with pytest.raises(UsageError, match=r"data\.fraction must be above 0 and at most 1"):
        MNIST(fraction=fraction)


def test_a_run_of_a_part_says_so(fpt: Fpt, tiny: list[str], tmp_path: Path) -> None:
    root = write_mnist(tmp_path / "many", train=210, test=30)
    words = ["run", "--config=mnist.yaml", f"--data.root={root}", "--data.validation_examples=10", *tiny]
    assert fpt(*words, "--data.fraction=0.5", "--data.batch_size=8", "--run_folder=part") == 0
    assert fpt(*words, "--data.batch_size=8", "--run_folder=whole") == 0
    part, whole = (json.loads(Path(name, "result.json").read_text()) for name in ("part", "whole"))
    assert part["data_fingerprint"] != whole["data_fingerprint"]


def test_what_cannot_be_parted_is_refused(
    fpt: Fpt, tiny: list[str], mnist_root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small = ["--config=mnist.yaml", f"--data.root={mnist_root}", "--data.validation_examples=10", *tiny]
    assert fpt("run", *small, "--data.fraction=0.1", "--run_folder=few", "--data.batch_size=2") == 2
    error = capsys.readouterr().err
    assert "data.fraction 0.1 of mnist is 5 of 50 training examples, without any of" in error
    assert "of 10 classes: take more" in error
    assert fpt("run", "--config=bit_xor.yaml", *tiny, "--data.fraction=0.1") == 2
    assert "bit_xor is generated without end, and has no parts" in capsys.readouterr().err
    assert not Path("few", "metrics.csv").exists()


def test_the_order_of_data_has_a_seed_of_its_own(fpt: Fpt, tiny: list[str], tmp_path: Path) -> None:
    """Initialisation from one seed and data from another: each as in the run that has it for both."""
    words = ["fit", "--config=bit_xor.yaml", *tiny, "--model.dropout=0", "--trainer.max_steps=2", "--model.lr=1e-8"]
    seeds = {"ones": (1, None), "twos": (2, None), "mixed": (1, 2), "same": (1, 1)}
    for name, (seed, data) in seeds.items():
        order = [] if data is None else [f"--data_seed={data}"]
        assert fpt(*words, f"--seed_everything={seed}", *order, f"--run_folder={name}") == 0
    losses = {
        name: tuple(row["train_loss"] for row in read_rows(Path(name, "metrics.csv")) if row["train_loss"])
        for name in seeds
    }
    weights = {
        name: torch.load(Path(name, "checkpoints", "last.ckpt"), weights_only=True)["state_dict"]["model.output.weight"]
        for name in seeds
    }
    assert losses["same"] == losses["ones"]
    assert len(set(losses.values())) == 3
    assert torch.allclose(weights["mixed"], weights["ones"], atol=1e-6)
    assert not torch.allclose(weights["mixed"], weights["twos"], atol=1e-2)


def test_an_impossible_seed_of_the_data_is_refused(
    fpt: Fpt, tiny: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert fpt("run", "--config=bit_xor.yaml", *tiny, "--data_seed=-1") == 2
    assert "data_seed lies between 0 and" in capsys.readouterr().err
