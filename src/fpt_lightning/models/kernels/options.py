"""What a call of attention asks for."""

from typing import NamedTuple

import torch


class AttentionOptions(NamedTuple):
    """What a kernel is told beside query, key and value.

    Attributes:
        mask: ``[1 or batch, 1, 1 or length, 1 or length]`` bool, True where a query may look; or None.
        bias: Added to the scores, ``[1 or batch, heads, length, length]``; or None.
        causal: A query sees no key after it; only without a mask.
        scaling: Factor of the scores.
        dropout: Probability that a weight is dropped, below 1.
    """

    mask: torch.Tensor | None
    bias: torch.Tensor | None
    causal: bool
    scaling: float
    dropout: float
