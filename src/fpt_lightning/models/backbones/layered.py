"""The form of our own bodies: layers that each are a layer norm and one module, as in a transformer of today."""

from collections.abc import Iterable

import torch
from torch import nn

from fpt_lightning.models.kernels.dropout import Dropout


class LayeredBody(nn.Module):
    """Positions if any, dropout, layers, and a layer norm behind the last.

    Args:
        name: What the module in every layer is called.
        modules: Those modules; the first that each returns is ``[batch, length, width]``, in which no token sees a
            later one.
        width: Numbers in an embedding and in a hidden state.
        dropout: Probability of dropout at the entrance and behind each layer.
        residual: Add each layer's input to its output.
        positions: Tokens in the longest sequence that gets positional embeddings, with GPT-2's random values; or None.
    """

    def __init__(
        self,
        name: str,
        modules: Iterable[nn.Module],
        width: int,
        dropout: float,
        residual: bool,
        positions: int | None,
    ) -> None:
        super().__init__()
        self.residual = residual
        self.positions = None if positions is None else nn.Embedding(positions, width)
        if self.positions is not None:
            nn.init.normal_(self.positions.weight, std=0.02)
        self.layers = nn.ModuleList(nn.ModuleDict({"norm": nn.LayerNorm(width), name: module}) for module in modules)
        self.norm = nn.LayerNorm(width)
        self.dropout = Dropout(dropout)

    def forward(self, inputs_embeds: torch.Tensor, attention_mask: torch.Tensor | None = None) -> torch.Tensor:
        """Maps ``[batch, length, width]`` to the same; needs no mask, as no real token sees the padding after it."""
        hidden = inputs_embeds
        if self.positions is not None:
            hidden = hidden + self.positions(torch.arange(hidden.size(1), device=hidden.device)[None])
        hidden = self.dropout(hidden)
        for layer in self.layers:
            norm, module = layer.children()
            out = self.dropout(module(norm(hidden))[0])  # [batch, length, width]
            hidden = hidden + out if self.residual else out
        return self.norm(hidden)
