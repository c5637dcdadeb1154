"""BERT and what descends from it (Devlin et al. 2019; FPT section 3.14)."""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import nn
from transformers import PretrainedConfig

from fpt_lightning.models.backbones.families.base import Family
from fpt_lightning.models.parts import Place


class BERT(Family):
    """A bidirectional encoder with learned positions and layer norm behind every sublayer.

    Of the token types only the first is used: a constant that is added to every position, so it counts as positions.
    """

    parts: ClassVar[Mapping[str, str | Place]] = {
        r"embeddings\.(?:position|token_type)_embeddings\.weight": "positions",
        r"embeddings\.LayerNorm\.(?:weight|bias)": Place("layernorm", 0),
        r"encoder\.layer\.(\d+)\.(?:attention\.)?output\.LayerNorm\.(?:weight|bias)": "layernorm",
        r"encoder\.layer\.(\d+)\.attention\.self\.(?:query|key|value)\.(?:weight|bias)": "attention",
        r"encoder\.layer\.(\d+)\.attention\.output\.dense\.(?:weight|bias)": "attention",
        r"encoder\.layer\.(\d+)\.(?:intermediate|output)\.dense\.(?:weight|bias)": "feedforward",
    }
    blocks = "encoder.layer"
    position_table = "embeddings.position_embeddings"
    dropped: ClassVar[tuple[str, ...]] = (r"embeddings\.word_embeddings\.weight", r"pooler\..*")
    class_arguments: ClassVar[Mapping[str, Any]] = {"add_pooling_layer": False}

    def enter(self, body: Any, rows: torch.Tensor | None) -> None:
        """Keeps the one token type that is ever used."""
        super().enter(body, rows)
        types = body.embeddings.token_type_embeddings
        body.embeddings.token_type_embeddings = nn.Embedding.from_pretrained(
            types.weight.detach()[:1].clone(), freeze=False
        )

    def hidden(self, body: Any, embeddings: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        """Counts positions from the first row of the table, also where the architecture starts behind its padding."""
        positions = torch.arange(embeddings.size(1), device=embeddings.device)[None]  # [1, length]
        return body(
            inputs_embeds=embeddings,
            attention_mask=mask,
            position_ids=positions,
            token_type_ids=torch.zeros_like(positions),
        ).last_hidden_state


class RoBERTa(BERT):
    """BERT whose positions start behind the padding index (Liu et al. 2019)."""

    def positions(self, config: PretrainedConfig) -> int:
        """The rows behind the padding's."""
        return int(config.max_position_embeddings) - _first_row(config)

    def position_rows(self, body: Any, max_length: int) -> torch.Tensor:
        """The rows behind the padding's."""
        first = _first_row(body.config)
        return body.embeddings.position_embeddings.weight[first : first + max_length]


def _first_row(config: PretrainedConfig) -> int:
    return int(config.pad_token_id) + 1
