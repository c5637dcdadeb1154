"""The tasks are learned, not only run."""

import json
from pathlib import Path

import pytest

from conftest import Fpt


@pytest.mark.slow
def test_bit_xor_is_solved_as_shipped(fpt: Fpt) -> None:
    assert fpt("run", "--config=bit_xor.yaml", "--trainer.enable_progress_bar=false", "--run_folder=run") == 0
    assert json.loads(Path("run/result.json").read_text())["test_accuracy"] >= 0.99


def test_bit_memory_learns_to_repeat_what_it_is_shown(fpt: Fpt) -> None:
    """Half of the bits stand in the question itself; answering those is 0.75, guessing is 0.5."""
    words = ["--data.n=20", "--data.patch_size=5", "--data.batch_size=32", "--model.backbone=tiny", "--model.lr=0.01"]
    words += ["--trainer.max_steps=300", "--trainer.enable_progress_bar=false", "--run_folder=run"]
    assert fpt("run", "--config=bit_memory.yaml", *words) == 0
    assert json.loads(Path("run/result.json").read_text())["test_accuracy"] > 0.7
