"""The controls of Tan et al. (2024, Are Language Models Actually Useful for Time Series Forecasting?, section 3).

What they put in place of the language model, and what they do to its input. Their LLM2Trsf, one random transformer
block, needs no code here: it is the backbone ``gpt2`` with ``n_layer: 1`` and random values. The bodies take the form
of a GPT-2 cut short rather than that of the authors' code (post-norm, without positions or causality), so that an arm
differs from the frozen transformer in what was taken away and in nothing else.
"""

import torch
from torch import nn
from transformers import GPT2Config
from transformers.models.gpt2.modeling_gpt2 import GPT2Attention

from fpt_lightning.errors import UsageError
from fpt_lightning.models.backbones.lstm import add_positions, new_positions
from fpt_lightning.models.kernels.attention import use_attention
from fpt_lightning.models.kernels.dropout import Dropout, replace_dropouts


class NoBody(nn.Module):
    """No backbone at all: the input layer straight to the output layer (w/o LLM).

    No token learns of another, so the answer follows from the tokens it is read at alone.
    """

    def forward(self, inputs_embeds: torch.Tensor, attention_mask: torch.Tensor | None = None) -> torch.Tensor:
        """Returns ``inputs_embeds`` ``[batch, length, width]``."""
        return inputs_embeds


class AttentionBody(nn.Module):
    """A GPT-2 of one layer without its feed-forward half (LLM2Attn).

    Positions, layer norm, causal self-attention, residual, final layer norm. Random values are GPT-2's and follow
    torch's global generator.

    Args:
        width: Numbers in an embedding.
        heads: Attention heads.
        max_length: Tokens in the longest sequence.
        dropout: Probability of every dropout.

    Raises:
        UsageError: If the width is no multiple of the heads.
    """

    def __init__(self, width: int, heads: int, max_length: int, dropout: float) -> None:
        super().__init__()
        if heads < 1 or width % heads:
            raise UsageError(f"one attention layer of width {width} cannot have {heads} heads: choose a divisor")
        config = GPT2Config(n_embd=width, n_head=heads, n_layer=1, attn_pdrop=dropout, resid_pdrop=dropout)
        use_attention(config)
        self.positions = new_positions(max_length, width)
        self.dropout = Dropout(dropout)
        self.layers = nn.ModuleList([_AttentionLayer(config)])
        self.norm = nn.LayerNorm(width, eps=config.layer_norm_epsilon)
        replace_dropouts(self)

    def forward(self, inputs_embeds: torch.Tensor, attention_mask: torch.Tensor | None = None) -> torch.Tensor:
        """Reads a sequence.

        Args:
            inputs_embeds: ``[batch, length, width]``.
            attention_mask: ``[batch, length]`` bool. Unused: padding stands after the real tokens, and no query sees a
                key after it.

        Returns:
            Hidden states ``[batch, length, width]``; what stands at padded positions means nothing.
        """
        hidden = self.dropout(add_positions(inputs_embeds, self.positions))
        for layer in self.layers:
            hidden = hidden + layer(hidden)
        normalised: torch.Tensor = self.norm(hidden)
        return normalised


class _AttentionLayer(nn.Module):
    """Layer norm and self-attention, its residual left to the body."""

    def __init__(self, config: GPT2Config) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(config.n_embd, eps=config.layer_norm_epsilon)
        self.attention = GPT2Attention(config, layer_idx=0)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.attention(self.norm(hidden))[0]
        return out


def shuffle(
    tokens: torch.Tensor, mask: torch.Tensor | None = None, generator: torch.Generator | None = None
) -> torch.Tensor:
    """Puts the tokens of every example into an order of its own, drawn anew at every call (Sf-All).

    One order for all examples would take nothing away: learned positions would follow it.

    Args:
        tokens: ``[batch, length, token_width]``, or ``[batch, length]`` ids.
        mask: ``[batch, length]`` bool, True for real tokens, padding after them; None if nothing is padded.
        generator: Of the CPU, so that the orders are the same on every device; None is torch's global one.

    Returns:
        ``tokens`` reordered; padding stays where it is.
    """
    places = torch.rand(tokens.shape[:2], generator=generator, dtype=torch.float64).to(tokens.device)
    if mask is not None:
        places = places.masked_fill(~mask, 2.0)  # behind all real tokens, in the order it has
    order = places.argsort(dim=1, stable=True)  # [batch, length]
    if tokens.dim() == 3:
        order = order[:, :, None].expand_as(tokens)
    return tokens.gather(1, order)


class TokenShuffle(nn.Module):
    """:func:`shuffle` for the entrance of a model.

    Training draws from torch's global generator. Evaluation gives the examples of every batch the orders of one fixed
    seed, so that figures neither depend on the run's seed nor change from one evaluation to the next. A task that
    answers at several tokens loses which answer belongs to which: the control is for tasks with one answer.
    """

    def forward(self, tokens: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        """Shuffles ``[batch, length, ...]``, real tokens only."""
        return shuffle(tokens, mask, None if self.training else torch.Generator().manual_seed(0))
