"""On a GPU no step waits for the device, and no tensor lies beside it: seen on a fake one, which has shapes alone."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import transformers as hf

from fake_gpu import differentiate, fake_gpu, move
from fpt_lightning.data.spec import TaskSpec
from fpt_lightning.models.backbones.choice import BackboneChoice
from fpt_lightning.models.backbones.families.own import OWN_BODIES
from fpt_lightning.models.fpt import FrozenPretrainedTransformer
from fpt_lightning.models.kernels.replicas import replicated
from fpt_lightning.models.packed import PackedTransformer
from fpt_lightning.models.parts import PAPER

WORDS = TaskSpec("words", max_length=12, classes=7, vocabulary_size=9)
NUMBERS = TaskSpec("bits", max_length=12, classes=2, token_width=5, answer_tokens=3, answers_per_token=2)
SIZES = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 40}
GROUPED = {**SIZES, "num_key_value_heads": 1}

CONFIGS: dict[str, Any] = {
    "gpt2": hf.GPT2Config(n_positions=40, n_embd=24, n_layer=2, n_head=3),
    "bert": hf.BertConfig(**SIZES),
    "roberta": hf.RobertaConfig(**SIZES),
    "longformer": hf.LongformerConfig(**SIZES, attention_window=4),
    "t5": hf.T5Config(d_model=24, num_layers=2, num_heads=3, d_kv=8, d_ff=40),
    "vit": hf.ViTConfig(**SIZES, image_size=32, patch_size=8),
    "gpt_neox": hf.GPTNeoXConfig(**SIZES),
    "llama": hf.LlamaConfig(**GROUPED),
    "qwen2": hf.Qwen2Config(**GROUPED),
    "qwen3": hf.Qwen3Config(**GROUPED, head_dim=8),
    "mistral": hf.MistralConfig(**GROUPED, sliding_window=4),
    "gemma3_text": hf.Gemma3TextConfig(**GROUPED, head_dim=8, sliding_window=4),
    "phi": hf.PhiConfig(**SIZES),
    "phi3": hf.Phi3Config(**GROUPED, pad_token_id=0),
}
WAITS = {
    "longformer": "transformers asks whether any token is global",
    "lstm": "torch asks a real device for its cuDNN",
    "lstm_star": "torch asks a real device for its cuDNN",
}
BODIES = [
    pytest.param(name, marks=[pytest.mark.xfail(strict=True, reason=WAITS[name])] if name in WAITS else [])
    for name in [*CONFIGS, *OWN_BODIES]
]


def _batch(task: TaskSpec, padded: bool) -> tuple[torch.Tensor, torch.Tensor | None]:
    shape = (4, task.max_length, *([task.token_width] if task.token_width else []))
    tokens = torch.zeros(shape, device="cuda", dtype=torch.float32 if task.token_width else torch.int64)
    return tokens, torch.ones(4, task.max_length, dtype=torch.bool, device="cuda") if padded else None


def _loss(logits: torch.Tensor) -> torch.Tensor:
    logits = logits.flatten(0, 1)
    return F.cross_entropy(logits, torch.zeros(len(logits), dtype=torch.int64, device="cuda"))


@pytest.mark.parametrize(("task", "padded"), [(WORDS, True), (NUMBERS, False)], ids=["padded", "whole"])
@pytest.mark.parametrize("name", BODIES)
def test_a_step_never_waits_for_the_gpu(
    name: str, task: TaskSpec, padded: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if name in CONFIGS:
        CONFIGS[name].save_pretrained(tmp_path)
    model = FrozenPretrainedTransformer(task, BackboneChoice(str(tmp_path) if name in CONFIGS else name, "random"))
    with fake_gpu(monkeypatch):
        move(model)
        gradients = differentiate(_loss(model(*_batch(task, padded))))
    assert set(gradients) == set(model.trained_parameters().values())


@pytest.mark.parametrize("padded", [True, False], ids=["padded", "whole"])
@pytest.mark.parametrize("name", ["tiny", *BODIES])
def test_a_step_of_a_pack_never_waits_for_the_gpu(
    name: str, padded: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if name in CONFIGS:
        CONFIGS[name].save_pretrained(tmp_path)
    path = str(tmp_path) if name in CONFIGS else name
    choices = [BackboneChoice(path, "random", seed=seed, backbone_seed=0) for seed in (0, 1)]
    models = [FrozenPretrainedTransformer(WORDS, choice, PAPER, shuffle_tokens=True) for choice in choices]
    packed = PackedTransformer(models)
    with fake_gpu(monkeypatch), replicated([torch.Generator()] * 2):
        move(packed)
        (tokens, mask), (others, _) = _batch(WORDS, padded), _batch(WORDS, False)
        answers = packed([tokens, others[:, : 8 if padded else None]], [mask, None])
        gradients = differentiate(_loss(torch.cat(answers)))
    assert len(gradients) == sum(len(model.trained_parameters()) for model in models)


@pytest.mark.parametrize(
    "waiting",
    [
        lambda row: row.sum().item(),
        lambda row: bool(row.all()),
        lambda row: row.nonzero(),
        lambda row: torch.ones(2) + row,
        lambda row: row.cpu(),
        lambda row: torch.ones(2).to(row.device),
        lambda row: row.copy_(torch.ones(2)),
    ],
)
def test_what_waits_is_seen(waiting: Callable[[torch.Tensor], object], monkeypatch: pytest.MonkeyPatch) -> None:
    with fake_gpu(monkeypatch):
        row = torch.ones(2, device="cuda")
        row.add_(torch.ones(2).to(row.device, non_blocking=True))
        with pytest.raises(RuntimeError, match=r"_local_scalar_dense|nonzero|same device|waits"):
            waiting(row)


def test_gradients_are_those_of_torch() -> None:
    model = FrozenPretrainedTransformer(NUMBERS, BackboneChoice("tiny"), dropout=0.0)
    loss = model(torch.ones(4, 12, 5)).square().mean()
    ours = differentiate(loss)
    model(torch.ones(4, 12, 5)).square().mean().backward()
    for parameter in model.trained_parameters().values():
        torch.testing.assert_close(ours[parameter], parameter.grad)
