import builtins
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from fpt_lightning.data.spec import TaskSpec
from fpt_lightning.errors import FPTError, UsageError
from fpt_lightning.models.backbones.choice import BackboneChoice
from fpt_lightning.models.fpt import FrozenPretrainedTransformer
from fpt_lightning.models.lora import LoraOptions

TASK = TaskSpec("image", max_length=16, classes=10, token_width=48)
LORA = LoraOptions(rank=2, alpha=4, parts=["attention"])


def _model(lora: LoraOptions | None = LORA, seed: int = 0) -> FrozenPretrainedTransformer:
    return FrozenPretrainedTransformer(TASK, BackboneChoice("tiny", seed=seed), ["output"], dropout=0.0, lora=lora)


def _tokens() -> torch.Tensor:
    return torch.randn(3, 16, 48, generator=torch.Generator().manual_seed(0))


def test_the_exact_names_that_train() -> None:
    assert set(_model().trained_parameters()) == {
        "output.weight",
        "output.bias",
        *(
            f"backbone.h.{layer}.attn.{name}.lora_{side}.default.weight"
            for layer in range(2)
            for name in ("c_attn", "c_proj")
            for side in "AB"
        ),
    }


def test_at_first_an_adapter_adds_nothing() -> None:
    torch.testing.assert_close(_model()(_tokens()), _model(lora=None)(_tokens()))


def test_an_adapter_computes_what_the_paper_says() -> None:
    """W x + alpha / rank * B A x (Hu et al. 2022, section 4.1)."""
    model = _model()
    layer: Any = model.backbone.get_submodule("h.0.mlp.c_fc")
    adapted: Any = model.backbone.get_submodule("h.0.attn.c_attn")
    assert not hasattr(layer, "lora_A")
    a, b = adapted.lora_A.default.weight, adapted.lora_B.default.weight
    with torch.no_grad():
        b.normal_()
    x = torch.randn(5, 32)
    expected = x @ adapted.base_layer.weight + adapted.base_layer.bias + 2 * x @ a.T @ b.T
    torch.testing.assert_close(adapted(x), expected, atol=1e-5, rtol=1e-5)


def test_steps_change_the_adapters_and_nothing_frozen() -> None:
    model = _model()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    optimizer = torch.optim.Adam(model.trained_parameters().values(), lr=0.01)
    for _ in range(3):
        optimizer.zero_grad()
        F.cross_entropy(model(_tokens()).flatten(0, 1), torch.tensor([0, 1, 2])).backward()
        optimizer.step()
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == set(model.trained_parameters())


def test_adapters_follow_the_seed() -> None:
    name = "backbone.h.0.attn.c_attn.lora_A.default.weight"
    first, same, other = (_model(seed=seed).get_parameter(name) for seed in (0, 0, 1))
    assert torch.equal(first, same)
    assert not torch.equal(first, other)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (LoraOptions(rank=0), "rank must be at least 1"),
        (LoraOptions(parts=["layernorm"]), "no linear layers there"),
        (LoraOptions(parts=["atention"]), "no linear layers there"),
        (
            LoraOptions(parts=["attention", "feed_forward"]),
            r"model\.lora\.parts feed_forward: .* no linear layers there",
        ),
        (LoraOptions(parts=[]), "no linear layers there"),
    ],
)
def test_wrong_options(options: LoraOptions, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        _model(options)


def test_without_peft(monkeypatch: pytest.MonkeyPatch) -> None:
    original = builtins.__import__

    def without(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "peft":
            raise ImportError(name)
        return original(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(FPTError, match=r"pip install \"fpt-lightning\[lora\]\""):
        _model()
