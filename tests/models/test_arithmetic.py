"""The arithmetic of a step, counted without computing it, beside what torch counts while transformers computes it."""

import re
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from transformers import BertConfig, BertModel, GPT2Config, GPT2Model

from fpt_lightning.data.spec import TaskSpec
from fpt_lightning.models.arithmetic import _Counter, flops_of_step
from fpt_lightning.models.backbones.choice import BackboneChoice
from fpt_lightning.models.fpt import FrozenPretrainedTransformer
from fpt_lightning.models.lora import LoraOptions

BATCH, LENGTH, WIDTH = 3, 12, 32
# where every token answers, the last block computes all of them, as transformers does
TASK = TaskSpec("task", token_width=5, vocabulary_size=None, max_length=LENGTH, answer_tokens=LENGTH, classes=4)
ONE_ANSWER = replace(TASK, answer_tokens=1)
GPT2: dict[str, Any] = {"n_embd": WIDTH, "n_head": 2, "n_layer": 2}
BERT: dict[str, Any] = {
    "hidden_size": WIDTH, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64
}  # fmt: skip
LONGFORMER = BERT | {"attention_window": [4, 4]}
T5: dict[str, Any] = {"d_model": WIDTH, "d_ff": 64, "d_kv": 16, "num_heads": 2, "num_layers": 2}
QWEN = BERT | {"num_key_value_heads": 1}

PAPER = ["input", "output", "layernorm", "positions"]


def _model(
    name: str, architecture: dict[str, Any] | None, trainable: list[str], **how: Any
) -> FrozenPretrainedTransformer:
    initialization = None if architecture is None else "random"
    choice = BackboneChoice(name, initialization, architecture, None, "backbone", 0, None, residual_scaling=True)
    lora, task = how.get("lora"), how.get("task", TASK)
    return FrozenPretrainedTransformer(task, choice, trainable, 0.1, "orthogonal", lora)


def _counted(plain: nn.Module, trained: str) -> int:
    """What torch counts of a step of a plain model of transformers, of which these parameters train."""
    layers = nn.ModuleDict({"input": nn.Linear(5, WIDTH), "body": plain, "output": nn.Linear(WIDTH, 4)})
    for name, parameter in layers.named_parameters():
        parameter.requires_grad_(re.search(trained, name) is not None)
    with FlopCounterMode(display=False) as counter:
        hidden = plain(inputs_embeds=layers["input"](torch.randn(BATCH, LENGTH, 5))).last_hidden_state
        layers["output"](hidden).sum().backward()
    return int(counter.get_total_flops())


@pytest.mark.parametrize(
    ("trainable", "trained"),
    [
        (PAPER, r"^input|^output|ln_|LayerNorm|wpe|position_embeddings"),
        (["all"], r"."),
        (["output"], r"^output"),
        (["output", "feedforward:last1"], r"^output|h\.1\.mlp|layer\.1\.(intermediate|output)\.dense"),
    ],
)
@pytest.mark.parametrize("name", ["gpt2", "bert-base-uncased"])
def test_it_is_what_torch_counts_of_the_plain_model(name: str, trainable: list[str], trained: str) -> None:
    plain: nn.Module
    if name == "gpt2":
        plain = GPT2Model(GPT2Config(**GPT2, attn_implementation="eager"))
    else:
        plain = BertModel(BertConfig(**BERT, attn_implementation="eager"), add_pooling_layer=False)
    model = _model(name, GPT2 if name == "gpt2" else BERT, trainable)
    assert flops_of_step(model, torch.randn(BATCH, LENGTH, 5)) == _counted(plain, trained)


@pytest.mark.parametrize(
    ("name", "architecture"),
    [
        ("t5-base", T5), ("allenai/longformer-base-4096", LONGFORMER), ("google/vit-base-patch16-224-in21k", BERT),
        ("EleutherAI/pythia-160m", BERT), ("Qwen/Qwen2.5-0.5B", QWEN), ("one_attention", None), ("tiny", None),
    ],
)  # fmt: skip
def test_every_family_is_counted_and_training_it_all_takes_about_three_forward_passes(
    name: str, architecture: dict[str, Any] | None
) -> None:
    mask = torch.ones(BATCH, LENGTH, dtype=torch.bool)
    mask[0, 7:] = False
    tokens = torch.randn(BATCH, LENGTH, 5)
    forward, frozen, whole = (
        flops_of_step(_model(name, architecture, trainable), tokens, mask) for trainable in (["output"], PAPER, ["all"])
    )
    assert 1.8 * forward < frozen < 2.2 * forward
    assert 2.7 * forward < whole < 3.1 * forward
    assert frozen == flops_of_step(_model(name, architecture, PAPER), tokens)  # padding is computed too


def test_the_last_block_is_counted_for_the_tokens_that_answer() -> None:
    tokens = torch.randn(BATCH, LENGTH, 5)
    every, one = (flops_of_step(_model("gpt2", GPT2, ["output"], task=task), tokens) for task in (TASK, ONE_ANSWER))
    # of each other token its projection and feed-forward, what its query meets, and the output layer there and back
    row = 2 * WIDTH * WIDTH + 2 * 2 * WIDTH * 4 * WIDTH + 2 * 2 * LENGTH * WIDTH + 2 * 2 * WIDTH * 4
    assert every - one == BATCH * (LENGTH - 1) * row


def test_an_lstm_counts_both_products_of_every_layer_and_time_step() -> None:
    lstm = _model("lstm", None, ["output"])
    width = lstm.family.width
    products = 2 * BATCH * LENGTH * (5 * width + 3 * 2 * width * 4 * width)
    head = 2 * BATCH * LENGTH * width * 4
    assert flops_of_step(lstm, torch.randn(BATCH, LENGTH, 5)) == products + 2 * head
    assert lstm(torch.randn(BATCH, LENGTH, 5)).shape == (BATCH, LENGTH, 4)  # it computes as ever afterwards


def test_counting_an_lstm_takes_no_longer_for_longer_sequences(monkeypatch: pytest.MonkeyPatch) -> None:
    lstm = _model("lstm_star", None, PAPER, task=replace(ONE_ANSWER, max_length=2 * LENGTH))
    operators: list[Any] = []
    count = _Counter.__torch_dispatch__
    monkeypatch.setattr(_Counter, "__torch_dispatch__", lambda *call: (operators.append(call[1]), count(*call))[1])
    flops_of_step(lstm, torch.randn(BATCH, LENGTH, 5))
    few = len(operators)
    flops_of_step(lstm, torch.randn(BATCH, 2 * LENGTH, 5))
    assert len(operators) == 2 * few


def test_adapters_and_types_of_weights_are_counted() -> None:
    tokens = torch.randn(BATCH, LENGTH, 5)
    adapted = _model("gpt2", GPT2, PAPER, lora=LoraOptions(rank=2))
    pairs = 2 * 2 * BATCH * LENGTH * 2 * (WIDTH + 3 * WIDTH + WIDTH + WIDTH)  # of two layers, beside two matrices each
    # forward, the gradient of the activations, that of the adapters
    assert flops_of_step(adapted, tokens) - flops_of_step(_model("gpt2", GPT2, PAPER), tokens) == 3 * pairs
    kept = _model("gpt2", GPT2, PAPER)
    for parameter in kept.frozen_parameters().values():
        parameter.data = parameter.data.bfloat16()
    assert flops_of_step(kept, tokens) == flops_of_step(_model("gpt2", GPT2, PAPER), tokens)


def test_experts_count() -> None:
    """Each of 2 that a token meets has three matrices: of twice the width they are twice as much."""
    flops = []
    for width in (64, 128, 192):
        sizes = {**QWEN, "num_hidden_layers": 1, "num_local_experts": 4, "num_experts_per_tok": 2}
        model = _model("mixtral", {**sizes, "intermediate_size": width}, PAPER)
        flops.append(flops_of_step(model, torch.zeros(BATCH, LENGTH, 5)))
    assert flops[2] - flops[1] == flops[1] - flops[0] > 0
