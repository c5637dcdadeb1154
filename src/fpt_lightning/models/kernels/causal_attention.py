"""Causal attention in blocks of queries, for training without dropout on a CPU.

torch's own kernel computes both halves of the scores and multiplies in fp32 inside, so in bf16 on a processor with
bf16 products it takes two to three times as long as these plain products. `benchmarks/pretraining.py` shows the step.
"""

from typing import Any

import torch
from transformers import PretrainedConfig
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from fpt_lightning.models.kernels.attention import register_attention

CAUSAL_ATTENTION = "fpt_lightning_causal"
BLOCK = 128
"""Queries at a time: few enough that little of the masked half is computed, and that scores stay in the cache."""


def use_causal_attention(config: PretrainedConfig) -> None:
    """Makes a causal model of transformers use :func:`causal_attention`."""
    register_attention(config, CAUSAL_ATTENTION, causal_attention)


def causal_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Scaled dot-product attention, torch's own but where it is a whole causal bf16 sequence on a CPU.

    Args:
        module: The attention layer.
        query: ``[batch, heads, length, head width]``.
        key: As ``query``.
        value: As ``query``.
        attention_mask: None for all that causality allows.
        dropout: Probability that a weight is dropped.
        scaling: Factor of the scores; the inverse root of the head width where it is None.
        kwargs: What else transformers passes to attention functions.

    Returns:
        ``[batch, length, heads, head width]`` and None, as transformers expects it.
    """
    plain = query.shape == key.shape == value.shape and attention_mask is None and dropout == 0.0
    if not plain or query.device.type != "cpu" or query.dtype != torch.bfloat16:
        return sdpa_attention_forward(module, query, key, value, attention_mask, dropout, scaling, **kwargs)
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    return blockwise(query * scaling, key, value).transpose(1, 2), None


def blockwise(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """Causal attention of scaled queries ``[batch, heads, length, head width]``, a block of them after the other."""
    batch, heads, length, width = query.shape
    later = torch.full((length, length), float("-inf"), dtype=query.dtype).triu(1)
    results = []
    for start in range(0, length, BLOCK):
        stop = min(start + BLOCK, length)
        queries, keys, values = query[:, :, start:stop], key[:, :, :stop], value[:, :, :stop]
        scores = torch.baddbmm(
            later[start:stop, :stop].expand(batch * heads, -1, -1),
            queries.reshape(batch * heads, -1, width),
            keys.reshape(batch * heads, -1, width).transpose(1, 2),
        )
        weights = scores.softmax(dim=-1)  # [batch * heads, queries, keys]
        result = weights.to(value.dtype) @ values.reshape(batch * heads, -1, width)
        results.append(result.view(batch, heads, -1, width))
    return torch.cat(results, dim=2)
