"""Linear layers whose weights never change: on the fastest matrix kernel that the processor has, in half the memory.

In fp32 on a CPU torch multiplies with MKL, which leaves the 512-bit units of AMD processors idle; oneDNN, which torch
carries too, uses them. A frozen layer needs no gradient of its weight, so its whole arithmetic is two products, and
both can go there. On a processor without such units MKL is the faster, and they stay with it. Nor does an optimizer
need its weight in fp32: kept in bf16 it takes half the memory, and bf16 autocast has nothing to cast.
`benchmarks/train_step.py` shows what both bring on a machine.
"""

from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from fpt_lightning.models.kernels.replacing import replace
from fpt_lightning.models.kernels.replicas import each_alone

FrozenDtype = Literal["float32", "bfloat16"]


class FrozenLinear(nn.Module):
    """A drop-in for a frozen ``nn.Linear`` or transformers' ``Conv1D``, under the same parameter names.

    It computes in the type of what it is given, or in that of autocast, whatever its weight is kept in.

    Args:
        weight: ``[out, in]``, or ``[in, out]`` if ``transposed``.
        bias: ``[out]`` or None.
        transposed: The weight lies as in ``Conv1D``.
    """

    def __init__(self, weight: nn.Parameter, bias: nn.Parameter | None, *, transposed: bool) -> None:
        super().__init__()
        self.weight = weight
        self.bias = bias
        self.transposed = transposed

    def forward(self, x: Tensor) -> Tensor:
        """Maps ``[..., in]`` to ``[..., out]``."""
        weight = self.weight.t() if self.transposed else self.weight  # [out, in]
        return each_alone(lambda x: _linear(x, weight, self.bias), x)

    def extra_repr(self) -> str:
        out, width = self.weight.t().shape if self.transposed else self.weight.shape
        kept = "" if self.weight.dtype == torch.float32 else f", kept in {self.weight.dtype}"
        return f"in_features={width}, out_features={out}, bias={self.bias is not None}{kept}"


def _linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    if x.is_meta or torch.is_autocast_enabled(x.device.type):  # without values there is neither autocast nor a kernel
        return F.linear(x, weight, bias)
    if not weight.requires_grad and x.numel() > 0 and (x.dtype != weight.dtype or _onednn_serves(x)):
        rows = x.reshape(-1, x.size(-1))  # [..., in] as a matrix: the operator's own output would be a view of one
        return _FrozenProduct.apply(rows, weight, bias).view(*x.shape[:-1], -1)
    return F.linear(x, weight.to(x.dtype), bias)


class _FrozenProduct(torch.autograd.Function):
    """``x @ weight.T + bias``, differentiable in x alone; a weight of another type is cast anew for each product."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.weight = weight
        return _product(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        return _product(gradient, ctx.weight.t(), None), None, None


def _product(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    weight = weight.to(x.dtype)
    if _onednn_serves(x):
        return torch.ops.mkldnn._linear_pointwise(x.contiguous(), weight, bias, "none", [], "")
    return F.linear(x, weight, bias)


def _onednn_serves(x: Tensor) -> bool:
    return bool(
        x.device.type == "cpu"
        and x.dtype == torch.float32
        and torch.backends.mkldnn.is_available()
        and torch.backends.mkldnn.enabled
        and torch.backends.cpu.get_cpu_capability() == "AVX512"
        # the operator that torch.compile calls; not part of torch's promise, so a build may lack it
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    )


def replace_frozen_linears(module: nn.Module, dtype: torch.dtype = torch.float32) -> None:
    """Replaces every linear layer none of whose parameters trains; names stay as they are.

    Args:
        module: What holds them.
        dtype: What their weights are kept in, rounded where it is narrower; biases stay as they are.
    """

    def frozen(child: nn.Module) -> FrozenLinear | None:
        if not isinstance(child, nn.Linear | Conv1D) or any(p.requires_grad for p in child.parameters()):
            return None
        weight: Any = child.weight
        if weight.dtype != dtype:
            weight = nn.Parameter(weight.to(dtype), requires_grad=False)
        return FrozenLinear(weight, child.bias, transposed=isinstance(child, Conv1D))

    replace(module, frozen)
