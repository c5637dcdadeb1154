"""BERT and what descends from it (Devlin et al. 2019; FPT section 3.14)."""

from typing import Any, ClassVar

import torch
from transformers import PretrainedConfig

from fpt_lightning.models.backbones.families.base import HubFamily, trained_table
from fpt_lightning.models.kernels.last_block import BlockForm
from fpt_lightning.models.parts import Place


class BERT(HubFamily):
    """A bidirectional encoder with learned positions and layer norm behind every sublayer.

    Of the token types only the first is used: a constant that is added to every position, so it counts as positions.
    """

    parts = (
        (r"embeddings\.(?:position|token_type)_embeddings\.weight", "positions"),
        (r"embeddings\.LayerNorm\.(?:weight|bias)", Place("layernorm", 0)),
        (r"encoder\.layer\.(\d+)\.(?:attention\.)?output\.LayerNorm\.(?:weight|bias)", "layernorm"),
        (r"encoder\.layer\.(\d+)\.attention\.self\.(?:query|key|value)\.(?:weight|bias)", "attention"),
        (r"encoder\.layer\.(\d+)\.attention\.output\.dense\.(?:weight|bias)", "attention"),
        (r"encoder\.layer\.(\d+)\.(?:intermediate|output)\.dense\.(?:weight|bias)", "feedforward"),
    )
    blocks = "encoder.layer"
    form: BlockForm | None = BlockForm(None, "attention.self", "attention.output")
    position_table = "embeddings.position_embeddings"
    dropped: ClassVar[tuple[str, ...]] = (r"embeddings\.word_embeddings\.weight", r"pooler\..*")

    def enter(self, body: Any, rows: torch.Tensor | None) -> None:
        """Keeps the one token type that is ever used, and no pooler."""
        super().enter(body, rows)
        assert rows is not None
        self.last_row = len(rows) - 1
        body.pooler = None
        body.embeddings.token_type_embeddings = trained_table(body.embeddings.token_type_embeddings.weight[:1])
        body.config.type_vocab_size = 1

    def hidden(self, body: Any, embeddings: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        """Counts positions from the first row of the table, also where the architecture starts behind its padding."""
        # a Longformer's padding may go beyond the table, unseen
        positions = torch.arange(embeddings.size(1), device=embeddings.device).clamp(max=self.last_row)  # [length]
        return body(
            inputs_embeds=embeddings,
            attention_mask=mask,
            position_ids=positions[None],
            token_type_ids=torch.zeros_like(positions)[None],
        ).last_hidden_state


class RoBERTa(BERT):
    """BERT whose positions start behind the padding index (Liu et al. 2019)."""

    def __init__(self, config: PretrainedConfig) -> None:
        super().__init__(config)
        self.first_row = config.pad_token_id + 1
