"""Languages that nobody speaks: their grammar, their splits, and the body that comes of them."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import Fpt
from fpt_lightning import CopiedTokens, FPTDataModule, MemorisedTokens, ShuffleDyck
from fpt_lightning.data.spec import Batch
from fpt_lightning.errors import UsageError

LANGUAGES: dict[str, FPTDataModule] = {
    "copies": CopiedTokens(context=32, vocabulary=500, evaluation_windows=6),
    "dyck": ShuffleDyck(context=32, kinds=5, evaluation_windows=6),
    "memorised": MemorisedTokens(context=32, vocabulary=50, distinct=7, evaluation_windows=6),
}


def _whole(data: FPTDataModule, split: str = "train", indices: range = range(8)) -> np.ndarray:
    """Windows with the token behind each, ``[batch, context + 1]``."""
    batch: Batch = data.dataset(split).__getitems__(indices)  # type: ignore[arg-type]
    assert torch.equal(batch.tokens[:, 1:], batch.target[:, :-1])
    return torch.cat([batch.tokens, batch.target[:, -1:]], dim=1).numpy()


@given(st.integers(1, 40), st.integers(16, 80), st.floats(0.05, 0.95), st.integers(0, 2**32 - 1))
@settings(max_examples=50, deadline=None)
def test_no_bracket_closes_that_is_not_open(kinds: int, context: int, opens: float, seed: int) -> None:
    windows = _whole(ShuffleDyck(context=context, kinds=kinds, opens=opens, seed=seed))
    assert windows.shape == (8, context + 1)
    for kind in range(kinds):
        depth = np.cumsum((windows == kind).astype(int) - (windows == kinds + kind), axis=1)
        assert depth.min() >= 0
    assert windows.min() >= 0
    assert windows.max() < 2 * kinds


def test_brackets_are_as_many_of_each_kind_and_cross() -> None:
    data = ShuffleDyck(context=255, kinds=4)
    windows = _whole(data, indices=range(400))
    share = np.bincount(windows.flatten(), minlength=8) / windows.size
    assert np.abs(share[:4] - share[:4].mean()).max() < 0.004
    assert share[:4].sum() == pytest.approx(0.53, abs=0.02)  # half, and where none is open
    first = [row.tolist() for row in windows if row[0] == 0 and row[1] == 1]
    assert any(row[2] == 4 for row in first), "the outer one closes before the inner one"


@given(st.integers(0, 2**32 - 1), st.integers(16, 100))
@settings(max_examples=50, deadline=None)
def test_every_window_copies_a_span(seed: int, context: int) -> None:
    for window in _whole(CopiedTokens(context=context, vocabulary=60000, seed=seed)).tolist():
        spans = [tuple(window[start : start + 8]) for start in range(len(window) - 7)]
        assert len(set(spans)) < len(spans)


def test_what_is_memorised_comes_again_and_is_judged() -> None:
    data = LANGUAGES["memorised"]
    assert np.array_equal(_whole(data, indices=range(7)), _whole(data, indices=range(700, 707)))
    assert np.array_equal(_whole(data, indices=range(6)), _whole(data, "validation", range(6)))
    assert len(np.unique(_whole(data, indices=range(14)), axis=0)) == 7
    assert len(data.dataset("test")) == 6
    again, other = (
        MemorisedTokens(context=32, vocabulary=50, distinct=7, evaluation_windows=6, seed=n) for n in (0, 1)
    )
    assert not np.array_equal(_whole(data, "test", range(6)), _whole(other, "test", range(6)))
    assert data.fingerprint() == again.fingerprint() != other.fingerprint()


@pytest.mark.parametrize("name", ["copies", "dyck"])
def test_validation_is_the_same_for_every_seed_and_not_trained_on(name: str) -> None:
    data = LANGUAGES[name]
    other = type(data)(seed=5, context=32, evaluation_windows=6, **_sizes(data))
    assert np.array_equal(_whole(data, "validation", range(6)), _whole(other, "validation", range(6)))
    assert not np.array_equal(_whole(data), _whole(other))
    splits = [_whole(data, split, range(6)) for split in ("train", "validation", "test")]
    assert len(np.unique(np.concatenate(splits), axis=0)) == 18


def _sizes(data: FPTDataModule) -> dict[str, int]:
    return {"kinds": data.kinds} if isinstance(data, ShuffleDyck) else {"vocabulary": data.task.vocabulary_size or 0}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"kinds": 0}, "2 to 65,536 different tokens, not 0"),
        ({"opens": 1.0}, "data.opens lies between 0 and 1, got 1.0"),
        ({"context": 8}, "data.context must be at least 16, got 8"),
        ({"evaluation_windows": 0}, "data.evaluation_windows must be at least 1, got 0"),
    ],
)
def test_sizes_that_make_no_language_are_refused(options: dict[str, float], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        ShuffleDyck(**options)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", LANGUAGES)
def test_a_body_that_read_it_serves_another_task(fpt: Fpt, tiny: list[str], name: str) -> None:
    small = ["--data.context=32", "--data.evaluation_windows=4", "--model.width=16", "--model.layers=1"]
    small += ["--model.heads=2", "--model.positions=64", "--model.warmup_steps=2", "--trainer.max_steps=4"]
    small += ["--trainer.val_check_interval=2", "--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false"]
    assert fpt("run", f"--config=pretrain/{name}.yaml", *small, "--run_folder=made") == 0
    made = json.loads(Path("made/result.json").read_text())
    assert (made["task"], made["arm"], made["steps"]) == (LANGUAGES[name].task.name, "language model", 4)
    assert made["trained_parameters"] == made["total_parameters"] > 16 * 64
    assert 0 <= made["test_accuracy"] <= 1
    kept = json.loads(Path("made/backbone/config.json").read_text())
    assert (kept["n_layer"], kept["n_positions"]) == (1, 64)
    words = [word for word in tiny if "backbone" not in word]
    assert fpt("run", "--config=bit_xor.yaml", *words, "--model.backbone=made/backbone", "--run_folder=run") == 0
    assert json.loads(Path("run/result.json").read_text())["backbone"] == "made/backbone"
