"""Training through the RMS norm of Llama and its kin in a quarter of the time on a CPU.

transformers writes it out in six operations, and autograd goes back through each; the way back is written out here too.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from fpt_lightning.models.kernels.replacing import replace


class RMSNorm(nn.Module):
    """``LlamaRMSNorm`` of the same parameter, to the last bit but in float64; differentiable once on a CPU."""

    def __init__(self, weight: nn.Parameter, epsilon: float) -> None:
        super().__init__()
        self.weight, self.epsilon = weight, epsilon

    def forward(self, x: Tensor) -> Tensor:
        """``[..., width]``."""
        trains = torch.is_grad_enabled() and (x.requires_grad or self.weight.requires_grad)
        if trains and x.device.type == "cpu":
            return _RMSNorm.apply(x, self.weight, self.epsilon)
        return self.weight * _normed(x, self.epsilon)[0]

    def extra_repr(self) -> str:
        return f"{tuple(self.weight.shape)}, eps={self.epsilon}"


def _normed(x: Tensor, epsilon: float) -> tuple[Tensor, Tensor]:
    """What the weight multiplies ``[..., width]``, as exact as ``x``, and the factor that made it, ``[..., 1]``."""
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    factor = torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + epsilon)
    return (wide * factor).to(x.dtype), factor


class _RMSNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
        normed, factor = _normed(x, epsilon)
        ctx.save_for_backward(normed, factor, weight)
        return weight * normed

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor | None, None]:
        normed, factor, weight = ctx.saved_tensors
        gradient, wide = gradient.to(factor.dtype), normed.to(factor.dtype)
        product = gradient * wide
        of_weight = product.flatten(0, -2).sum(0).to(weight.dtype) if ctx.needs_input_grad[1] else None
        along = product.mul_(weight).mean(-1, keepdim=True)  # what a longer x would change, which the norm takes away
        of_x = torch.mul(gradient, weight, out=product).addcmul_(wide, along, value=-1).mul_(factor)
        return of_x.to(normed.dtype), of_weight, None


def replace_rms_norms(module: nn.Module) -> None:
    """Replaces every norm whose class says what Llama's says, word for word, as do those of most decoders."""
    replace(module, _ours)


def _ours(module: nn.Module) -> RMSNorm | None:
    own, llamas = type(module).forward.__code__, LlamaRMSNorm.forward.__code__
    if (own.co_code, own.co_consts, own.co_names) != (llamas.co_code, llamas.co_consts, llamas.co_names):
        return None
    norm: Any = module
    return RMSNorm(norm.weight, norm.variance_epsilon)
