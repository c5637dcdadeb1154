"""Tokens in a random order: a control of Tan et al. (2024, section 3), which takes away what their order tells."""

from collections.abc import Sequence

import torch
from torch import nn

from fpt_lightning.data.loading import CountedStream
from fpt_lightning.models.kernels.replicas import streams

EVALUATION_KEY = (0x7368756666, 0)
"""Of the stream of numbers that order the tokens in evaluation."""


def shuffle(tokens: torch.Tensor, numbers: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
    """Puts the tokens of every example into an order of its own (Sf-All).

    One order for all examples would take nothing away: learned positions would follow it.

    Args:
        tokens: ``[batch, length, token_width]``, or ``[batch, length]`` ids.
        numbers: ``[batch, length]`` in [0, 1): a token with a smaller one goes before a token with a larger one.
        mask: ``[batch, length]`` bool, True for real tokens, padding after them; None if nothing is padded.

    Returns:
        ``tokens`` reordered; padding stays where it is.
    """
    if mask is not None:
        numbers = numbers.masked_fill(~mask, 2.0)  # behind all real tokens, in the order it has
    order = numbers.argsort(dim=1, stable=True)  # [batch, length]
    if tokens.dim() == 3:
        order = order[:, :, None].expand_as(tokens)
    return tokens.gather(1, order)


class TokenShuffle(nn.Module):
    """:func:`shuffle` for the entrance of a model.

    Training draws from its run's :func:`streams`. In evaluation the order of an example is a function of its place in
    the split alone, so that figures depend neither on the run's seed nor on batch size, padding or devices. A task that
    answers at several tokens loses which answer belongs to which: the control is for tasks with one answer.
    """

    def forward(
        self, tokens: torch.Tensor, mask: torch.Tensor | None = None, places: Sequence[int] | None = None
    ) -> torch.Tensor:
        """Shuffles a batch of the examples at these places of their split; of the first ones where it is None."""
        size, length = tokens.shape[:2]
        if self.training:
            runs = streams()
            drawn = [torch.rand(size // len(runs), length, dtype=torch.float64, generator=run) for run in runs]
            numbers = torch.cat(drawn)
        else:
            stream = CountedStream(torch.from_numpy, length, EVALUATION_KEY)
            numbers = stream.__getitems__(range(size) if places is None else places)
        return shuffle(tokens, numbers.to(tokens.device, non_blocking=True), mask)
