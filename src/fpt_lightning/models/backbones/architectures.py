"""Backbones known by name: architectures whose random rows need no hub, and those that ship with the package."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

ARCHITECTURES: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    # ours, without pretrained weights; their positions are random, so there are enough for the longest task
    "tiny": ("gpt2", {"n_layer": 2, "n_embd": 32, "n_head": 2, "n_positions": 2048}),
    "small": ("gpt2", {"n_layer": 4, "n_embd": 256, "n_head": 8, "n_positions": 2048}),
    # a control (Tan et al. 2024): GPT-2 of a single block
    "one_block": ("gpt2", {"n_layer": 1, "n_embd": 768, "n_head": 12, "n_positions": 2048}),
    # Radford et al. 2019, table 2
    "gpt2": ("gpt2", {"n_layer": 12, "n_embd": 768, "n_head": 12}),
    "gpt2-medium": ("gpt2", {"n_layer": 24, "n_embd": 1024, "n_head": 16}),
    "gpt2-large": ("gpt2", {"n_layer": 36, "n_embd": 1280, "n_head": 20}),
    "gpt2-xl": ("gpt2", {"n_layer": 48, "n_embd": 1600, "n_head": 25}),
    # the other backbones of FPT section 3.14 and table 2, under their names on the hub
    "bert-base-uncased": ("bert", {}),
    "t5-base": ("t5", {"num_layers": 12, "d_model": 768, "d_ff": 3072, "num_heads": 12}),
    "allenai/longformer-base-4096": (
        "longformer",
        {
            "max_position_embeddings": 4098,
            "type_vocab_size": 1,
            "pad_token_id": 1,
            "layer_norm_eps": 1e-5,
            "attention_window": [512] * 12,
        },
    ),
    "google/vit-base-patch16-224-in21k": ("vit", {}),
    # a sentence encoder of BERT's architecture
    "sentence-transformers/all-MiniLM-L6-v2": (
        "bert",
        {"hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12, "intermediate_size": 1536},
    ),
    # decoders with rotary positions: layer norm beside attention, and RMS norm with grouped queries
    "EleutherAI/pythia-160m": (
        "gpt_neox",
        {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072},
    ),
    "Qwen/Qwen2.5-0.5B": (
        "qwen2",
        {
            "hidden_size": 896,
            "num_hidden_layers": 24,
            "num_attention_heads": 14,
            "num_key_value_heads": 2,
            "intermediate_size": 4864,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1000000.0},
        },
    ),
    "HuggingFaceTB/SmolLM2-135M-Instruct": (
        "llama",
        {
            "hidden_size": 576,
            "num_hidden_layers": 30,
            "num_attention_heads": 9,
            "num_key_value_heads": 3,
            "intermediate_size": 1536,
            "max_position_embeddings": 8192,
            "pad_token_id": 2,
            "rms_norm_eps": 1e-5,
            "rope_parameters": {"rope_type": "default", "rope_theta": 100000.0},
            "initializer_range": 576**-0.5,
        },
    ),
}
"""A ``model_type`` of transformers and what differs from its default config; those of the hub have weights there."""

EMBEDDED: Mapping[str, Path] = {
    name: Path(__file__).parents[2] / "assets" / name for name in ("pocket", "pocket-novels", "pocket-brackets")
}
"""Folders in Hugging Face's format that ship with the package, by the name that ``model.backbone`` takes."""

# no folder of the user's either: it would be in the way of whoever did not ask for a backbone
WITHOUT_WEIGHTS = frozenset({"tiny", "small", "one_block", "lstm", "lstm_star", "none", "two_layer", "one_attention"})


def location(name: str) -> str:
    """Where a backbone is read from: the folder of an embedded one, otherwise the name itself.

    An embedded name is never a folder of the user's, wherever the command is called; ``./pocket`` is.
    """
    return str(EMBEDDED[name]) if name in EMBEDDED else name
