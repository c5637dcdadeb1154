"""The layer-norm LSTM that the paper compares transformers with (FPT section 3.3), one fused call a layer.

Where we leave the literature: Ba et al. (2016, Layer Normalization, appendix on LSTMs), and the paper's reference after
them, normalise inside the recurrence, at every time step. No fused kernel does that, and a step at a time costs many
times as much (``benchmarks/lstm.py``). Here the norm stands before each layer, and one after the last, as in a
transformer of today; so do its trained parts correspond. Initial states are zero, and dropout acts between layers, not
in time (Zaremba et al. 2014).
"""

from typing import Any

import torch
from torch import nn

from fpt_lightning.machine import bf16_units
from fpt_lightning.models.backbones.layered import LayeredBody


class LayerNormLSTM(LayeredBody):
    """A :class:`LayeredBody` of LSTMs: the paper's has three layers, its LSTM* twelve, with residual and positions.

    Weights that do not train cost no gradient on a GPU; on a CPU oneDNN makes them nevertheless, in a kernel so much
    faster that every way around it took longer.
    """

    def __init__(
        self, width: int, layers: int, max_length: int, dropout: float, residual: bool = False, positions: bool = False
    ) -> None:
        lstms = [_LSTM(width, width, batch_first=True) for _ in range(layers)]
        super().__init__("lstm", lstms, width, dropout, residual, max_length if positions else None)


class _LSTM(nn.LSTM):
    """An LSTM that computes in fp32 under autocast where oneDNN has no kernel in bf16, or none that is faster."""

    def forward(self, input: torch.Tensor, hx: Any = None) -> Any:  # type: ignore[override]  # noqa: A002
        if input.device.type != "cpu" or not torch.is_autocast_enabled("cpu") or bf16_units("cpu"):
            return super().forward(input, hx)
        with torch.autocast("cpu", enabled=False):
            return super().forward(input.float(), hx)
