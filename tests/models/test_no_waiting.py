"""On a GPU no step waits for the device, and no tensor lies beside it: seen on a fake one, which has shapes alone."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import transformers as hf
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import masking_utils

from fpt_lightning.data.spec import TaskSpec
from fpt_lightning.models.backbones.choice import BackboneChoice
from fpt_lightning.models.backbones.families.own import OWN_BODIES
from fpt_lightning.models.fpt import FrozenPretrainedTransformer

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


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeTensorMode:
    """A machine of fake devices; transformers must take them for real, or it leaves out what waits."""
    monkeypatch.setattr(masking_utils, "is_tracing", lambda *_: False)
    return FakeTensorMode(allow_non_fake_inputs=False)


def _move(model: torch.nn.Module, device: str, mode: FakeTensorMode) -> None:
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            moved = mode.from_tensor(parameter).detach().to(device)
            setattr(module, name, torch.nn.Parameter(moved, requires_grad=parameter.requires_grad))
        for name, buffer in module.named_buffers(recurse=False):
            setattr(module, name, mode.from_tensor(buffer).to(device))


@pytest.mark.parametrize(("task", "padded"), [(WORDS, True), (NUMBERS, False)], ids=["padded", "whole"])
@pytest.mark.parametrize("name", BODIES)
def test_a_step_never_waits_for_the_gpu(
    name: str, task: TaskSpec, padded: bool, tmp_path: Path, fake: FakeTensorMode
) -> None:
    if name in CONFIGS:
        CONFIGS[name].save_pretrained(tmp_path)
    choice = BackboneChoice(str(tmp_path) if name in CONFIGS else name, "random")
    # torch asks a real GPU in the backward pass, so that runs on its device of shapes
    for device in ("cuda", "meta"):
        model = FrozenPretrainedTransformer(task, choice)
        with fake:
            _move(model, device, fake)
            shape = (4, task.max_length, *([task.token_width] if task.token_width else []))
            tokens = torch.zeros(shape, device=device, dtype=torch.float32 if task.token_width else torch.int64)
            mask = torch.ones(4, task.max_length, dtype=torch.bool, device=device) if padded else None
            logits = model(tokens, mask).flatten(0, 1)
            loss = F.cross_entropy(logits, torch.zeros(len(logits), dtype=torch.int64, device=device))
            if device == "meta":
                loss.backward()
        assert loss.device.type == device
    assert all(parameter.grad is not None for parameter in model.trained_parameters().values())


def test_what_waits_is_seen(fake: FakeTensorMode) -> None:
    def asks(row: torch.Tensor) -> tuple[Callable[[], object], ...]:
        return row.sum().item, lambda: bool(row.all()), row.nonzero, lambda: torch.ones(2) + row

    for device in ("cuda", "meta"):
        with fake:
            for waiting in asks(torch.ones(2, device=device)):
                with pytest.raises(RuntimeError, match=r"_local_scalar_dense|nonzero|same device"):
                    waiting()
