import json
from pathlib import Path

import pytest
import torch

from conftest import Fpt
from fpt_lightning.data.spec import TaskSpec
from fpt_lightning.errors import FPTError
from fpt_lightning.models.backbones.choice import BackboneChoice
from fpt_lightning.models.fpt import FrozenPretrainedTransformer
from fpt_lightning.training.callbacks import EarlyStopping, Throughput, summarise
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
    never, soon = EarlyStopping(), EarlyStopping(patience=1)
    for callback, expected in ((never, False), (soon, True)):
        callback._evaluate_stopping_criteria(torch.tensor(0.5))
        stops = [callback._evaluate_stopping_criteria(torch.tensor(0.4))[0] for _ in range(50)]
        assert any(stops) == expected


def test_throughput_goes_on_where_the_run_stopped() -> None:
    first = Throughput()
    first.load_state_dict({"tokens": 40, "padding": 10, "samples": 100, "training_seconds": 4.0, "wall_seconds": 9.0})
    second = Throughput()
    second.load_state_dict(first.state_dict())
    assert second.samples_per_second == 25.0
    assert second.wall_seconds == 9.0
    assert second.padding_share == 0.25


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
