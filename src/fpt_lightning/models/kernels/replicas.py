"""Runs that share a batch: whose random numbers are whose."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor

ALONE: tuple[None] = (None,)
"""One run, which draws from torch's global generator."""

_streams: ContextVar[Sequence[torch.Generator | None]] = ContextVar("streams", default=ALONE)
_looped: ContextVar[bool] = ContextVar("looped", default=False)


@contextmanager
def replicated(streams: Sequence[torch.Generator], *, looped: bool = False) -> Iterator[None]:
    """Says that the batches within the block hold those of several runs, one after the other, equally large.

    Args:
        streams: The generator of each on the CPU. It draws what the run would draw alone; a GPU draws for all together.
        looped: Let every frozen product be one a run: to the last bit what each would compute alone.
    """
    before = _streams.set(tuple(streams)), _looped.set(looped)
    try:
        yield
    finally:
        _streams.reset(before[0])
        _looped.reset(before[1])


def streams() -> Sequence[torch.Generator | None]:
    """A generator for every run of the batch at hand; None stands for torch's global one."""
    return _streams.get()


def is_looped() -> bool:
    """Whether every product is to be one a run."""
    return _looped.get()


def each_alone(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Applies a function to every run's share of ``[runs * batch, ...]`` if that is asked for, else to all at once."""
    count = len(_streams.get())
    if count == 1 or not is_looped():
        return function(x)
    return torch.cat([function(share) for share in x.chunk(count)])
