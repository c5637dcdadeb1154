"""Attention that trains short sequences on a CPU, every tensor whole.

Left to autograd, dropout and the two products keep a layer's weights three times for the backward pass: as the softmax
made them, what dropout multiplies them by, and the product. In fp32 they are kept once here, the sign saying what was
dropped, as no weight is below 0; a step is as fast, its numbers are the same to the last bit. In bf16, where half the
bytes are at stake, the passes that this takes cost more than 1 % of a step.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from fpt_lightning.models.kernels.dropout import draw_all_kept, fast_dropout, kept_scale
from fpt_lightning.models.kernels.sliced_attention import AttentionOptions, added_mask


def whole_attention(query: Tensor, key: Tensor, value: Tensor, options: AttentionOptions) -> Tensor:
    """The values that each query takes up: ``[batch, length, heads, head width]``; differentiable once in fp32."""
    scores = (query * options.scaling) @ key.transpose(-1, -2)  # [batch, heads, length, length], changed in place
    if options.bias is not None:
        scores = scores + options.bias
    mask = torch.ones(scores.shape[-2:], dtype=torch.bool).tril() if options.causal else options.mask
    if mask is not None:
        scores.add_(added_mask(~mask, scores.dtype))  # six times as fast as a masked fill, either way
    if scores.element_size() > 2 and not torch.is_autocast_enabled("cpu"):
        taken = _TakeUp.apply(scores, value, options.dropout)
    else:
        taken = fast_dropout(scores.softmax(dim=-1), options.dropout) @ value
    return taken.transpose(1, 2).contiguous()


class _TakeUp(torch.autograd.Function):
    """The softmax of scores, dropout, and the product with the values."""

    @staticmethod
    def forward(ctx: Any, scores: Tensor, value: Tensor, dropout: float) -> Tensor:
        signed = scores.softmax(dim=-1)
        signs = draw_all_kept(scores.shape, dropout).mul_(2).sub_(1).to(scores.dtype)
        signed.mul_(signs)
        value = value.contiguous()  # that which is kept is not the whole projection, of which this is a view
        ctx.save_for_backward(signed, value)
        ctx.scale = kept_scale(dropout)
        return torch.clamp_min(signed, 0, out=signs).mul_(ctx.scale) @ value

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
        signed, value = ctx.saved_tensors
        dropped = signed.clamp_min(0).mul_(ctx.scale)
        of_value = dropped.transpose(-1, -2) @ gradient
        of_dropped = gradient @ value.transpose(-1, -2)
        of_weights = torch.ops.aten.threshold_backward(of_dropped, signed, 0).mul_(ctx.scale)
        weights = torch.abs(signed, out=dropped)
        return torch.ops.aten._softmax_backward_data(of_weights, weights, -1, signed.dtype), of_value, None
