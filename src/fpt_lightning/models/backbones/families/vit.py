"""The vision transformer (Dosovitskiy et al. 2021; FPT section 3.2, the "ViT" rows)."""

from typing import Any

import torch
from torch import nn
from transformers.masking_utils import create_bidirectional_mask

from fpt_lightning.models.backbones.families.base import HubFamily, trained_table
from fpt_lightning.models.kernels.last_block import BlockForm


class ViT(HubFamily):
    """A bidirectional encoder of image patches; our input layer takes the place of its patch embedding.

    The class token is dropped: the answer is read at the last tokens, as from every backbone. The body has a position
    for each patch of its own images, 196 for the base model; ``positions: new`` serves longer tasks.
    """

    parts = (
        (r"embeddings\.position_embeddings(?:\.weight)?", "positions"),
        (r"layers\.(\d+)\.layernorm_(?:before|after)\.(?:weight|bias)", "layernorm"),
        (r"layernorm\.(?:weight|bias)", "layernorm"),
        (r"layers\.(\d+)\.attention\.[qkvo]_proj\.(?:weight|bias)", "attention"),
        (r"layers\.(\d+)\.mlp\.fc[12]\.(?:weight|bias)", "feedforward"),
    )
    blocks = "layers"
    form = BlockForm("layernorm_before", "attention", "attention.o_proj")
    position_table = "embeddings.position_embeddings"
    dropped = (r"embeddings\.(?:cls_token|mask_token|patch_embeddings\..*)", r"pooler\..*")

    @property
    def positions(self) -> int:
        sizes = [self.config.image_size, self.config.patch_size]  # numbers, or height and width
        (height, width), (tall, wide) = ([*size] if isinstance(size, list | tuple) else [size] * 2 for size in sizes)
        return (height // max(1, tall)) * (width // max(1, wide))

    def position_rows(self, body: Any, max_length: int | None) -> torch.Tensor:
        """Those of the patches, behind the class token's."""
        return body.embeddings.position_embeddings[0, 1:][:max_length]

    def enter(self, body: Any, rows: torch.Tensor | None) -> None:
        """Keeps of the embeddings the positions and the dropout."""
        assert rows is not None
        kept = nn.Module()
        kept.position_embeddings = trained_table(rows)
        kept.dropout = body.embeddings.dropout
        body.embeddings, body.pooler = kept, None

    def hidden(self, body: Any, embeddings: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        """What ``ViTModel`` does behind its patch embedding."""
        numbers = torch.arange(embeddings.size(1), device=embeddings.device)
        positions = body.embeddings.position_embeddings(numbers[None])  # [1, length, width]
        hidden = body.embeddings.dropout(embeddings + positions)
        attention_mask = create_bidirectional_mask(config=body.config, inputs_embeds=hidden, attention_mask=mask)
        for layer in body.layers:
            hidden = layer(hidden, attention_mask)
        return body.layernorm(hidden)
