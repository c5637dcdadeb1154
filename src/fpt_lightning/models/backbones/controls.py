"""The controls of Tan et al. (2024, Are Language Models Actually Useful for Time Series Forecasting?, section 3).

What they put in place of the language model; what they do to its input is :mod:`fpt_lightning.models.token_shuffle`.
Their LLM2Trsf, one random transformer block, needs no code here: it is the backbone ``one_block``, a GPT-2 of one
random layer. The bodies take the form of a GPT-2 cut short rather than that of the authors' code (post-norm, without
positions or causality), so that an arm differs from the frozen transformer in what was taken away and in nothing else.
"""

from torch import nn
from transformers import GPT2Config
from transformers.models.gpt2.modeling_gpt2 import GPT2Attention

from fpt_lightning.errors import UsageError
from fpt_lightning.models.backbones.layered import LayeredBody
from fpt_lightning.models.kernels.attention import use_attention


class NoBody(nn.Module):
    """No backbone at all (w/o LLM): one linear layer on all tokens at once, or two with a GELU between them.

    The layers are those before and behind a body, see :class:`fpt_lightning.models.flat_layer.FlatLayer`.
    """

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList()


class AttentionBody(LayeredBody):
    """A GPT-2 of one layer without its feed-forward half (LLM2Attn).

    Raises:
        UsageError: If the width is no multiple of the heads.
    """

    def __init__(self, width: int, heads: int, max_length: int, dropout: float) -> None:
        if heads < 1 or width % heads:
            raise UsageError(f"one attention layer of width {width} cannot have {heads} heads: choose a divisor")
        config = GPT2Config(n_embd=width, n_head=heads, n_layer=1, attn_pdrop=dropout, resid_pdrop=0.0)
        use_attention(config)
        attention = GPT2Attention(config, layer_idx=0)
        super().__init__("attention", [attention], width, dropout, residual=True, positions=max_length)
