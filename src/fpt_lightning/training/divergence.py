"""A training whose numbers are no longer numbers ends at once."""

from typing import Any

import lightning as L
import torch
from lightning.pytorch import callbacks
from lightning.pytorch.trainer.states import TrainerFn

from fpt_lightning.errors import DivergedError
from fpt_lightning.training.logger import is_logging_step


class StopWhenDiverged(callbacks.Callback):
    """Ends a training whose loss or trained parameters are not finite, before a checkpoint or a result is made of it.

    It looks at logged steps, around each validation and at the end. A gradient that is not finite makes its parameter
    so in the same step, through Adam's moments for good, whether or not any token of a later batch meets it.
    """

    def __init__(self) -> None:
        self._loss: torch.Tensor | None = None  # of the last step, on its device, so that no step waits for it
        self._trained: dict[str, torch.Tensor] = {}  # looked up now and then: in a large body it takes milliseconds

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._trained = _trained(pl_module)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        loss = outputs.get("loss") if isinstance(outputs, dict) else outputs
        self._loss = loss.detach() if isinstance(loss, torch.Tensor) else None
        if is_logging_step(trainer, trainer.global_step - 1):
            self._check(trainer, pl_module)

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Looks before the model is judged and saved."""
        if trainer.state.fn == TrainerFn.FITTING:
            self._trained = _trained(pl_module)
            self._check(trainer, pl_module)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Looks at the loss on validation: the parameters may be finite and too large to compute with."""
        if trainer.state.fn == TrainerFn.FITTING and (loss := trainer.callback_metrics.get("val_loss")) is not None:
            _refuse(trainer, pl_module, None if loss.isfinite().all() else "its loss on validation")

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Looks behind the last logged step."""
        self._check(trainer, pl_module)

    def _check(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        finite = self._loss is None or bool(self._loss.isfinite().all())
        _refuse(trainer, module, _not_finite(self._trained) if finite else "its loss")


def _trained(module: L.LightningModule) -> dict[str, torch.Tensor]:
    return {name: value for name, value in module.named_parameters() if value.requires_grad and value.numel()}


def _not_finite(trained: dict[str, torch.Tensor]) -> str | None:
    """What of the trained parameters is NaN or infinite, None where all are finite; waits for the device once."""
    if not trained:
        return None
    norms = _largest(trained)
    if norms.isfinite().all():
        return None
    return f"the trained parameter {list(trained)[int((~norms.isfinite()).int().argmax())]}"


def _largest(trained: dict[str, torch.Tensor]) -> torch.Tensor:
    """The largest number of every trained parameter."""
    return torch.stack([norm.float() for norm in torch._foreach_norm(list(trained.values()), torch.inf)])


def _refuse(trainer: L.Trainer, module: L.LightningModule, what: str | None) -> None:
    """Raises in every process if one of them has seen something: none waits for another that is gone."""
    if trainer.strategy.reduce_boolean_decision(what is not None, all=False):
        what = what or "the loss of another process"
        raise DivergedError(trainer.global_step, what, _way_out(trainer, module))


def _way_out(trainer: L.Trainer, module: L.LightningModule) -> str:
    """What the numbers that are not finite may come from."""
    if trainer.precision == "16-true":
        return "trainer.precision 16-true holds numbers up to 65,504 alone: choose bf16-mixed or 32-true"
    if (trained := _trained(module)) and (largest := _largest(trained).max()).isfinite():
        return (
            f"all trained parameters are, the largest being {largest:.3g}: look for inputs far from those of training"
        )
    lr = getattr(module, "lr", None)
    return f"choose a smaller learning rate{f' than {lr:g}' if isinstance(lr, float) else ''}"
