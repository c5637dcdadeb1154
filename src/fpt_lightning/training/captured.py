"""A training step as one CUDA graph: the host starts all of its kernels at once, not one by one."""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import lightning as L
import torch
import torch.nn.functional as F
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor

from fpt_lightning.data.spec import Batch
from fpt_lightning.errors import FPTError, UsageError, first_line
from fpt_lightning.training.classification import FPTClassifier

Outputs = tuple[Tensor, ...]
BUCKET = 64
"""Padded batches are padded on to a multiple of so many tokens, so that few shapes are captured."""
WARM_UP = 3
"""Passes before a capture, in which torch's libraries take memory and choose kernels."""

T = TypeVar("T")


class CaptureSteps(L.Callback):
    """Lets an :class:`FPTClassifier` train by a :class:`CapturedStep` on a GPU, and as ever elsewhere."""

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Raises UsageError where a step needs the host."""
        if not isinstance(pl_module, FPTClassifier) or pl_module.model.shuffle is not None:
            raise UsageError("trainer.captured: a step of this model needs the host, leave the option away")
        if str(trainer.precision).startswith("16"):
            raise UsageError(f"trainer.captured: gradients are not scaled in it, so not with {trainer.precision}")
        if not on_gpu(pl_module):
            rank_zero_info("trainer.captured needs a GPU: without one, steps run as ever")
            return
        parameters = [parameter for parameter in pl_module.parameters() if parameter.requires_grad]
        pl_module.captured = CapturedStep(pl_module.answer, parameters, pl_module.task.max_length)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if isinstance(pl_module, FPTClassifier):
            pl_module.captured = None  # with its memory


class CapturedStep:
    """Forward and backward pass of a batch, captured once a shape and replayed from then on.

    The loss is differentiable in the parameters: its backward pass hands out the gradients that the replay has made.
    So accumulation, clipping, optimizer and schedule stay outside, and those of a plain step.

    Args:
        answer: Makes of a batch a tuple of tensors whose last is the loss, a scalar.
        parameters: What trains.
        longest: Tokens in the longest sequence.

    Attributes:
        replays: How many steps were replayed.
    """

    def __init__(self, answer: Callable[[Batch], Outputs], parameters: Sequence[Tensor], longest: int) -> None:
        self._answer, self._parameters, self._longest = answer, list(parameters), longest
        self._captured: dict[Any, tuple[Batch, tuple[Outputs, Outputs], Callable[[], None]]] = {}
        self.replays = 0

    def __call__(self, batch: Batch) -> Outputs:
        """What the function makes of a batch; all but the loss lies in memory that the next call overwrites.

        Raises:
            FPTError: If the function does what a graph cannot hold.
        """
        batch = padded(batch, self._longest)
        shape = tuple((x.shape, x.dtype) for x in batch if x is not None)
        if shape not in self._captured:
            own = Batch(*(None if x is None else x.clone() for x in batch))  # type: ignore[arg-type]
            try:
                self._captured[shape] = (own, *record(lambda: self._compute(own)))
            except torch.OutOfMemoryError:
                raise
            except RuntimeError as error:
                raise FPTError(f"trainer.captured: this step cannot be captured: {first_line(error)}") from error
        own, ((*others, loss), gradients), replay = self._captured[shape]
        for mine, x in zip(own, batch, strict=True):
            if mine is not None and x is not None:
                mine.copy_(x)
        replay()
        self.replays += 1
        return *others, _Replayed.apply(loss, gradients, *self._parameters)

    def _compute(self, batch: Batch) -> tuple[Outputs, Outputs]:
        outputs = self._answer(batch)
        with torch.autocast(outputs[-1].device.type, enabled=False):  # a plain step differentiates outside of it, too
            gradients = torch.autograd.grad(outputs[-1], self._parameters)
        return tuple(output.detach() for output in outputs), gradients


class _Replayed(torch.autograd.Function):
    """A loss whose gradients are there already."""

    @staticmethod
    def forward(ctx: Any, loss: Tensor, gradients: Outputs, *parameters: Tensor) -> Tensor:
        ctx.gradients = gradients
        return loss.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        return None, None, *torch._foreach_mul(ctx.gradients, gradient)


def record(compute: Callable[[], T]) -> tuple[T, Callable[[], None]]:
    """Captures a function: what it returned, and what computes that anew in the same memory.

    The random numbers of the runs before the capture are given back, so that a replay draws what a plain step would.
    """
    before, stream = torch.cuda.get_rng_state(), torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(WARM_UP):
            compute()
    torch.cuda.current_stream().wait_stream(stream)
    torch.cuda.set_rng_state(before)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        outputs = compute()
    return outputs, graph.replay


def on_gpu(module: L.LightningModule) -> bool:
    """Whether a module lies where there are graphs."""
    return module.device.type == "cuda"


def padded(batch: Batch, longest: int) -> Batch:
    """A batch with a mask, padded to a multiple of :data:`BUCKET` tokens, at most ``longest``; others as they are."""
    tokens, target, mask = batch
    if mask is None:
        return batch
    more = min(-(-tokens.size(1) // BUCKET) * BUCKET, longest) - tokens.size(1)
    ends = (0, 0) * (tokens.dim() - 2) + (0, more)
    return Batch(F.pad(tokens, ends), target, F.pad(mask, (0, more)))
