"""How much memory a body takes, counted before it is made."""

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from fpt_lightning.machine import expect_memory
from fpt_lightning.models.backbones.families.base import HubFamily

OBJECT = 4096
"""Bytes that Python keeps of a module or a parameter beside its numbers, about."""


def expect_room(build: Callable[[int], nn.Module], depth: int, what: str) -> None:
    """Refuses a body that the memory could not hold.

    One and two blocks on torch's meta device, which holds no numbers, say what all blocks would take.

    Args:
        build: Makes the body with so many blocks.
        depth: Blocks that it is to have.
        what: What it is, the beginning of a sentence.

    Raises:
        UsageError: If it takes more than this process may use, and what ``build`` raises.
    """
    with torch.random.fork_rng(devices=[]), torch.device("meta"):
        one, two = (bytes_of(build(blocks)) for blocks in (1, 2))
    expect_memory(one + (depth - 1) * (two - one), what)


def expect_room_of(family: HubFamily, name: str) -> None:
    """The same of a body of transformers; one whose config counts its blocks under no known name is not counted."""
    depth = getattr(family.config, "num_hidden_layers", None)
    if isinstance(depth, int):
        kind, what = type(family), f"backbone '{name}' of {depth:,} blocks"
        expect_room(lambda blocks: kind(cut(family.config, blocks)).new_body(), depth, what)


def cut(config: Any, blocks: int) -> Any:
    """A config of transformers with so many blocks, and with what it says of each of them."""
    config = copy.deepcopy(config)
    depth = config.num_hidden_layers
    for field, value in list(vars(config).items()):
        if isinstance(value, list) and len(value) == depth:
            setattr(config, field, (value * blocks)[:blocks])
    config.num_hidden_layers = blocks
    return config


def bytes_of(body: nn.Module) -> int:
    """What a body takes, its modules included."""
    tensors = [*body.parameters(), *body.buffers()]
    objects = len(tensors) + sum(1 for _ in body.modules())
    return OBJECT * objects + sum(tensor.numel() * tensor.element_size() for tensor in tensors)
