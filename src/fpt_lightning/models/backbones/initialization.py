"""Random values in place of pretrained ones, and those that are drawn beside them."""

import re
from collections.abc import Iterable, Mapping

import torch
from torch import nn

from fpt_lightning.errors import UsageError, did_you_mean
from fpt_lightning.models.backbones.families.base import HubFamily
from fpt_lightning.models.parts import place_parameters
from fpt_lightning.random_streams import drawn_from, generator


@torch.no_grad()
def keep_statistics(parameters: Iterable[tuple[str, nn.Parameter]], seed: int) -> None:
    """Replaces each by normal values of its own mean and standard deviation (FPT section 3.8, table 9)."""
    for name, parameter in parameters:
        drawn = torch.randn(parameter.shape, generator=generator(seed, f"statistics {name}"))
        parameter.copy_(drawn.mul_(parameter.std(correction=0)).add_(parameter.mean()))


@torch.no_grad()
def draw_parts(
    body: nn.Module, family: HubFamily, parts: Mapping[str, str], seed: int, *, residual_scaling: bool = True
) -> None:
    """Replaces the values of some parts of a pretrained body by those that the whole body would have.

    Args:
        body: The body as it is loaded; changed in place.
        family: Its family.
        parts: ``random`` or ``statistics``, by part.
        seed: Seed of the values.
        residual_scaling: See :func:`random_body`.

    Raises:
        UsageError: If the body has no such part.
    """
    kept = {name: value for name, value in body.named_parameters() if not family.drops(name)}
    places = place_parameters([f"backbone.{name}" for name in kept], family.parts, family.config.model_type)
    known = sorted({place.part for place in places.values()})
    for part, initialization in parts.items():
        if part not in known:
            raise UsageError(
                f"model.initialization: no part of this backbone is called '{part}'{did_you_mean(part, known)} "
                f"Its parts are {', '.join(known)}."
            )
        of_part = {name: value for name, value in kept.items() if places[f"backbone.{name}"].part == part}
        if initialization == "statistics":
            keep_statistics(of_part.items(), seed)
        else:
            drawn = random_body(family, seed, residual_scaling=residual_scaling)
            for name, parameter in of_part.items():
                parameter.copy_(drawn.get_parameter(name))


@torch.no_grad()
def random_body(family: HubFamily, seed: int, *, residual_scaling: bool = True) -> nn.Module:
    """A body with the architecture's own random values; without ``residual_scaling`` those of one kind of layer."""
    with drawn_from(seed, "backbone"):
        body = family.new_body()
    if not residual_scaling:
        for name, parameter in body.named_parameters():
            if family.scaled is not None and re.fullmatch(family.scaled, name):
                parameter.mul_((2 * family.config.num_hidden_layers) ** 0.5)
    return body


def draw_embeddings(family: HubFamily, count: int, stream: torch.Generator) -> torch.Tensor:
    """Embeddings ``[count, width]`` with the values that the architecture's own begin with."""
    return torch.randn(count, family.width, generator=stream) * getattr(family.config, "initializer_range", 1.0)
