"""GPT-2, in all sizes (Radford et al. 2019): the paper's own backbone."""

from collections.abc import Mapping
from typing import ClassVar

from fpt_lightning.models.backbones.families.base import Family
from fpt_lightning.models.parts import Place


class GPT2(Family):
    """A causal decoder with learned positions and layer norm before every sublayer."""

    parts: ClassVar[Mapping[str, str | Place]] = {
        r"wpe\.weight": "positions",
        r"h\.(\d+)\.ln_[12]\.(?:weight|bias)": "layernorm",
        r"ln_f\.(?:weight|bias)": "layernorm",
        r"h\.(\d+)\.attn\.(?:c_attn|c_proj)\.(?:weight|bias)": "attention",
        r"h\.(\d+)\.mlp\.(?:c_fc|c_proj)\.(?:weight|bias)": "feedforward",
    }
    blocks = "h"
    position_table = "wpe"
    dropped = (r"wte\.weight",)
