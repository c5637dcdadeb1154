"""Longformer: BERT with attention in a window (Beltagy et al. 2020; FPT section 3.14)."""

from math import lcm
from typing import Any, ClassVar

import torch
import torch.nn.functional as F

from fpt_lightning.models.backbones.families.bert import RoBERTa


class Longformer(RoBERTa):
    """A bidirectional encoder with local attention only: no token of a foreign modality is a natural global one.

    The projections of global attention are dropped with it. Sequences are padded to a multiple of the window here
    rather than in transformers, which pads with the embedding of a token.
    """

    dropped: ClassVar[tuple[str, ...]] = (*RoBERTa.dropped, r"encoder\.layer\.\d+\.attention\.self\.\w+_global\..*")

    form = None  # its attention is its own

    def configure(self, max_length: int, dropout: float) -> None:
        """Narrows windows that are wider than the task is long: every token still sees every other.

        What is narrowed stays a multiple of the others, so that sequences fit all.
        """
        super().configure(max_length, dropout)
        windows = self.config.attention_window
        if isinstance(windows, int):
            windows = [windows] * self.config.num_hidden_layers
        widest = 2 * max(2, max_length)  # transformers computes none that is narrower
        others = lcm(*(window for window in windows if window <= widest))
        widest = -(-widest // others) * others
        self.config.attention_window = [min(window, widest) for window in windows]

    def enter(self, body: Any, rows: torch.Tensor | None) -> None:
        """Drops the projections of global attention."""
        super().enter(body, rows)
        for layer in body.encoder.layer:
            for name in ("query_global", "key_global", "value_global"):
                delattr(layer.attention.self, name)

    def hidden(self, body: Any, embeddings: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        """Pads to a multiple of all windows, and cuts the padding off again."""
        batch, length, _ = embeddings.shape
        padding = -length % lcm(*body.config.attention_window)
        if mask is None:
            mask = torch.ones(batch, length, dtype=torch.bool, device=embeddings.device)
        padded = F.pad(embeddings, (0, 0, 0, padding))
        return super().hidden(body, padded, F.pad(mask, (0, padding)).long())[:, :length]
