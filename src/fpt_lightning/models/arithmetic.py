"""How many floating-point operations a training step takes, whatever computes it."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils._python_dispatch import TorchDispatchMode


def flops_of_step(model: nn.Module, *inputs: Tensor | None) -> int:
    """Multiplications and additions of the matrix products of one training step; nothing is computed.

    The forward pass, the gradients of activations where something before them trains, and the gradients of what trains,
    counted on tensors without values: kernels of ours, packs, devices and precision have no part in it. Sums, norms and
    functions of single numbers are left out; a causal mask hides nothing.

    Args:
        model: The model, of whose parameters those train that require a gradient.
        inputs: Those of its forward pass.

    Raises:
        RuntimeError: If the model needs values to go on.
    """
    own = {name: _hollow(tensor) for name, tensor in [*model.named_parameters(), *model.named_buffers()]}
    trained = [tensor for tensor in own.values() if tensor.requires_grad]
    with _quick_recurrence(model), _Counter() as counter:
        answer = functional_call(model, own, tuple(None if x is None else _hollow(x) for x in inputs))
        torch.autograd.grad(answer.sum(), trained, allow_unused=True)
    return counter.flops


class _Counter(TorchDispatchMode):
    """Adds up the products of matrices, by torch's own table; what asks for a value is told 0."""

    def __init__(self) -> None:
        from torch.utils.flop_counter import flop_registry

        super().__init__()
        self.flops, self._of = 0, {torch.ops.aten._grouped_mm: _of_experts, **flop_registry}

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func is torch.ops.aten._local_scalar_dense.default and args[0].is_meta:
            return 0  # Longformer asks whether a token sees all others, which none does here
        found = func(*args, **(kwargs or {}))
        if (count := self._of.get(func._overloadpacket)) is not None:
            self.flops += int(count(*args, **(kwargs or {}), out_val=found))
        return found


def _of_experts(rows: Tensor, matrices: Tensor, *_: Any, **__: Any) -> int:
    """Of the products of a mixture of experts, which torch's table lacks: every row meets one matrix."""
    return 2 * rows.numel() * matrices.size(-1)


def _hollow(tensor: Tensor) -> Tensor:
    """The same without values, in fp32 where it has fractions: types that differ would not be multiplied."""
    kind: Any = torch.float32 if tensor.is_floating_point() else tensor.dtype
    return torch.empty_like(tensor, dtype=kind, device="meta").requires_grad_(tensor.requires_grad)


@contextmanager
def _quick_recurrence(model: nn.Module) -> Iterator[None]:
    """Lets LSTMs do the products of all time steps at once: as many, with that of the zero state before the first."""
    plain = {"num_layers": 1, "bidirectional": False, "proj_size": 0}  # as ours are; others go step by step
    lstms = [
        module
        for module in model.modules()
        if isinstance(module, nn.LSTM) and all(getattr(module, name) == value for name, value in plain.items())
    ]
    for lstm in lstms:
        object.__setattr__(lstm, "forward", _products_of(lstm))
    try:
        yield
    finally:
        for lstm in lstms:
            object.__delattr__(lstm, "forward")


def _products_of(lstm: Any) -> Callable[[Tensor], tuple[Tensor, None]]:
    def forward(x: Tensor) -> tuple[Tensor, None]:
        states = F.linear(x, lstm.weight_ih_l0)[..., : lstm.hidden_size]  # [batch, length, width]
        return states + F.linear(states, lstm.weight_hh_l0)[..., : lstm.hidden_size], None

    return forward
