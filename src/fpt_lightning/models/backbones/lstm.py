"""The layer-norm LSTM that the paper compares transformers with (FPT section 3.3), one fused call a layer.

Where we leave the literature: Ba et al. (2016, Layer Normalization, appendix on LSTMs), and the paper's reference after
them, normalise inside the recurrence, at every time step. No fused kernel does that, and a step at a time costs many
times as much (``benchmarks/lstm.py``). Here the norm stands before each layer, and one after the last, as in a
transformer of today; so do its trained parts correspond. Initial states are zero, and dropout acts between layers, not
in time (Zaremba et al. 2014).
"""

import torch
from torch import nn

from fpt_lightning.models.kernels.dropout import Dropout


class LayerNormLSTM(nn.Module):
    """Layers of layer norm and LSTM, entered through embeddings.

    Random values follow torch's global generator. Weights that do not train cost no gradient on a GPU; on a CPU oneDNN
    makes them nevertheless, in a kernel so much faster that every way around it took longer.

    Args:
        width: Numbers in an embedding and in a hidden state.
        layers: 3 for the paper's LSTM, 12 for its LSTM*.
        max_length: Tokens in the longest sequence.
        dropout: Probability of every dropout.
        residual: Add each layer's input to its output (LSTM*).
        positions: Add learned positional embeddings (LSTM*).
    """

    def __init__(
        self,
        width: int,
        layers: int,
        max_length: int,
        dropout: float,
        residual: bool = False,
        positions: bool = False,
    ) -> None:
        super().__init__()
        self.residual = residual
        self.positions = new_positions(max_length, width) if positions else None
        self.layers = nn.ModuleList(_Layer(width) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.dropout = Dropout(dropout)

    def forward(self, inputs_embeds: torch.Tensor, attention_mask: torch.Tensor | None = None) -> torch.Tensor:
        """Reads a sequence.

        Args:
            inputs_embeds: ``[batch, length, width]``.
            attention_mask: ``[batch, length]`` bool. Unused: padding stands after the real tokens, where a recurrence
                forward in time has already passed them, so nothing needs packing.

        Returns:
            Hidden states ``[batch, length, width]``; what stands at padded positions means nothing.
        """
        hidden = add_positions(inputs_embeds, self.positions)
        hidden = self.dropout(hidden)
        for layer in self.layers:
            out = self.dropout(layer(hidden))  # [batch, length, width]
            hidden = hidden + out if self.residual else out
        normalised: torch.Tensor = self.norm(hidden)
        return normalised


class _Layer(nn.Module):
    """Layer norm, then an LSTM over the whole sequence."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.lstm = nn.LSTM(width, width, batch_first=True)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.lstm(self.norm(hidden))[0]
        return out


def new_positions(max_length: int, width: int) -> nn.Embedding:
    """Positional embeddings with GPT-2's random values."""
    positions = nn.Embedding(max_length, width)
    nn.init.normal_(positions.weight, std=0.02)
    return positions


def add_positions(embeddings: torch.Tensor, positions: nn.Embedding | None) -> torch.Tensor:
    """Adds the first positions to ``[batch, length, width]``."""
    return embeddings if positions is None else embeddings + positions.weight[: embeddings.shape[1]]
