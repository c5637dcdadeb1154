"""Linear layers on the fastest matrix kernel that the processor has; frozen ones in half the memory.

In fp32 on a CPU torch multiplies with MKL, which leaves the 512-bit units of AMD processors idle; oneDNN, which torch
carries too, uses them. A frozen layer needs no gradient of its weight, so its whole arithmetic is two products, that
of a trained one three, and all of them can go there. Without such units an AMD processor is the faster with oneDNN
where a result is wide, if the longer rows of its matrix lie in one piece each; all else, and everything on a processor
of Intel's, stays with MKL. Nor does an optimizer need a frozen weight in fp32: kept in bf16 it takes half the memory,
and bf16 autocast has nothing to cast. `make benchmark` and `make benchmark-pretraining` show what it brings on a
machine.
"""

from typing import Any, Literal, TypeGuard

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from transformers.pytorch_utils import Conv1D

from fpt_lightning.machine import is_intel, multiplies_bf16
from fpt_lightning.models.kernels.replacing import replace
from fpt_lightning.models.kernels.replicas import each_alone

FrozenDtype = Literal["float32", "bfloat16"]
WIDE = 1152
"""Columns of a result from which oneDNN is the faster without 512-bit units, too; MKL is as fast with fewer."""


class Linear(nn.Module):
    """A drop-in for ``nn.Linear`` or transformers' ``Conv1D``, under the same parameter names.

    It computes in the type of what it is given, or in that of autocast, whatever a frozen weight is kept in.

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
        """Maps ``[..., in]`` to ``[..., out]``, differentiable once."""
        trains = self.weight.requires_grad or (self.bias is not None and self.bias.requires_grad)
        return self._map(x) if trains else each_alone(self._map, x)  # those that train are each run's own

    def extra_repr(self) -> str:
        out, width = self.weight.t().shape if self.transposed else self.weight.shape
        kept = "" if self.weight.dtype == torch.float32 else f", kept in {self.weight.dtype}"
        return f"in_features={width}, out_features={out}, bias={self.bias is not None}{kept}"

    def _map(self, x: Tensor) -> Tensor:
        weight = self.weight.t() if self.transposed else self.weight  # [out, in]
        bias: Tensor | None = self.bias
        if x.is_meta:  # without values there is neither autocast nor a kernel
            return F.linear(x, weight, bias)
        through_fp32 = lacks_bf16(x)
        if torch.is_autocast_enabled(x.device.type):
            if not through_fp32:
                return F.linear(x, weight, bias)
            x, weight, bias = x.bfloat16(), weight.bfloat16(), None if bias is None else bias.bfloat16()
        kept_apart = x.dtype != weight.dtype and not weight.requires_grad
        faster = any(_onednn_serves(x, each) for each in (weight, weight.t()))
        if x.numel() == 0 or not (kept_apart or through_fp32 or faster):
            return F.linear(x, weight.to(x.dtype), bias)
        rows = x.reshape(-1, x.size(-1))  # [..., in] as a matrix: the operator's own output would be a view of one
        return _Product.apply(rows, weight, bias).view(*x.shape[:-1], -1)


class _Product(torch.autograd.Function):
    """``x @ weight.T + bias``; a weight of another type is cast anew for each product."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x if weight.requires_grad else None, weight)
        return _product(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        of_x = of_weight = of_bias = None
        if ctx.needs_input_grad[0]:
            of_x = _product(gradient, weight.t(), None)
        if ctx.needs_input_grad[1]:
            # the one turned round is copied, so that is the smaller
            turned, other = (x, gradient) if x.size(1) < gradient.size(1) else (gradient, x)
            product = _product(turned.t(), other.t(), None)
            of_weight = product.t() if turned is x else product
        if ctx.needs_input_grad[2]:
            of_bias = gradient.sum(0)
        return of_x, of_weight, of_bias


def _product(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    weight = weight.to(x.dtype)
    if lacks_bf16(x):
        with torch.autocast("cpu", enabled=False):
            return _product(x.float(), weight.float(), None if bias is None else bias.float()).bfloat16()
    if _onednn_serves(x, weight):
        return torch.ops.mkldnn._linear_pointwise(x.contiguous(), weight, bias, "none", [], "")
    return F.linear(x, weight, bias)


def lacks_bf16(x: Tensor) -> bool:
    """Whether products with a tensor would be made in bf16 on a CPU for which torch has no fast kernel in it.

    Cast to fp32 and multiplied there they are the same, rounded once, in half to an eightieth of the time.
    """
    if x.device.type != "cpu":
        return False
    dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else x.dtype
    return dtype == torch.bfloat16 and not multiplies_bf16()


def _onednn_serves(x: Tensor, weight: Tensor) -> bool:
    """Whether oneDNN is the faster for a product with a weight ``[out, in]``."""
    if x.device.type != "cpu" or x.dtype != torch.float32 or (columns := _onednn_from()) is None:
        return False
    return weight.size(0) >= columns and (columns == 0 or weight.is_contiguous())


def _onednn_from() -> int | None:
    """How many columns a result must have on this processor for oneDNN to be the faster; None where it never is."""
    if is_intel() or not (torch.backends.mkldnn.is_available() and torch.backends.mkldnn.enabled):
        return None
    # the operator that torch.compile calls; not part of torch's promise, so a build may lack it
    if not hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        return None
    return {"AVX512": 0, "AVX2": WIDE}.get(torch.backends.cpu.get_cpu_capability())


def _in_long_rows(weight: Tensor) -> Tensor:
    """The same matrix with its longer dimension as rows in memory: of its two products the wider one asks for that."""
    rows, columns = weight.shape
    if _onednn_from() != WIDE or not rows < columns >= WIDE or weight.is_meta:
        return weight
    return weight.t().contiguous().t()


def is_linear(module: nn.Module) -> TypeGuard[nn.Linear | Conv1D]:
    """Whether a module maps as ``nn.Linear`` or transformers' ``Conv1D`` does: a router of experts is one by name."""
    return isinstance(module, nn.Linear | Conv1D) and type(module).forward in (nn.Linear.forward, Conv1D.forward)


def replace_linears(module: nn.Module, *, frozen_dtype: torch.dtype = torch.float32, trained: bool = True) -> None:
    """Replaces the linear layers of a module; names stay as they are.

    Args:
        module: What holds them.
        frozen_dtype: What the weights of layers of which nothing trains are kept in, rounded where it is narrower;
            biases stay as they are.
        trained: Replace those of which something trains, too.
    """

    def ours(child: nn.Module) -> Linear | None:
        if not is_linear(child):
            return None
        weight: Any = child.weight
        if any(parameter.requires_grad for parameter in child.parameters()):
            if not trained:
                return None
        else:
            if weight.dtype != frozen_dtype:
                weight = nn.Parameter(weight.to(frozen_dtype), requires_grad=False)
            weight.data = _in_long_rows(weight.data)  # the parameter stays the same one, which others may share
        return Linear(weight, child.bias, transposed=isinstance(child, Conv1D))

    replace(module, ours)
