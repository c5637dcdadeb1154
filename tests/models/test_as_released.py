"""The switches by which a model is that of the paper's reference implementation."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from fpt_lightning.data.spec import TaskSpec
from fpt_lightning.models.backbones.build import build_backbone
from fpt_lightning.models.backbones.choice import BackboneChoice
from fpt_lightning.models.fpt import FrozenPretrainedTransformer

PATCHES = TaskSpec("image", max_length=16, classes=10, token_width=48)
IDS = TaskSpec("words", max_length=16, classes=7, vocabulary_size=9)


def test_all_positions_train_and_the_first_are_used(gpt2_folder: Path) -> None:
    cut, whole = (
        FrozenPretrainedTransformer(PATCHES, BackboneChoice(str(gpt2_folder), positions=positions), dropout=0.0)  # type: ignore[arg-type]
        for positions in ("backbone", "whole")
    )
    table: Any = whole.backbone.get_parameter("wpe.weight")
    assert table.shape == (40, 24)
    assert torch.equal(table[:16], cut.backbone.get_parameter("wpe.weight"))
    tokens = torch.randn(3, 16, 48)
    torch.testing.assert_close(whole(tokens), cut(tokens))
    whole(tokens).sum().backward()
    assert table.grad is not None
    assert not table.grad[16:].any()
    assert table.grad[:16].any()


@pytest.mark.parametrize("name", ["lstm", "lstm_star", "t5-base", "one_attention"])
def test_where_no_table_is_cut_whole_positions_are_the_backbones(name: str) -> None:
    sizes = {"d_model": 24, "d_ff": 40, "d_kv": 8, "num_heads": 3, "num_layers": 2} if "t5" in name else None
    own, whole = (
        build_backbone(BackboneChoice(name, "random", sizes, positions=positions), 16, 0.0).body.state_dict()  # type: ignore[arg-type]
        for positions in ("backbone", "whole")
    )
    assert all(torch.equal(value, whole[key]) for key, value in own.items())


def test_gpt2s_random_weights_as_transformers_4_drew_them() -> None:
    sizes = {"n_layer": 8, "n_embd": 64, "n_head": 2}
    scaled, alike = (
        build_backbone(BackboneChoice("gpt2", "random", sizes, residual_scaling=scaling), 16, 0.0).body
        for scaling in (True, False)
    )
    for name, value in alike.named_parameters():
        before = scaled.get_parameter(name)
        if name.endswith("c_proj.weight"):
            assert value.std().item() == pytest.approx(0.02, rel=0.1)
            torch.testing.assert_close(before, value / 4)
        else:
            assert torch.equal(before, value)


@pytest.mark.parametrize("task", [PATCHES, IDS], ids=lambda task: task.name)
def test_dropout_behind_the_linear_input_layer(task: TaskSpec) -> None:
    model = FrozenPretrainedTransformer(task, BackboneChoice("tiny"), dropout=0.0, input_dropout=0.5)
    tokens = torch.randn(3, 16, 48) if task is PATCHES else torch.randint(9, (3, 16))
    assert torch.equal(model(tokens), model(tokens)) == (task is IDS)
    kept = model.input_dropout(torch.ones(100, 100))
    assert set(kept.unique().tolist()) == ({0.0, 2.0} if task is PATCHES else {1.0})
    plain = FrozenPretrainedTransformer(task, BackboneChoice("tiny"), dropout=0.0).eval()
    torch.testing.assert_close(model.eval()(tokens), plain(tokens))
    assert F.mse_loss(model(tokens), plain(tokens)) == 0
