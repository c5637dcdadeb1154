"""Dropout that costs little on a CPU.

torch draws its mask there one 32-bit number an element at a time, which takes a fifth to a third of a training step of
a frozen body. A 16-bit number an element is enough: the probability is met to 2**-17, and what is kept is scaled by
the exact inverse.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from fpt_lightning.models.kernels.replacing import replace
from fpt_lightning.models.kernels.replicas import streams

LANES = 4
"""16-bit numbers in a 64-bit one."""


def fast_dropout(x: Tensor, p: float) -> Tensor:
    """Zeroes each element with probability ``p`` and scales the others, so that the expectation stays."""
    if x.device.type != "cpu" or p in (0.0, 1.0):
        return F.dropout(x, p)
    kept, scale = draw_all_kept(x.shape, p), kept_scale(p)
    if x.dtype == torch.bfloat16:  # of as many bits as what was drawn, so nothing need be converted
        return x * kept.mul_(torch.tensor(scale, dtype=x.dtype).view(torch.int16)).view(x.dtype)
    return _Dropped.apply(x, kept, scale)


class _Dropped(torch.autograd.Function):
    """The product with a mask of which autograd would keep the factors: in fp32 twice the bytes of what was drawn."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, kept: Tensor, scale: float) -> Tensor:
        ctx.save_for_backward(kept)
        ctx.scale = scale
        return _scaled(x, kept, scale)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        (kept,) = ctx.saved_tensors
        return _scaled(gradient, kept, ctx.scale), None, None


def _scaled(x: Tensor, kept: Tensor, scale: float) -> Tensor:
    return kept.to(x.dtype).mul_(scale).mul_(x)


def draw_all_kept(shape: torch.Size, p: float) -> Tensor:
    """What :func:`draw_kept` draws for a whole tensor of this shape, every run's share from its own stream."""
    runs = streams()
    count = shape.numel() // len(runs)
    words = torch.empty(len(runs), -(-count // LANES), dtype=torch.int64)
    drawn = [draw_kept(row, count, p, stream) for row, stream in zip(words, runs, strict=True)]
    return (drawn[0] if len(runs) == 1 else torch.cat(drawn)).view(shape)


def draw_kept(words: Tensor, count: int, p: float, generator: torch.Generator | None = None) -> Tensor:
    """Draws which elements a dropout of probability ``p`` below 1 keeps.

    ``words`` is memory to draw into, int64, at least one for :data:`LANES` elements. Of it ``[count]`` int16 are
    returned: 1 where an element is kept, 0 where it is dropped.
    """
    numbers = words[: -(-count // LANES)].random_(-(2**63), None, generator=generator).view(torch.int16)[:count]
    if not (dropped := _dropped(p)):
        return numbers.fill_(1)
    lowest = dropped - 2**15
    # a comparison gives bool, on which torch computes ten times slower than on numbers
    return numbers.clamp_(lowest - 1, lowest).sub_(lowest - 1)


def kept_scale(p: float) -> float:
    """The factor of what is kept: the inverse of the probability with which :func:`draw_kept` keeps."""
    return 2**16 / (2**16 - _dropped(p))


def _dropped(p: float) -> int:
    """How many of the 2**16 numbers drop an element."""
    return min(round(p * 2**16), 2**16 - 1)


class Dropout(nn.Dropout):
    """``nn.Dropout`` through :func:`fast_dropout`."""

    def forward(self, x: Tensor) -> Tensor:
        return fast_dropout(x, self.p) if self.training else x


def replace_dropouts(module: nn.Module) -> None:
    """Replaces every dropout layer."""
    replace(module, lambda child: Dropout(child.p) if type(child) is nn.Dropout else None)
