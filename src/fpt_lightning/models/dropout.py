"""Dropout that costs little on a CPU.

torch draws its mask there one 32-bit number an element at a time, which takes a fifth to a third of a training step of
a frozen body. A 16-bit number an element is enough: the probability is met to 2**-17, and what is kept is scaled by
the exact inverse.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from transformers import AttentionInterface, AttentionMaskInterface, PretrainedConfig
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

ATTENTION = "fpt_lightning"
LANES = 4  # 16-bit numbers in a 64-bit one


def fast_dropout(x: torch.Tensor, p: float) -> torch.Tensor:
    """Zeroes each element with probability ``p`` and scales the others, so that the expectation stays."""
    if x.device.type != "cpu" or p == 0.0:
        return F.dropout(x, p)
    dropped = round(p * 2**16)
    words = torch.empty(-(-x.numel() // LANES), dtype=torch.int64).random_(-(2**63), None)
    numbers = words.view(torch.int16)[: x.numel()].view(x.shape)
    kept = (numbers >= dropped - 2**15).to(x.dtype)
    return x * kept.mul_(2**16 / (2**16 - dropped))


class Dropout(nn.Dropout):
    """``nn.Dropout`` through :func:`fast_dropout`."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Any shape in, the same out."""
        return fast_dropout(x, self.p) if self.training else x


def replace_dropouts(module: nn.Module) -> None:
    """Replaces every dropout layer."""
    for name, child in module.named_children():
        if type(child) is nn.Dropout:
            setattr(module, name, Dropout(child.p))
        else:
            replace_dropouts(child)


def use_attention(config: PretrainedConfig) -> None:
    """Makes a model of transformers use :func:`attention`."""
    AttentionInterface.register(ATTENTION, attention)
    AttentionMaskInterface.register(ATTENTION, sdpa_mask)
    config._attn_implementation = ATTENTION


def attention(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Scaled dot-product attention, torch's own but where it would draw a mask on a CPU.

    Args:
        module: The attention layer.
        query: ``[batch, heads, length, head width]``.
        key: As ``query``.
        value: As ``query``.
        attention_mask: ``[batch, 1, length, length]`` bool, True where a query may look; None for all that causality
            allows.
        dropout: Probability that a weight is dropped; 0 outside training.
        scaling: Factor of the scores; the inverse root of the head width where it is None.
        kwargs: What else transformers passes to attention functions.

    Returns:
        ``[batch, length, heads, head width]`` and None, as transformers expects it.
    """
    masked = attention_mask is not None or getattr(module, "is_causal", False)
    special = key.shape != query.shape or any(kwargs.get(name) is not None for name in ("position_bias", "softcap"))
    if query.device.type != "cpu" or dropout == 0.0 or special or not masked:
        return sdpa_attention_forward(module, query, key, value, attention_mask, dropout, scaling, **kwargs)
    scaled = query * (query.shape[-1] ** -0.5 if scaling is None else scaling)
    scores = scaled @ key.transpose(-1, -2)  # [batch, heads, length, length], the largest tensor: changed in place
    if attention_mask is None:
        attention_mask = torch.ones(scores.shape[-2:], dtype=torch.bool).tril()
    scores.masked_fill_(~attention_mask, torch.finfo(scores.dtype).min)
    weights = fast_dropout(scores.softmax(dim=-1), dropout)  # [batch, heads, length, length]
    return (weights @ value).transpose(1, 2).contiguous(), None
