"""The checkpoint that is tested is the one that validation chose."""

from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from fpt_lightning import BitXOR, FPTClassifier, FPTTrainer
from fpt_lightning.errors import FPTError, UsageError


class _Replace(L.Callback):
    """Puts the last checkpoint into the place of the best."""

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        best = torch.load("best.ckpt", weights_only=True)
        best["validation"]["val_loss"] += 1
        torch.save(best, "best.ckpt")


def _run(chooser: ModelCheckpoint, *others: L.Callback) -> dict[str, Any]:
    trainer = FPTTrainer(
        accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False, max_steps=3,
        val_check_interval=1, check_val_every_n_epoch=None, callbacks=[chooser, *others],
    )  # fmt: skip
    data = BitXOR(validation_examples=20, test_examples=20)
    return trainer.run(FPTClassifier(data.task, backbone="tiny"), data)


def _chooser(**options: Any) -> ModelCheckpoint:
    return ModelCheckpoint(**{"dirpath": ".", "filename": "best", "monitor": "val_loss", "mode": "min", **options})


def test_a_file_that_is_not_the_chosen_one_is_not_tested() -> None:
    with pytest.raises(FPTError, match=r"best\.ckpt is not the checkpoint that validation chose: its val_loss is"):
        _run(_chooser(), _Replace())
    Path("best.ckpt").unlink()
    assert "test_accuracy" in _run(_chooser())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"monitor": None}, "checkpoint.monitor must be a figure such as val_loss, got None"),
        ({"save_on_train_epoch_end": True}, "leave checkpoint.save_on_train_epoch_end away"),
    ],
)
def test_a_chooser_that_validation_does_not_lead_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        _run(_chooser(**options))
