"""The encoder of T5 (Raffel et al. 2020; FPT section 3.14)."""

from functools import partial
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForTextEncoding

from fpt_lightning.models.backbones.families.base import HubFamily
from fpt_lightning.models.kernels.last_block import BlockForm


class T5Encoder(HubFamily):
    """A bidirectional encoder with RMS norm and relative positions, which its first block holds for all."""

    parts = (
        (r"encoder\.block\.0\.layer\.0\.SelfAttention\.relative_attention_bias\.weight", "positions"),
        (r"encoder\.block\.(\d+)\.layer\.[01]\.layer_norm\.weight", "layernorm"),
        (r"encoder\.final_layer_norm\.weight", "layernorm"),
        (r"encoder\.block\.(\d+)\.layer\.0\.SelfAttention\.[qkvo]\.weight", "attention"),
        (r"encoder\.block\.(\d+)\.layer\.1\.DenseReluDense\.(?:wi|wi_0|wi_1|wo)\.weight", "feedforward"),
    )
    blocks = "encoder.block"
    form = BlockForm("layer.0.layer_norm", "layer.0.SelfAttention", "layer.0.SelfAttention.o")
    dropped = (r"shared\.weight", r"encoder\.embed_tokens\.weight")
    model_class = AutoModelForTextEncoding
    asks_for_attention = True  # like the others, but transformers does not say so

    @property
    def positions(self) -> None:
        """Without limit: beyond the last bucket all distances are one."""

    def enter(self, body: Any, rows: torch.Tensor | None) -> None:
        """Says that nothing is tied to the token embeddings any more: peft would look for them."""
        super().enter(body, rows)
        body.config.tie_word_embeddings = False

    def keep_blocks(self, body: Any, chosen: range) -> None:
        """Hands the relative positions to whichever block comes first, and lets every run of a pack have its own."""
        bias: nn.Module = body.encoder.block[0].layer[0].SelfAttention.relative_attention_bias
        super().keep_blocks(body, chosen)
        body.encoder.config.num_layers = len(chosen)
        first = body.encoder.block[0].layer[0].SelfAttention
        first.relative_attention_bias, first.has_relative_attention_bias = bias, True
        first.compute_bias = partial(_bias_of_a_batch, first)  # which can be pickled


def _bias_of_a_batch(attention: Any, queries: int, keys: int, device: torch.device, **_: Any) -> torch.Tensor:
    """``T5Attention.compute_bias`` of an encoder: ``[1 or batch, heads, queries, keys]``.

    There the table is asked for ``[queries, keys]``, which a pack would take for a batch.
    """
    distances = torch.arange(keys, device=device)[None, :] - torch.arange(queries, device=device)[:, None]
    buckets = attention._relative_position_bucket(
        distances,
        bidirectional=True,
        num_buckets=attention.relative_attention_num_buckets,
        max_distance=attention.relative_attention_max_distance,
    )
    biases: torch.Tensor = attention.relative_attention_bias(buckets[None])  # [1 or batch, queries, keys, heads]
    return biases.permute(0, 3, 1, 2)
