"""Decoders with rotary positions: Llama, Mistral, Qwen, Gemma, Phi, GPT-NeoX (Pythia) and their like."""

import inspect
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import torch
from transformers import MODEL_MAPPING, PretrainedConfig

from fpt_lightning.errors import FPTError, first_line
from fpt_lightning.models.backbones.families.base import HubFamily
from fpt_lightning.models.kernels.last_block import BlockForm
from fpt_lightning.models.parts import place_parameters

_LLAMA = BlockForm("input_layernorm", "self_attn", "self_attn.o_proj")
FORMS: Mapping[str, BlockForm] = {
    **dict.fromkeys(("llama", "mistral", "qwen2", "qwen3", "gemma", "gemma3_text", "phi3"), _LLAMA),
    **dict.fromkeys(("arcee", "starcoder2"), _LLAMA),
    "phi": BlockForm("input_layernorm", "self_attn", "self_attn.dense"),
    "gpt_neox": BlockForm("input_layernorm", "attention", "attention.dense"),
}
"""Of the blocks that were compared with the same computed for all tokens, by ``model_type``: names alone do not say."""


class Decoder(HubFamily):
    """A causal decoder without learned positions, whose modules have the names that nearly all share.

    Any architecture of transformers may try this door: a parameter that the table does not name is an error, so a
    body that is built otherwise is refused before its weights are read, never frozen by guess.

    Raises:
        FPTError: If it does not take ``inputs_embeds``, or has other parameters.
    """

    parts = (
        (r"layers\.(\d+)\.\w*(?:layernorm|layer_norm)\.(?:weight|bias)", "layernorm"),
        (r"layers\.(\d+)\.(?:self_attn|attention)\.\w*(?:norm|layernorm)\.(?:weight|bias)", "layernorm"),
        (r"(?:norm|final_layernorm|final_layer_norm)\.(?:weight|bias)", "layernorm"),
        (r"layers\.(\d+)\.(?:self_attn|attention)\.(?:[qkvo]_proj|qkv_proj)\.(?:weight|bias)", "attention"),
        (r"layers\.(\d+)\.(?:self_attn|attention)\.(?:query_key_value|dense)\.(?:weight|bias)", "attention"),
        (r"layers\.(\d+)\.mlp\.\w*norm\.weight", "layernorm"),
        (r"layers\.(\d+)\.mlp\.[\w.]+", "feedforward"),
    )
    blocks = "layers"
    dropped = (r"embed_(?:tokens|in)\.weight",)

    def __init__(self, config: PretrainedConfig) -> None:
        super().__init__(config)
        self.form = FORMS.get(self.config.model_type)
        kind = f"a {self.config.model_type}"
        model_class: Any = None
        with suppress(ValueError):  # transformers names some that it does not have
            model_class = MODEL_MAPPING.get(type(self.config), None)
        if isinstance(model_class, tuple | None):  # some are a choice of several
            raise FPTError(f"{kind} cannot be a backbone: transformers has no plain body of this kind")
        try:
            takes = inspect.signature(model_class.forward).parameters
        except ImportError as error:  # a body that only says what it lacks
            raise FPTError(f"{kind} needs a package that is missing: {first_line(error)}") from error
        if "inputs_embeds" not in takes:
            raise FPTError(
                f"{kind} cannot be a backbone: {model_class.__name__} of transformers takes token ids only, "
                "no embeddings (inputs_embeds)"
            )
        with torch.device("meta"):
            names = [name for name, _ in self.new_body().named_parameters()]
        place_parameters([f"backbone.{name}" for name in names if not self.drops(name)], self.parts, kind)
