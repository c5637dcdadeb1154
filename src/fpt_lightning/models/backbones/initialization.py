"""Random values: an architecture's own, those with the statistics of pretrained ones, and what is drawn beside them."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from fpt_lightning.models.backbones.families.base import HubFamily


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Draws from torch's global generator under a seed of its own, and leaves the generator as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


@torch.no_grad()
def keep_statistics(body: nn.Module, seed: int) -> None:
    """Replaces every parameter by normal values of its own mean and standard deviation (FPT section 3.8, table 9)."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in body.parameters():
        drawn = torch.randn(parameter.shape, generator=generator)
        parameter.copy_(drawn.mul_(parameter.std(correction=0)).add_(parameter.mean()))


def draw_embeddings(family: HubFamily, count: int, seed: int) -> torch.Tensor:
    """Embeddings ``[count, width]`` with the values that the architecture's own begin with."""
    generator = torch.Generator().manual_seed(seed)
    spread = getattr(family.config, "initializer_range", 1.0)
    return torch.randn(count, family.width, generator=generator) * spread
