"""What a result says of the arithmetic of a step."""

import json
from pathlib import Path
from typing import Any

import pytest

from conftest import Fpt, read_rows
from fpt_lightning.training import callbacks


def _run(fpt: Fpt, tiny: list[str], folder: str, *more: str) -> dict[str, Any]:
    options = ["--config", "bit_xor.yaml", *tiny, "--model.shuffle_tokens=true", f"--run_folder={folder}", *more]
    assert fpt("run", *options) == 0
    result: dict[str, Any] = json.loads((Path(folder) / "result.json").read_text())
    return result


def test_the_arithmetic_of_a_step_is_counted_and_changes_nothing(
    fpt: Fpt, tiny: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    counted = _run(fpt, tiny, "counted")
    assert counted["flops_per_step"] > 1e6
    accumulated = _run(fpt, tiny, "accumulated", "--trainer.accumulate_grad_batches=2")
    assert accumulated["flops_per_step"] == 2 * counted["flops_per_step"]
    monkeypatch.setattr(callbacks, "step_flops", lambda *_: None)
    plain = _run(fpt, tiny, "plain")
    assert plain["flops_per_step"] is None
    assert plain["test_accuracy"] == counted["test_accuracy"]
    for name in ("train_loss", "val_loss"):  # tokens were shuffled by the same random numbers, and dropped
        losses = [[row[name] for row in read_rows(Path(folder) / "metrics.csv")] for folder in ("counted", "plain")]
        assert losses[0] == losses[1]


def test_a_model_that_cannot_be_counted_is_trained_all_the_same(
    fpt: Fpt, tiny: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> int:
        raise RuntimeError("aten::odd has no kernel without values")

    monkeypatch.setattr("fpt_lightning.training.cost.flops_of_step", fail)
    assert _run(fpt, tiny, "run")["flops_per_step"] is None
