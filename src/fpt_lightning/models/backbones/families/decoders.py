"""Decoders with rotary positions: Llama, Mistral, Qwen, Gemma, Phi, GPT-NeoX (Pythia) and their like."""

from collections.abc import Mapping
from typing import ClassVar

from fpt_lightning.models.backbones.families.base import Family
from fpt_lightning.models.parts import Place


class Decoder(Family):
    """A causal decoder without learned positions, whose modules have the names that nearly all share.

    Any architecture of transformers may try this door: a parameter that the table does not name is an error, so a
    body that is built otherwise is refused, never frozen by guess.
    """

    parts: ClassVar[Mapping[str, str | Place]] = {
        r"layers\.(\d+)\.\w*(?:layernorm|layer_norm)\.(?:weight|bias)": "layernorm",
        r"layers\.(\d+)\.(?:self_attn|attention)\.\w*(?:norm|layernorm)\.(?:weight|bias)": "layernorm",
        r"(?:norm|final_layernorm|final_layer_norm)\.(?:weight|bias)": "layernorm",
        r"layers\.(\d+)\.(?:self_attn|attention)\.(?:[qkvo]_proj|qkv_proj|query_key_value|dense)\.(?:weight|bias)": (
            "attention"
        ),
        r"layers\.(\d+)\.mlp\.[\w.]+": "feedforward",
    }
    blocks = "layers"
    dropped = (r"embed_(?:tokens|in)\.weight",)
