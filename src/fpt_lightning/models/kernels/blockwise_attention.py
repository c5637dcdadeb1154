"""Causal attention in blocks of queries, for training without dropout on a CPU.

torch's own kernel computes both halves of the scores and multiplies in fp32 inside, so in bf16 on a processor with
bf16 products it takes two to three times as long as these plain products. `benchmarks/pretraining.py` shows the step.
"""

import torch
from torch import Tensor

BLOCK = 128
"""Queries at a time: few enough that little of the masked half is computed, and that scores stay in the cache."""


def blockwise_attention(query: Tensor, key: Tensor, value: Tensor, scaling: float) -> Tensor:
    """Causal attention of ``[batch, heads, length, head width]``, a block of queries after the other."""
    batch, heads, length, width = query.shape
    query = query * scaling
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
    return torch.cat(results, dim=2).transpose(1, 2)
