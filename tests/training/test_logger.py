import sys
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace

import pytest

from conftest import Fpt, read_rows
from fpt_lightning.training.logger import RunLogger


def _rows() -> list[dict[str, str]]:
    return read_rows(Path("run/metrics.csv"))


def test_rows_are_written_at_once_and_columns_grow() -> None:
    logger = RunLogger("run")
    logger.log_metrics({"loss": 2.0, "epoch": 0}, step=0)
    assert _rows() == [{"step": "0", "loss": "2.0"}]
    logger.log_metrics({"accuracy": 0.5}, step=0)
    logger.log_metrics({"loss": 1.0}, step=1)
    assert _rows() == [
        {"step": "0", "loss": "2.0", "accuracy": ""},
        {"step": "0", "loss": "", "accuracy": "0.5"},
        {"step": "1", "loss": "1.0", "accuracy": ""},
    ]


def test_a_resumed_run_keeps_what_it_has_and_drops_what_it_repeats() -> None:
    first = RunLogger("run")
    for step in range(5):
        first.log_metrics({"loss": float(step)}, step=step)
    second = RunLogger("run")
    second.log_metrics({"loss": 30.0, "rate": 1.0}, step=3)
    second.log_metrics({"loss": 40.0}, step=4)
    assert [(row["step"], row["loss"]) for row in _rows()] == [
        ("0", "0.0"), ("1", "1.0"), ("2", "2.0"), ("3", "30.0"), ("4", "40.0"),
    ]  # fmt: skip


def test_a_run_folder_is_named_after_itself() -> None:
    logger = RunLogger("runs/mnist/003")
    assert (logger.name, logger.save_dir) == ("003", "runs/mnist/003")


@pytest.mark.parametrize("own", [None, "the caller's"])
def test_the_next_run_of_a_process_has_a_run_of_weights_and_biases_of_its_own(
    fpt: Fpt, tiny: list[str], monkeypatch: pytest.MonkeyPatch, own: str | None
) -> None:
    """And the caller's, who calls `main`, goes on."""
    import_module("fpt_lightning.cli")  # before a library asks whether the stand-in is installed
    wandb = SimpleNamespace(run=own, finish=lambda: setattr(wandb, "run", None))
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    # as Lightning's logger, which joins one that is open
    begin = lambda *_: setattr(wandb, "run", wandb.run or "one")  # noqa: E731
    monkeypatch.setattr(RunLogger, "log_hyperparams", begin)
    assert fpt("run", "--config=bit_xor.yaml", *tiny, "--run_folder=run") == 0
    assert wandb.run == own
