"""Random values in place of pretrained ones, and those that are drawn beside them."""

import torch
from torch import nn

from fpt_lightning.models.backbones.families.base import HubFamily
from fpt_lightning.models.random_streams import generator


@torch.no_grad()
def keep_statistics(body: nn.Module, seed: int) -> None:
    """Replaces every parameter by normal values of its own mean and standard deviation (FPT section 3.8, table 9)."""
    for name, parameter in body.named_parameters():
        drawn = torch.randn(parameter.shape, generator=generator(seed, f"statistics {name}"))
        parameter.copy_(drawn.mul_(parameter.std(correction=0)).add_(parameter.mean()))


def draw_embeddings(family: HubFamily, count: int, stream: torch.Generator) -> torch.Tensor:
    """Embeddings ``[count, width]`` with the values that the architecture's own begin with."""
    return torch.randn(count, family.width, generator=stream) * getattr(family.config, "initializer_range", 1.0)
