"""The optimizer of language modelling: AdamW that decays matrices alone, and a cosine with a warm-up."""

import math
from collections.abc import Callable
from typing import Any

from torch import nn

FINAL_SHARE = 0.1
"""Share of the highest learning rate at which a cosine ends (Hoffmann et al. 2022, appendix B)."""


def decayed_groups(module: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """The optimizer's groups: matrices with weight decay, biases and gains of layer norms without.

    A tensor under two names counts once.
    """
    parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
    return [
        {"params": [parameter for parameter in parameters if parameter.dim() >= 2], "weight_decay": weight_decay},
        {"params": [parameter for parameter in parameters if parameter.dim() < 2], "weight_decay": 0.0},
    ]


def warm_cosine(warmup_steps: int, steps: int) -> Callable[[int], float]:
    """The factor of the learning rate at a step: from near 0 up to 1 in a line, then half a cosine to ``steps``."""

    def factor(step: int) -> float:
        if step < warmup_steps:
            return (step + 1) / warmup_steps
        passed = min(1.0, (step - warmup_steps) / max(1, steps - warmup_steps))
        return FINAL_SHARE + (1 - FINAL_SHARE) * (1 + math.cos(math.pi * passed)) / 2

    return factor
