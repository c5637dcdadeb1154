"""What the benchmark of a GPU says of steps that wait for it; played here, where there is none."""

import runpy
import sys
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch

from fpt_lightning.data.bits import BitXOR
from fpt_lightning.training.classification import FPTClassifier

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def modes(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The modes that torch was set to, on a machine that believes to have a GPU."""
    told: list[str] = []
    monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", told.append)
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda: 2**20)
    monkeypatch.setattr(sys, "path", [str(BENCHMARKS), *sys.path])
    return told


@pytest.mark.parametrize("waiting", [False, True])
def test_a_step_that_waits_is_told_and_timed_all_the_same(
    waiting: bool, modes: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    benchmark = runpy.run_path(str(BENCHMARKS / "gpu.py"))
    model, data = FPTClassifier(BitXOR().task, "tiny"), BitXOR(batch_size=4)

    class Step(L.Callback):
        def on_train_batch_end(self, *_: Any) -> None:
            if waiting and modes[-1:] == ["error"]:
                raise RuntimeError("called a synchronizing CUDA operation")

    def train(callbacks: list[L.Callback]) -> None:
        trainer = L.Trainer(
            accelerator="cpu", max_steps=12, callbacks=[*callbacks, Step()], logger=False, limit_val_batches=0,
            enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        )  # fmt: skip
        with monkeypatch.context() as of_lightning:
            of_lightning.setattr(torch.cuda, "is_available", lambda: False)
            trainer.fit(model, datamodule=data)

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    figures = benchmark["measure"](train)
    assert figures["ms"] > 0
    assert ("waits" in figures) == waiting
    assert modes[0] == "error"
    assert modes[-1] == "default"
    if waiting:
        assert figures["waits"][-1].startswith("on_train_batch_end: raise")
