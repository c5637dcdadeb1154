"""bf16 on a processor that has no products in it: they are made in fp32, and the answers are the same but for rounding."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import transformers as hf
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from fpt_lightning.data.spec import TaskSpec
from fpt_lightning.models.backbones.choice import BackboneChoice
from fpt_lightning.models.fpt import FrozenPretrainedTransformer
from fpt_lightning.models.kernels import linear

WIDTH = 32
TASK = TaskSpec("numbers", max_length=12, classes=3, token_width=5, answer_tokens=2)
SIZES = {"hidden_size": WIDTH, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
CONFIGS: dict[str, Any] = {
    "gpt2": hf.GPT2Config(n_positions=40, n_embd=WIDTH, n_layer=2, n_head=4),
    "bert": hf.BertConfig(**SIZES),
    "t5": hf.T5Config(d_model=WIDTH, num_layers=2, num_heads=4, d_kv=8, d_ff=64),
    "vit": hf.ViTConfig(**SIZES, image_size=32, patch_size=8),
    "gpt_neox": hf.GPTNeoXConfig(**SIZES),
    "llama": hf.LlamaConfig(**SIZES, num_key_value_heads=2),
}
PRODUCTS = ("mm", "addmm", "bmm", "baddbmm")
EDGES = (TASK.token_width, TASK.logits_per_answer)
"""Widths of what is read and answered: the layers there are torch's own, and small."""


class _InBF16(TorchDispatchMode):
    """The products of two bf16 matrices that torch is asked for, but those of the layers at the edges."""

    def __init__(self) -> None:
        super().__init__()
        self.products: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = str(func).split(".")[1]
        tensors = [each for each in args if isinstance(each, Tensor) and each.dtype == torch.bfloat16]
        if (name in PRODUCTS or "attention" in name) and tensors:
            sizes = [tuple(each.shape) for each in tensors]
            if not any(size in EDGES for shape in sizes for size in shape):
                self.products.append(f"{name} of {sizes}")
        return func(*args, **(kwargs or {}))


def _step(model: FrozenPretrainedTransformer, tokens: Tensor, mask: Tensor | None, bf16: bool = True) -> list[Tensor]:
    """Logits and all gradients of a step, each as one row."""
    torch.manual_seed(1)  # of what dropout draws
    model.zero_grad()
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        logits = model(tokens, mask)
        loss = F.cross_entropy(logits.flatten(0, -2).float(), torch.arange(2 * len(tokens)) % 3)
    loss.backward()
    assert logits.dtype == (torch.bfloat16 if bf16 else torch.float32)
    gradients = [each.grad.flatten() for each in model.trained_parameters().values() if each.grad is not None]
    assert len(gradients) == len(model.trained_parameters())
    return [logits.detach().flatten(), torch.cat(gradients)]


@pytest.mark.parametrize(("padded", "dropout"), [(False, 0.0), (True, 0.1)], ids=["whole", "padded, with dropout"])
@pytest.mark.parametrize("kept", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", CONFIGS)
def test_a_step_asks_for_no_product_in_bf16(
    name: str, kept: Any, padded: bool, dropout: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    CONFIGS[name].save_pretrained(tmp_path)
    choice = BackboneChoice(str(tmp_path), "random")
    model = FrozenPretrainedTransformer(TASK, choice, frozen_dtype=kept, dropout=dropout)
    tokens = torch.randn(8, TASK.max_length, 5)
    mask = torch.arange(TASK.max_length).expand(8, -1) < torch.randint(4, 13, (8, 1)) if padded else None
    exact = _step(model, tokens, mask, bf16=False)
    for native in (True, False):
        monkeypatch.setattr(linear, "multiplies_bf16", lambda native=native: native)
        with _InBF16() as asked:
            made = _step(model, tokens, mask)
        assert bool(asked.products) == native, asked.products
        for ours, wanted, bound in zip(made, exact, (0.03, 0.15), strict=True):
            assert 0 < (ours - wanted).norm() < bound * wanted.norm()
