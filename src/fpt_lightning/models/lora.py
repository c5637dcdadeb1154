"""Low-rank adapters (Hu et al. 2022) through peft: an arm to compare the paper's with."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import nn
from transformers.pytorch_utils import Conv1D

from fpt_lightning.errors import FPTError, UsageError, at_least
from fpt_lightning.models.kernels.linear import is_linear
from fpt_lightning.models.parts import Place
from fpt_lightning.random_streams import drawn_from


@dataclass(frozen=True)
class LoraOptions:
    """Where adapters sit and how large they are.

    Args:
        rank: Rank of every adapter.
        alpha: The adapters' outputs are scaled by ``alpha / rank``.
        parts: The parts of the body whose linear layers get one.
    """

    rank: int = 8
    alpha: int = 16
    parts: list[str] = field(default_factory=lambda: ["attention"])


def add_adapters(body: nn.Module, places: Mapping[str, Place], options: LoraOptions, seed: int) -> None:
    """Puts an adapter beside every linear layer of the chosen parts; at first it adds nothing.

    Args:
        body: The body; changed in place.
        places: The place of every parameter; those of the body begin with ``backbone.``.
        options: Where and how large.
        seed: Seed of the adapters' random values.

    Raises:
        FPTError: If peft is not installed.
        UsageError: If there are no parts, one of them has no linear layers, or the rank is below 1.
    """
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError as error:
        raise FPTError('model.lora needs peft: pip install "fpt-lightning[lora]"') from error
    at_least(1, "model.lora.", rank=options.rank)
    linear = {
        name: places[f"backbone.{name}.weight"].part
        for name, module in body.named_modules()
        if is_linear(module) and f"backbone.{name}.weight" in places
    }
    missed = [part for part in options.parts if part not in linear.values()]
    if missed or not options.parts:
        raise UsageError(f"model.lora.parts {', '.join(missed)}: the backbone has no linear layers there")
    adapted = [name for name, part in linear.items() if part in options.parts]
    config = LoraConfig(
        r=options.rank,
        lora_alpha=options.alpha,
        target_modules=adapted,
        fan_in_fan_out=any(isinstance(body.get_submodule(name), Conv1D) for name in adapted),
    )
    with drawn_from(seed, "lora"):
        inject_adapter_in_model(config, body)
