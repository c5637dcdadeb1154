"""GPT-2, in all sizes (Radford et al. 2019): the paper's own backbone."""

from fpt_lightning.models.backbones.families.base import HubFamily
from fpt_lightning.models.kernels.last_block import BlockForm


class GPT2(HubFamily):
    """A causal decoder with learned positions and layer norm before every sublayer."""

    parts = (
        (r"wpe\.weight", "positions"),
        (r"h\.(\d+)\.ln_[12]\.(?:weight|bias)", "layernorm"),
        (r"ln_f\.(?:weight|bias)", "layernorm"),
        (r"h\.(\d+)\.attn\.(?:c_attn|c_proj)\.(?:weight|bias)", "attention"),
        (r"h\.(\d+)\.mlp\.(?:c_fc|c_proj)\.(?:weight|bias)", "feedforward"),
    )
    blocks = "h"
    position_table = "wpe"
    dropped = (r"wte\.weight",)
    form = BlockForm("ln_1", "attn", "attn.c_proj")
    scaled = r"h\.\d+\.(?:attn|mlp)\.c_proj\.weight"  # Radford et al. 2019, section 2.3
