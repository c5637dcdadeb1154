"""The state of random numbers, kept with a run: resumed, it draws what it would have drawn without a stop."""

import random
from typing import Any, TypeVar

import lightning as L
import numpy as np
import torch
from lightning.pytorch.trainer.states import TrainerFn

from fpt_lightning.random_streams import key

RANDOM_STATES = "random_states"

T = TypeVar("T")


class RandomState(L.Callback):
    """Saves every process's generators in the checkpoint, under :data:`RANDOM_STATES`, a state a process.

    A run that is not resumed, or by another number of processes, gives each process a stream of its own, so that
    devices do not all draw the same dropout.
    """

    # hooks rather than `state_dict`: they know the Trainer, and the checkpoint keeps its place for the states
    def __init__(self) -> None:
        self._saved: list[dict[str, Any]] | None = None

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        checkpoint[RANDOM_STATES] = of_every_process(current_state(), trainer)

    def on_load_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        if trainer.state.fn in (None, TrainerFn.FITTING):  # a test goes on with nothing
            self._saved = checkpoint.get(RANDOM_STATES)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Sets the generators as late as possible: what is drawn while a run is set up does not count."""
        saved, self._saved = self._saved, None  # once: a second fit goes on from the first
        if saved is not None and len(saved) == trainer.world_size:
            restore(saved[trainer.global_rank])
        elif trainer.global_rank > 0:
            torch.manual_seed(key(torch.initial_seed(), f"process {trainer.global_rank}"))


def of_every_process(own: T, trainer: L.Trainer) -> list[T]:
    """What each process has, by its rank: the same list in each, for Lightning makes up a checkpoint in all."""
    every = [own] * trainer.world_size
    if trainer.world_size > 1:
        torch.distributed.all_gather_object(every, own)
    return every


def current_state() -> dict[str, Any]:
    """The state of every global generator of this process, as plain values and tensors."""
    _, keys, position, *rest = np.random.get_state(legacy=True)
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state() if torch.cuda.is_initialized() else None,
        "numpy": [keys.tolist(), int(position), *rest],  # type: ignore[union-attr]
        "python": random.getstate(),
    }


def restore(state: dict[str, Any]) -> None:
    """Sets every global generator of this process."""
    torch.set_rng_state(state["torch"])
    if state["cuda"] is not None and torch.cuda.is_initialized():
        torch.cuda.set_rng_state(state["cuda"])
    keys, position, *rest = state["numpy"]
    np.random.set_state(("MT19937", np.array(keys, dtype=np.uint32), position, *rest))
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))
