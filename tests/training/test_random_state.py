"""Resuming from Python, with a Trainer of ours: the random numbers go on where they were."""

import random
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning as L
import numpy as np
import torch

from fpt_lightning import BitMemory, FPTClassifier, FPTTrainer
from fpt_lightning.training.random_state import RandomState


class Draws(L.Callback):
    """Draws numbers of its own when a training starts."""

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        torch.rand(5)


def _fit(steps: int, folder: str, ckpt_path: str | None = None) -> dict[str, Any]:
    data = BitMemory(n=8, patterns=2, patch_size=4, batch_size=4)
    model = FPTClassifier(data.task, backbone="tiny", dropout=0.5)
    last = L.pytorch.callbacks.ModelCheckpoint(folder, "last", every_n_train_steps=1, enable_version_counter=False)
    torch.manual_seed(0)
    trainer = FPTTrainer(
        max_steps=steps, accelerator="cpu", logger=False, enable_progress_bar=False, limit_val_batches=0,
        enable_model_summary=False, callbacks=[Draws(), last],
    )  # fmt: skip
    trainer.fit(model, data, ckpt_path=ckpt_path, weights_only=True)
    checkpoint: dict[str, Any] = torch.load(Path(folder, "last.ckpt"), weights_only=True)
    return checkpoint


def test_what_others_draw_at_the_start_of_a_resumed_training_does_not_count() -> None:
    whole = _fit(6, "whole")
    _fit(3, "part")
    torch.rand(100)
    part = _fit(6, "part", "part/last.ckpt")
    assert part["global_step"] == whole["global_step"] == 6
    assert all(torch.equal(tensor, part["state_dict"][name]) for name, tensor in whole["state_dict"].items())
    assert torch.equal(part["random_states"][0]["torch"], whole["random_states"][0]["torch"])


def test_a_second_training_goes_on_from_the_first() -> None:
    trainer = FPTTrainer(accelerator="cpu", logger=False, enable_checkpointing=False)
    module, callback, checkpoint = L.LightningModule(), RandomState(), {}  # type: tuple[Any, RandomState, dict[str, Any]]
    callback.on_save_checkpoint(trainer, module, checkpoint)
    drawn = (torch.rand(1).item(), np.random.rand(), random.random())
    callback.on_load_checkpoint(trainer, module, checkpoint)
    callback.on_train_start(trainer, module)
    assert (torch.rand(1).item(), np.random.rand(), random.random()) == drawn
    callback.on_train_start(trainer, module)
    assert torch.rand(1).item() != drawn[0]


def test_every_process_drops_out_other_elements() -> None:
    drawn = set()
    for rank in range(4):
        torch.manual_seed(7)
        trainer: Any = SimpleNamespace(global_rank=rank, world_size=4)
        RandomState().on_train_start(trainer, L.LightningModule())
        drawn.add(torch.rand(1).item())
    torch.manual_seed(7)
    assert torch.rand(1).item() in drawn  # the first as a process alone
    assert len(drawn) == 4
