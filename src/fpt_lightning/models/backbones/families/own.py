"""Bodies that are not transformers of a hub: the paper's LSTMs and the controls of Tan et al. (2024)."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import nn

from fpt_lightning.errors import UsageError, did_you_mean
from fpt_lightning.models.backbones.controls import AttentionBody, NoBody
from fpt_lightning.models.backbones.families.base import Family
from fpt_lightning.models.backbones.lstm import LayerNormLSTM

# what draws a body from torch's global generator, and the sizes that `model.architecture` may change
OWN_BODIES: Mapping[str, tuple[Callable[..., nn.Module], Mapping[str, int]]] = {
    # FPT section 3.3; LSTM* has twelve layers with residual connections and positions
    "lstm": (LayerNormLSTM, {"width": 768, "layers": 3}),
    "lstm_star": (partial(LayerNormLSTM, residual=True, positions=True), {"width": 768, "layers": 12}),
    # all tokens straight to the output layer, or through a hidden layer of that width
    "none": (lambda **_: NoBody(), {}),
    "two_layer": (lambda **_: NoBody(), {"width": 768}),
    "one_attention": (AttentionBody, {"width": 768, "heads": 12}),
}
"""By the name that ``model.backbone`` takes; as wide as the paper's GPT-2 unless told otherwise."""


class OwnBody(Family):
    """One of :data:`OWN_BODIES`: always random, with learned positions for the whole task if any.

    Args:
        name: Which one.
        changed: The sizes that ``model.architecture`` changes.

    Raises:
        UsageError: If there is no such size, or it is below 1.
    """

    parts = (
        (r"positions\.weight", "positions"),
        (r"layers\.(\d+)\.norm\.(?:weight|bias)", "layernorm"),
        (r"norm\.(?:weight|bias)", "layernorm"),
        (r"layers\.(\d+)\.lstm\.(?:weight|bias)_[ih]h_l0", "recurrence"),
        (r"layers\.(\d+)\.attention\.(?:c_attn|c_proj)\.(?:weight|bias)", "attention"),
    )
    blocks = "layers"

    def __init__(self, name: str, changed: Mapping[str, Any]) -> None:
        _, sizes = OWN_BODIES[name]
        for key, value in changed.items():
            if key not in sizes:
                raise UsageError(
                    f"model.architecture: this backbone has no field '{key}'{did_you_mean(key, sizes)} "
                    f"Its fields are {', '.join(sizes) or 'none'}."
                )
            if type(value) is not int or value < 1:
                raise UsageError(f"model.architecture: {key} is a whole number of at least 1, got {value}")
        self.name = name
        self.sizes: Mapping[str, int] = {**sizes, **changed}
        self.width = self.sizes.get("width", 0)
        self.learned_positions = name in ("lstm_star", "one_attention")

    def new_body(self, max_length: int, dropout: float, layers: int | None = None) -> nn.Module:
        """Draws a body from torch's global generator; with fewer layers where it is only to be counted."""
        build, sizes = OWN_BODIES[self.name]
        fewer = {"layers": layers} if layers is not None and "layers" in sizes else {}
        return build(max_length=max_length, dropout=dropout, **{**self.sizes, **fewer})

    def hidden(self, body: nn.Module, embeddings: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        return body(embeddings, mask)
