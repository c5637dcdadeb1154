"""What the kernels of attention have in common.

Each takes query, key and value ``[batch, heads, length, head width]`` and an :class:`AttentionOptions`, and returns
``[batch, length, heads, head width]``.
"""

from typing import NamedTuple

from torch import Tensor


class AttentionOptions(NamedTuple):
    """What a call asks for beside query, key and value.

    Attributes:
        mask: ``[1 or batch, 1, 1 or length, 1 or length]`` bool, True where a query may look; or None.
        bias: Added to the scores, ``[1 or batch, heads, length, length]``; or None.
        causal: A query sees no key after it; only without a mask.
        scaling: Factor of the scores.
        dropout: Probability that a weight is dropped, below 1.
    """

    mask: Tensor | None
    bias: Tensor | None
    causal: bool
    scaling: float
    dropout: float
