"""A linear layer on all tokens at once, for the controls without a backbone."""

import torch
import torch.nn.functional as F
from torch import nn

from fpt_lightning.data.spec import TaskSpec


class FlatLayer(nn.Module):
    """One linear map of a whole example: its tokens one after the other, ids as one-hot, padding as zeros.

    Args:
        task: The sizes of the task.
        outputs: Numbers that it gives for an example.

    Attributes:
        weight: ``[max_length * (token_width or vocabulary_size), outputs]``: of ids it is a table by position and id.
        bias: ``[outputs]``.
    """

    def __init__(self, task: TaskSpec, outputs: int) -> None:
        super().__init__()
        self.task = task
        features = task.max_length * (task.token_width or task.vocabulary_size or 0)
        bound = features**-0.5  # as torch draws nn.Linear
        self.weight = nn.Parameter(torch.empty(features, outputs).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(outputs).uniform_(-bound, bound))

    def forward(self, tokens: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        """Maps ``[batch, length, token_width]``, or ids ``[batch, length]``, to ``[batch, outputs]``."""
        if (vocabulary := self.task.vocabulary_size) is not None:
            rows = tokens + vocabulary * torch.arange(tokens.size(1), device=tokens.device)  # [batch, length]
            real = None if mask is None else mask.to(self.weight.dtype)
            return F.embedding_bag(rows, self.weight, mode="sum", per_sample_weights=real) + self.bias
        if mask is not None:
            tokens = tokens * mask[:, :, None]
        padded = F.pad(tokens, (0, 0, 0, self.task.max_length - tokens.size(1)))  # [batch, max_length, token_width]
        return padded.flatten(1).to(self.weight.dtype) @ self.weight + self.bias
