"""Bodies that are not transformers of a hub: the paper's LSTMs and the controls of Tan et al. (2024)."""

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import nn

from fpt_lightning.errors import UsageError, did_you_mean
from fpt_lightning.models.backbones.controls import AttentionBody, NoBody
from fpt_lightning.models.backbones.families.base import Family, set_module
from fpt_lightning.models.backbones.lstm import LayerNormLSTM
from fpt_lightning.models.parts import Place

POSITIONS_AND_NORMS: Mapping[str, str] = {
    r"positions\.weight": "positions",
    r"layers\.(\d+)\.norm\.(?:weight|bias)": "layernorm",
    r"norm\.(?:weight|bias)": "layernorm",
}


class OwnBody(Family):
    """A body of ours: always random, as wide as the paper's GPT-2, with learned positions for the whole task if any.

    Attributes:
        sizes: What ``model.architecture`` may change, with the sizes that it has otherwise.
    """

    sizes: ClassVar[Mapping[str, int]] = {"width": 768}

    @abstractmethod
    def build(self, sizes: Mapping[str, int], max_length: int, dropout: float) -> nn.Module:
        """Draws a body from torch's global generator."""

    def draw(self, changed: Mapping[str, Any], max_length: int, dropout: float, seed: int) -> tuple[nn.Module, int]:
        """Builds a body.

        Returns:
            The body, and the width of its embeddings.

        Raises:
            UsageError: If there is no such size, or it is below 1.
        """
        for key, value in changed.items():
            if key not in self.sizes:
                raise UsageError(
                    f"model.architecture: this backbone has no field '{key}'{did_you_mean(key, self.sizes)} "
                    f"Its fields are {', '.join(self.sizes)}."
                )
            if not isinstance(value, int) or value < 1:
                raise UsageError(f"model.architecture: {key} is a whole number of at least 1, got {value}")
        sizes = {**self.sizes, **changed}
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return self.build(sizes, max_length, dropout), sizes["width"]

    def keep_blocks(self, body: nn.Module, chosen: range) -> None:
        """Keeps some of the layers."""
        layers = body.get_submodule(self.blocks)
        assert isinstance(layers, nn.ModuleList)
        set_module(body, self.blocks, nn.ModuleList(layers[index] for index in chosen))

    def hidden(self, body: nn.Module, embeddings: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        """Runs the body."""
        hidden: torch.Tensor = body(embeddings, mask)
        return hidden


class LSTM(OwnBody):
    """Three layers of LSTM with layer norm (FPT section 3.3)."""

    parts: ClassVar[Mapping[str, str | Place]] = {
        **POSITIONS_AND_NORMS,
        r"layers\.(\d+)\.lstm\.(?:weight|bias)_[ih]h_l0": "recurrence",
    }
    blocks = "layers"
    sizes: ClassVar[Mapping[str, int]] = {"width": 768, "layers": 3}

    def build(self, sizes: Mapping[str, int], max_length: int, dropout: float) -> nn.Module:
        """Without residual connections or positions."""
        return LayerNormLSTM(sizes["width"], sizes["layers"], max_length, dropout)


class LSTMStar(LSTM):
    """LSTM*: twelve layers with residual connections and positions (FPT section 3.3)."""

    sizes: ClassVar[Mapping[str, int]] = {"width": 768, "layers": 12}

    def build(self, sizes: Mapping[str, int], max_length: int, dropout: float) -> nn.Module:
        """With residual connections and positions."""
        return LayerNormLSTM(sizes["width"], sizes["layers"], max_length, dropout, residual=True, positions=True)


class Nothing(OwnBody):
    """No backbone: the input layer straight to the output layer."""

    parts: ClassVar[Mapping[str, str | Place]] = {}
    blocks = ""

    def build(self, sizes: Mapping[str, int], max_length: int, dropout: float) -> nn.Module:
        """Nothing to draw."""
        return NoBody()


class OneAttention(OwnBody):
    """One random attention layer."""

    parts: ClassVar[Mapping[str, str | Place]] = {
        **POSITIONS_AND_NORMS,
        r"layers\.(\d+)\.attention\.(?:c_attn|c_proj)\.(?:weight|bias)": "attention",
    }
    blocks = "layers"
    sizes: ClassVar[Mapping[str, int]] = {"width": 768, "heads": 12}

    def build(self, sizes: Mapping[str, int], max_length: int, dropout: float) -> nn.Module:
        """Of as many heads as asked for."""
        return AttentionBody(sizes["width"], sizes["heads"], max_length, dropout)


OWN_BODIES: Mapping[str, OwnBody] = {
    "lstm": LSTM(),
    "lstm_star": LSTMStar(),
    "none": Nothing(),
    "one_attention": OneAttention(),
}
"""By the name that ``model.backbone`` takes."""
