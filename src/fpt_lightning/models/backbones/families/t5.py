"""The encoder of T5 (Raffel et al. 2020; FPT section 3.14)."""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import nn
from transformers import PretrainedConfig, T5EncoderModel

from fpt_lightning.models.backbones.families.base import Family
from fpt_lightning.models.parts import Place


class T5Encoder(Family):
    """A bidirectional encoder with RMS norm and relative positions, which its first block holds for all."""

    parts: ClassVar[Mapping[str, str | Place]] = {
        r"encoder\.block\.0\.layer\.0\.SelfAttention\.relative_attention_bias\.weight": "positions",
        r"encoder\.block\.(\d+)\.layer\.[01]\.layer_norm\.weight": "layernorm",
        r"encoder\.final_layer_norm\.weight": "layernorm",
        r"encoder\.block\.(\d+)\.layer\.0\.SelfAttention\.[qkvo]\.weight": "attention",
        r"encoder\.block\.(\d+)\.layer\.1\.DenseReluDense\.(?:wi|wi_0|wi_1|wo)\.weight": "feedforward",
    }
    blocks = "encoder.block"
    dropped = (r"shared\.weight", r"encoder\.embed_tokens\.weight")
    model_class = T5EncoderModel

    def positions(self, config: PretrainedConfig) -> None:
        """Without limit: beyond the last bucket all distances are one."""
        return

    def keep_blocks(self, body: Any, chosen: range) -> None:
        """Hands the relative positions to whichever block comes first."""
        bias: nn.Module = body.encoder.block[0].layer[0].SelfAttention.relative_attention_bias
        super().keep_blocks(body, chosen)
        body.encoder.config.num_layers = len(chosen)
        first = body.encoder.block[0].layer[0].SelfAttention
        first.relative_attention_bias, first.has_relative_attention_bias = bias, True

    def hidden(self, body: Any, embeddings: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        """Runs the encoder."""
        return body.encoder(inputs_embeds=embeddings, attention_mask=mask).last_hidden_state
