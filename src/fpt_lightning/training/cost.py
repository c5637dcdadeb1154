"""What a training step costs in arithmetic, for the result of a run."""

from typing import Any

import lightning as L
import torch
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy
from lightning.pytorch.utilities import rank_zero_info

from fpt_lightning.errors import first_line
from fpt_lightning.models.arithmetic import flops_of_step


def step_flops(trainer: L.Trainer, module: L.LightningModule, batch: Any) -> int | None:
    """Floating-point operations of a gradient step like that of this batch, over all devices.

    Draws no random number and touches no device. None where the model is cut up among devices, or cannot be counted,
    which is said once: no run ends for it.
    """
    if not isinstance(trainer.strategy, SingleDeviceStrategy | DDPStrategy):
        return None
    tokens, _, mask = (*batch, None)[:3]  # a Batch, or a tuple of a loader that is not ours
    try:
        with torch.random.fork_rng(devices=[]):
            flops = flops_of_step(module, tokens, *([] if mask is None else [mask]))
    except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        rank_zero_info(f"flops_per_step: the arithmetic of this model cannot be counted: {first_line(error)}")
        return None
    return flops * trainer.world_size * trainer.accumulate_grad_batches
