import json
from collections import Counter
from pathlib import Path

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import EarlyStopping, LambdaCallback, ModelCheckpoint

from conftest import Fpt
from fpt_lightning.data.bits import BitXOR
from fpt_lightning.data.spec import TaskSpec
from fpt_lightning.errors import FPTError
from fpt_lightning.models.backbones.choice import BackboneChoice
from fpt_lightning.models.fpt import FrozenPretrainedTransformer
from fpt_lightning.training.callbacks import StopEarly, Throughput, is_idle, summarise
from fpt_lightning.training.classification import FPTClassifier
from fpt_lightning.training.trainer import FPTTrainer


def test_the_summary_counts_every_parameter_by_part() -> None:
    task = TaskSpec("cifar", max_length=64, classes=10, token_width=48)
    table = summarise(FrozenPretrainedTransformer(task, BackboneChoice("gpt2", "random")))
    rows = {line.split()[0]: line.split()[1:3] for line in table.splitlines()[2:]}
    assert rows == {
        "input": ["37,632", "0"],
        "positions": ["49,152", "0"],
        "layernorm": ["38,400", "0"],
        "attention": ["0", "28,348,416"],
        "feedforward": ["0", "56,669,184"],
        "output": ["7,690", "0"],
        "all": ["132,874", "85,017,600"],
    }
    assert "0.156% trains" in table
    assert "gpt2 (random, seed 0)" in table


def test_early_stopping_is_off_until_it_has_patience() -> None:
    never, soon = StopEarly(), StopEarly(patience=1)
    for callback, expected in ((never, False), (soon, True)):
        callback._evaluate_stopping_criteria(torch.tensor(0.5))
        stops = [callback._evaluate_stopping_criteria(torch.tensor(0.4))[0] for _ in range(50)]
        assert any(stops) == expected


def test_checkpoints_know_early_stopping_by_the_name_that_it_had() -> None:
    assert StopEarly("val_loss", "min").state_key == EarlyStopping("val_loss", mode="min").state_key


def test_throughput_goes_on_where_the_run_stopped() -> None:
    first = Throughput()
    first.load_state_dict({"tokens": 40, "padding": 10, "samples": 100, "training_seconds": 4.0, "wall_seconds": 9.0})
    second = Throughput()
    second.load_state_dict(first.state_dict())
    assert second.samples_per_second == 25.0
    assert second.wall_seconds == 9.0
    assert second.padding_share == 0.25


def test_a_step_calls_those_callbacks_alone_that_have_something_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = Counter[str]()

    class Busy(L.Callback):
        def on_before_zero_grad(self, *_: object) -> None:
            asked["on_before_zero_grad"] += 1

    class Busier(Busy):
        def on_train_batch_end(self, *_: object) -> None:
            asked["on_train_batch_end"] += 1

    monkeypatch.setattr(L.Callback, "on_before_zero_grad", lambda *_: asked.update(["idle"]))
    own = [Busier(), LambdaCallback(on_train_batch_start=lambda *_: asked.update(["on_train_batch_start"]))]
    trainer = FPTTrainer(max_steps=3, callbacks=own, default_root_dir=tmp_path, logger=False, accelerator="cpu",
                         limit_val_batches=0, enable_checkpointing=False, enable_progress_bar=False)  # fmt: skip
    data = BitXOR(n=2)
    trainer.fit(FPTClassifier(data.task, "tiny"), data)
    assert asked == dict.fromkeys(("on_before_zero_grad", "on_train_batch_end", "on_train_batch_start"), 3)


@pytest.mark.parametrize(("options", "idle"), [({}, True), ({"every_n_train_steps": 2}, False)])
def test_a_checkpoint_is_idle_in_steps_where_it_never_saves(options: dict[str, int], idle: bool) -> None:
    assert is_idle(ModelCheckpoint(**options), "on_train_batch_end") == idle
    assert not is_idle(ModelCheckpoint(**options), "on_validation_end")


@pytest.mark.parametrize("patience", [0, 1])  # to Lightning 0 is 1
def test_a_run_that_had_stopped_early_does_not_train_on_when_it_is_killed_in_its_test(
    patience: int, fpt: Fpt, tiny: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["run", "--config=bit_xor.yaml", *tiny, "--trainer.max_steps=20", "--model.lr=1e-9"]
    words += [f"--early_stopping.patience={patience}", "--run_folder=run"]

    def killed(*_: object, **__: object) -> None:
        raise FPTError("killed")

    with monkeypatch.context() as patch:
        patch.setattr(FPTTrainer, "test", killed)
        assert fpt(*words) == 1
    assert fpt(*words, "--ckpt_path=run/checkpoints/last.ckpt") == 0
    result = json.loads(Path("run/result.json").read_text())
    assert result["steps"] == 4  # validated at 2 and 4
