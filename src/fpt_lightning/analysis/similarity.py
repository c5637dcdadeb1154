"""How alike the layers of two bodies are: centered kernel alignment."""

import torch


def similarity(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    """Linear CKA of two sets of hidden states of the same tokens (Kornblith et al. 2019), without its bias.

    The plain estimate nears 1 for any two random states that are wider than their tokens are many; this one, of the
    unbiased HSIC (Song et al. 2012, as in Nguyen et al. 2021), is 0 in the mean for states that are independent.

    Args:
        ours: ``[tokens, width]``, at least 4 tokens.
        theirs: ``[tokens, their width]``.

    Returns:
        1 where one is a rotation of the other, and nan where a set is the same at every token.
    """
    first, second = (_gram(states) for states in (ours, theirs))
    norm = _hsic(first, first) * _hsic(second, second)
    return (_hsic(first, second) / norm.sqrt()).item() if norm > 0 else torch.nan


def _gram(states: torch.Tensor) -> torch.Tensor:
    """``[tokens, tokens]`` of inner products, none of a token with itself."""
    centered = states.double() - states.double().mean(0)  # or rounding decides where states hardly differ
    return (centered @ centered.T).fill_diagonal_(0)


def _hsic(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    count = len(first)
    paired = (first * second).sum()
    sums = first.sum() * second.sum() / ((count - 1) * (count - 2))
    rows = 2 * (first.sum(0) @ second.sum(0)) / (count - 2)
    return (paired + sums - rows) / (count * (count - 3))
