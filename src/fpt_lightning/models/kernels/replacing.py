"""Modules of a body in other forms, under the names that they have."""

from collections.abc import Callable

from torch import nn


def replace(module: nn.Module, other: Callable[[nn.Module], nn.Module | None]) -> None:
    """Puts in place of every module below this one what ``other`` makes of it; where that is None, it looks below."""
    for name, child in module.named_children():
        if (made := other(child)) is not None:
            setattr(module, name, made)
        else:
            replace(child, other)
