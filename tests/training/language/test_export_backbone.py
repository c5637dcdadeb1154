"""Bodies written as folders of transformers, and checkpoints that are whole at every moment."""

import io
from pathlib import Path
from typing import Literal

import pytest
import torch
from transformers import GPT2Model

from conftest import Fpt
from fpt_lightning.data.spec import TaskSpec
from fpt_lightning.errors import UsageError
from fpt_lightning.models.backbones.choice import BackboneChoice
from fpt_lightning.models.fpt import FrozenPretrainedTransformer
from fpt_lightning.models.lora import LoraOptions
from fpt_lightning.training.artifacts.checkpoint import WholeCheckpointIO
from fpt_lightning.training.language.export_backbone import save_body, whole_body
from fpt_lightning.training.trainer import FPTTrainer

TASK = TaskSpec("bits", 12, 2, token_width=5)


def test_an_exported_body_is_the_body() -> None:
    model = FrozenPretrainedTransformer(TASK, BackboneChoice("tiny"), "all", dropout=0.0)
    with torch.no_grad():
        model.backbone.wpe.weight.mul_(3)
    save_body(model, Path("body"))
    loaded, found = GPT2Model.from_pretrained("body", output_loading_info=True)
    assert not any(found.values())
    again = FrozenPretrainedTransformer(TASK, BackboneChoice("body"), dropout=0.0)
    embeddings = torch.randn(2, 12, 32)
    expected = model.family.hidden(model.backbone, embeddings, None)
    torch.testing.assert_close(again.family.hidden(again.backbone, embeddings, None), expected)
    torch.testing.assert_close(loaded(inputs_embeds=embeddings).last_hidden_state, expected)


def test_an_encoder_is_exported_too() -> None:
    sizes = {"d_model": 24, "num_layers": 2, "num_heads": 3, "d_kv": 8, "d_ff": 40}
    model = FrozenPretrainedTransformer(TASK, BackboneChoice("t5-base", "random", sizes), dropout=0.0)
    save_body(model, Path("body"))
    again = FrozenPretrainedTransformer(TASK, BackboneChoice("body"), dropout=0.0)
    embeddings = torch.randn(2, 12, 24)
    expected = model.family.hidden(model.backbone, embeddings, None)
    torch.testing.assert_close(again.family.hidden(again.backbone, embeddings, None), expected)


SIZES = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 40}


@pytest.mark.parametrize(
    ("name", "sizes", "positions"),
    [("bert", SIZES, "backbone"), ("gpt2", {"n_embd": 24, "n_layer": 2, "n_head": 3, "n_positions": 20}, "whole")],
)
def test_tables_of_a_body_keep_their_sizes(name: str, sizes: dict[str, object], positions: Literal["whole"]) -> None:
    model = FrozenPretrainedTransformer(TASK, BackboneChoice(name, "random", sizes, positions=positions), dropout=0.0)
    save_body(model, Path("body"))
    again = FrozenPretrainedTransformer(TASK, BackboneChoice("body", positions=positions), dropout=0.0)
    embeddings = torch.randn(2, 12, 24)
    expected = model.family.hidden(model.backbone, embeddings, None)
    torch.testing.assert_close(again.family.hidden(again.backbone, embeddings, None), expected)


DECODER = {**SIZES, "num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 2}


@pytest.mark.parametrize(
    ("name", "more"),
    [
        ("smollm3", {"no_rope_layers": [1, 1, 0, 1]}),
        ("mistral", {}),
        ("mellum", {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16, "head_dim": 8}),
    ],
)
@pytest.mark.parametrize("layers", ["1:3", "2:4"])
def test_some_blocks_of_a_body_stay_what_they_were(name: str, more: dict[str, object], layers: str) -> None:
    """What a config says of every block is said of those that are kept."""
    choice = BackboneChoice(name, "random", DECODER | more, layers=layers)
    model = FrozenPretrainedTransformer(TASK, choice, dropout=0.0)
    save_body(model, Path("body"))
    again = FrozenPretrainedTransformer(TASK, BackboneChoice("body"), dropout=0.0)
    embeddings = torch.randn(2, 12, 24)
    expected = model.family.hidden(model.backbone, embeddings, None)
    torch.testing.assert_close(again.family.hidden(again.backbone, embeddings, None), expected)


@pytest.mark.parametrize("layers", ["2", "1:3"])
def test_blocks_that_scale_by_their_number_are_written_where_it_stays(layers: str) -> None:
    sizes = {"n_embd": 24, "n_layer": 3, "n_head": 3, "scale_attn_by_inverse_layer_idx": True}
    model = FrozenPretrainedTransformer(TASK, BackboneChoice("gpt2", "random", sizes, layers=layers), dropout=0.0)
    if layers == "2":
        whole_body(model)
        return
    with pytest.raises(
        UsageError, match=r"a gpt2 trained in this way .*\(h\.0\.attn.*set export_backbone\.enabled false"
    ):
        whole_body(model)


@pytest.mark.parametrize("name", ["vit", "roberta"])
def test_a_body_that_lost_what_transformers_asks_for_is_refused(name: str) -> None:
    model = FrozenPretrainedTransformer(TASK, BackboneChoice(name, "random", SIZES))
    with pytest.raises(UsageError, match=rf"a {name} trained in this way .*: set export_backbone\.enabled false"):
        whole_body(model)


@pytest.mark.parametrize("name", ["lstm", "two_layer"])
def test_a_body_that_transformers_does_not_know_is_refused(name: str) -> None:
    model = FrozenPretrainedTransformer(TASK, BackboneChoice(name, architecture={"width": 8}))
    with pytest.raises(UsageError, match=f"'{name}' is not a body of transformers"):
        whole_body(model)


def test_a_body_with_adapters_is_refused() -> None:
    model = FrozenPretrainedTransformer(TASK, BackboneChoice("tiny"), lora=LoraOptions())
    with pytest.raises(UsageError, match=r"leave out model\.lora"):
        whole_body(model)


def test_the_bit_row(fpt: Fpt, tiny: list[str]) -> None:
    bits = ("--data.n=20", "--data.patch_size=5", "--data.validation_examples=20", "--data.test_examples=20")
    assert fpt("run", "--config=pretrain/bit_memory.yaml", *tiny, *bits, "--run_folder=bit") == 0
    best = torch.load("bit/checkpoints/best.ckpt", weights_only=True)["state_dict"]
    body = GPT2Model.from_pretrained("bit/backbone")
    for name, value in body.named_parameters():
        if name != "wte.weight":
            torch.testing.assert_close(value, best[f"model.backbone.{name}"])
    words = [word for word in tiny if "backbone" not in word]
    assert fpt("run", "--config=bit_xor.yaml", *words, "--model.backbone=bit/backbone", "--run_folder=next") == 0


def test_a_kill_while_a_checkpoint_is_written_leaves_the_one_before(monkeypatch: pytest.MonkeyPatch) -> None:
    writer = WholeCheckpointIO()
    writer.save_checkpoint({"step": torch.tensor(1)}, "run/last.ckpt")

    def killed(checkpoint: object, file: io.BufferedWriter) -> None:
        file.write(b"half of it")
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(torch, "save", killed)
        with pytest.raises(KeyboardInterrupt):
            writer.save_checkpoint({"step": torch.tensor(2)}, "run/last.ckpt")
    assert torch.load("run/last.ckpt", weights_only=True)["step"] == 1
    writer.save_checkpoint({"step": torch.tensor(3)}, "run/last.ckpt")
    assert torch.load("run/last.ckpt", weights_only=True)["step"] == 3
    assert [path.name for path in Path("run").iterdir()] == ["last.ckpt"]


def test_every_run_writes_its_checkpoints_so() -> None:
    trainer = FPTTrainer(accelerator="cpu", logger=False)
    assert isinstance(trainer.strategy.checkpoint_io, WholeCheckpointIO)
