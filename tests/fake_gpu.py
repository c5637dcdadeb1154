"""A GPU that only exists for shapes and devices: what would go to the wrong one, or wait for it, is an error there."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd.function import BackwardCFunction
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import masking_utils

COPIES = (torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default)


class NoWaiting(TorchDispatchMode):
    """Refuses copies between devices that wait; all other waiting needs a value, which nothing here has."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in COPIES:
            source, target = (args[1], args[0]) if func is COPIES[1] else (args[0], kwargs.get("device"))
            target = target.device if isinstance(target, Tensor) else target or source.device
            waits = not (kwargs.get("non_blocking") or (len(args) > 2 and args[2]))
            if source.device.type != torch.device(target).type and waits:
                raise RuntimeError(f"a copy from {source.device} to {target} waits")
        return func(*args, **kwargs)


@contextmanager
def fake_gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Within the block every tensor is a shape, and a ``.item()``, ``bool()`` or ``nonzero()`` of one an error."""
    # transformers spares fake tensors what it asks of real ones
    monkeypatch.setattr(masking_utils, "is_tracing", lambda *_: False)
    with FakeTensorMode(), NoWaiting():
        yield


def move(module: nn.Module) -> None:
    """Puts a module on the GPU; within :func:`fake_gpu`."""
    for owner in module.modules():
        for name, value in owner._parameters.items():
            if value is not None:
                moved = torch.empty(value.shape, dtype=value.dtype, device="cuda")
                owner._parameters[name] = nn.Parameter(moved, requires_grad=value.requires_grad)
        for name, value in owner._buffers.items():
            if value is not None:
                owner._buffers[name] = torch.empty(value.shape, dtype=value.dtype, device="cuda")


def differentiate(loss: Tensor) -> dict[Tensor, Tensor]:
    """The gradients of a scalar by what it was made of; torch's own backward would ask the driver for streams."""
    assert loss.grad_fn is not None
    uses: dict[Any, int] = {loss.grad_fn: 0}
    waiting = [loss.grad_fn]
    while waiting:
        for node, _ in waiting.pop().next_functions:
            if node is not None:
                if node not in uses:
                    waiting.append(node)
                uses[node] = uses.get(node, 0) + 1
    received: dict[Any, dict[int, Tensor]] = {loss.grad_fn: {0: torch.ones_like(loss)}}
    found: dict[Tensor, Tensor] = {}
    waiting = [loss.grad_fn]
    while waiting:
        node = waiting.pop()
        gradients = received.pop(node)
        if (leaf := getattr(node, "variable", None)) is not None:
            found[leaf] = gradients[0]
            continue
        function = node.apply if isinstance(node, BackwardCFunction) else node
        made = function(*(gradients.get(place) for place in range(len(node._input_metadata))))
        made = made if isinstance(made, tuple) else (made,)
        for (following, place), gradient in zip(node.next_functions, made, strict=True):
            if following is None:
                continue
            own = received.setdefault(following, {})
            if gradient is not None:
                wanted = following._input_metadata[place]
                assert gradient.device == wanted.device
                gradient = gradient.sum_to_size(wanted.shape)  # where a forward broadcast
                own[place] = own[place] + gradient if place in own else gradient
            uses[following] -= 1
            if not uses[following]:
                waiting.append(following)
    return found
