"""Tokens in a random order: a control of Tan et al. (2024, section 3), which takes away what their order tells."""

import torch
from torch import nn


def shuffle(
    tokens: torch.Tensor, mask: torch.Tensor | None = None, generator: torch.Generator | None = None
) -> torch.Tensor:
    """Puts the tokens of every example into an order of its own, drawn anew at every call (Sf-All).

    One order for all examples would take nothing away: learned positions would follow it.

    Args:
        tokens: ``[batch, length, token_width]``, or ``[batch, length]`` ids.
        mask: ``[batch, length]`` bool, True for real tokens, padding after them; None if nothing is padded.
        generator: Of the CPU, so that the orders are the same on every device; None is torch's global one.

    Returns:
        ``tokens`` reordered; padding stays where it is.
    """
    places = torch.rand(tokens.shape[:2], generator=generator, dtype=torch.float64).to(tokens.device)
    if mask is not None:
        places = places.masked_fill(~mask, 2.0)  # behind all real tokens, in the order it has
    order = places.argsort(dim=1, stable=True)  # [batch, length]
    if tokens.dim() == 3:
        order = order[:, :, None].expand_as(tokens)
    return tokens.gather(1, order)


class TokenShuffle(nn.Module):
    """:func:`shuffle` for the entrance of a model.

    Training draws from torch's global generator. Evaluation gives the examples of every batch the orders of one fixed
    seed, so that figures neither depend on the run's seed nor change from one evaluation to the next. A task that
    answers at several tokens loses which answer belongs to which: the control is for tasks with one answer.
    """

    def forward(self, tokens: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        return shuffle(tokens, mask, None if self.training else torch.Generator().manual_seed(0))
