"""One run of a pack: its model, data, callbacks and files, and the Trainer that those believe to be alone with."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import lightning as L
import torch
from lightning.pytorch import callbacks
from lightning.pytorch.utilities.model_helpers import is_overridden
from torchmetrics import Metric

from fpt_lightning.data.datamodule import FPTDataModule
from fpt_lightning.errors import DivergedError, FPTError
from fpt_lightning.training.artifacts.checkpoint import read_checkpoint
from fpt_lightning.training.artifacts.predictions import PredictionWriter
from fpt_lightning.training.callbacks import PartsSummary, is_idle
from fpt_lightning.training.captured import CaptureSteps
from fpt_lightning.training.choice import chosen
from fpt_lightning.training.classification import FPTClassifier
from fpt_lightning.training.random_state import current_state, restore
from fpt_lightning.training.trainer import FPTTrainer

OF_THE_PACK = (callbacks.ProgressBar, CaptureSteps, PartsSummary, PredictionWriter)
"""Callbacks that many runs together need once, or not at all."""
OF_THE_RUN = frozenset({"default_root_dir", "log_dir", "logger", "loggers", "max_steps", "throughput"})
"""What a run's own Trainer knows better than the pack's."""
UNHEARD = ("on_train_batch_start", "on_before_zero_grad", "on_before_backward", "on_after_backward",
           "on_before_optimizer_step", "on_validation_epoch_start", "on_validation_batch_start",
           "on_validation_batch_end")  # fmt: skip
"""Hooks of callbacks that a pack never comes to."""
UNHEARD_OF_MODELS = (*UNHEARD, "forward", "backward", "configure_optimizers", "configure_gradient_clipping",
                     "optimizer_step", "optimizer_zero_grad", "lr_scheduler_step", "on_before_batch_transfer",
                     "on_after_batch_transfer", "on_train_start", "on_train_epoch_start", "on_train_batch_end",
                     "on_train_epoch_end", "on_validation_end", "on_train_end", "on_fit_end")  # fmt: skip
"""What a model class may have of its own and a pack does in its own way, or never."""


class Replica:
    """A run of a pack, in the form of a Trainer: what it does not know, the pack's does.

    Args:
        model: The model.
        datamodule: The task, under the run's seed.
        trainer: The Trainer that the run would have alone; its callbacks, loggers and folders are used.
        ckpt_path: The checkpoint that the run goes on from.

    Attributes:
        stream: The random numbers of its training, which begin where torch's global generator stands.
        diverged: Why it left the pack, where its numbers are not finite.
        steps: Gradient steps done when it left.
    """

    def __init__(
        self, model: FPTClassifier, datamodule: FPTDataModule, trainer: FPTTrainer, ckpt_path: str | None = None
    ) -> None:
        self.pack: Any = None
        self.model, self.datamodule, self.alone, self.ckpt_path = model, datamodule, trainer, ckpt_path
        self.lightning_module = model
        datamodule.trainer = trainer  # asked for before the pack has a Trainer
        self.stream, self._generators = torch.Generator(), current_state()
        self.stream.set_state(self._generators["torch"])
        self.callbacks = [each for each in trainer.callbacks if not isinstance(each, OF_THE_PACK)]
        self.callback_metrics: dict[str, torch.Tensor] = {}
        self.should_stop = False
        self.diverged: DivergedError | None = None
        self.steps: int | None = None
        self._row: dict[str, torch.Tensor] = {}
        self._metrics: dict[str, Metric] = {}
        self._hooked: dict[str, list[L.Callback]] = {}

    def expect_heard(self) -> None:
        """Refuses a model class or a callback with ways of its own that a pack would not go.

        Raises:
            FPTError: If there is one.
        """
        own = [name for name in UNHEARD_OF_MODELS if is_overridden(name, self.model, FPTClassifier)]
        found: list[tuple[object, str]] = [(self.model, name) for name in own]
        for callback in self.callbacks:
            if isinstance(callback, callbacks.GradientAccumulationScheduler):
                found.append((callback, "number of batches in a step"))
            elif isinstance(callback, callbacks.Timer):
                found.append((callback, "clock"))
            elif not type(callback).__module__.startswith("fpt_lightning."):
                found += [(callback, name) for name in UNHEARD if is_overridden(name, callback, L.Callback)]
        if found:
            what, name = found[0]
            raise FPTError(f"{type(what).__name__} has its own {name}, which no pack has: such runs go alone")

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "alone":
            raise AttributeError(name)
        return getattr(self.alone if name in OF_THE_RUN else self.pack, name)

    def join(self, pack: L.Trainer) -> None:
        """Takes the place of the Trainer of model and data, and their logged figures."""
        self.pack = pack
        # asked for by every run at every step, and never another
        self.world_size, self.log_every_n_steps = pack.world_size, pack.log_every_n_steps  # type: ignore[attr-defined]
        self.model.trainer = self.datamodule.trainer = self  # type: ignore[assignment]
        object.__setattr__(self.model, "log", self._log)
        object.__setattr__(self.model, "log_dict", self._log_dict)

    def leave(self) -> None:
        """Gives model and data back, as they are now, at the step of the pack."""
        self.steps = self.pack.global_step
        for name in ("log", "log_dict"):
            object.__delattr__(self.model, name)
        self.model.trainer = self.datamodule.trainer = self.alone

    def run(self, test: str = "after", **_: Any) -> dict[str, Any]:
        """What the run measured, as :meth:`FPTTrainer.run` says it: the end of one that the pack has trained.

        Raises:
            DivergedError: If it diverged.
            FPTError: If it never validated, so that there is no checkpoint to choose.
        """
        if self.diverged is not None:
            raise self.diverged
        if self.alone.pause.step is not None:
            return {}
        chooser = self.alone.checkpoint_callback
        assert isinstance(chooser, callbacks.ModelCheckpoint)
        best, measured = chosen(chooser)
        measured |= self.cost()  # before the test, which puts the callbacks back
        if test != "never":
            self.alone.fit_loop.epoch_loop._batches_that_stepped = self.steps or 0  # the number of the test's row
            (tested,) = self.alone.test(
                self.model, datamodule=self.datamodule, ckpt_path=best, weights_only=True, verbose=False
            )
            measured |= tested
        return measured

    def cost(self) -> dict[str, Any]:
        """What the training took, see :meth:`FPTTrainer.cost`; the seconds are those of the pack."""
        return self.alone.cost() | {"steps": self.steps}

    def call(self, hook: str, *arguments: Any) -> None:
        """Calls a hook of the run's callbacks; what says that it diverged ends it, and none is called from then on."""
        if self.diverged is not None:
            return
        try:
            for callback in self._with(hook):
                getattr(callback, hook)(self, self.model, *arguments)
        except DivergedError as error:
            self.diverged = error

    def end_step(self, step: int, *arguments: Any) -> None:
        """Calls what follows a gradient step, whose number every callback asks for: looked up once for all runs."""
        self.global_step = step
        try:
            self.call("on_train_batch_end", *arguments)
        finally:
            del self.global_step

    def _with(self, hook: str) -> list[L.Callback]:
        """The callbacks that have something to do there: at every step of many runs the others take time too."""
        if hook not in self._hooked:
            self._hooked[hook] = [each for each in self.callbacks if not is_idle(each, hook)]
        return self._hooked[hook]

    @contextmanager
    def as_global(self) -> Iterator[None]:
        """Lets the global generators be the run's own within the block."""
        before = current_state()
        restore(self._generators | {"torch": self.stream.get_state()})
        try:
            yield
        finally:
            self._generators = current_state()
            self.stream.set_state(self._generators["torch"])
            restore(before)

    def training_loss(self, batch: Any, batch_idx: int, logits: torch.Tensor) -> torch.Tensor:
        """The model's own training step, whose forward pass the pack has done."""
        object.__setattr__(self.model, "forward", lambda *_: logits)
        try:
            loss: torch.Tensor = self.model.training_step(batch, batch_idx)
        finally:
            object.__delattr__(self.model, "forward")
        return loss

    def log_row(self, step: int) -> None:
        """Hands what was logged since the last time to the run's loggers, and to what watches it."""
        figures = {name: metric.compute().detach() for name, metric in self._metrics.items()}
        for metric in self._metrics.values():
            metric.reset()
        figures |= self._row
        self._row, self._metrics = {}, {}
        if self.sanity_checking:  # of which Lightning keeps nothing
            return
        self.callback_metrics |= figures
        if figures and self.loggers and self.diverged is None:
            row = {name: value.item() for name, value in figures.items()}
            for logger in self.loggers:
                logger.log_metrics({**row, "epoch": self.current_epoch}, step=step)
                logger.save()

    def save_checkpoint(self, filepath: str | Path, weights_only: bool | None = None, **options: Any) -> None:
        """Saves the checkpoint that the run would have alone."""
        self.pack.lightning_module.saving = self
        self.pack.save_checkpoint(filepath, weights_only, **options)

    def write(self, checkpoint: dict[str, Any], stream: int, optimizer_state: dict[str, Any]) -> None:
        """Turns a checkpoint of the pack into that of the run, which reads the training stream of this number."""
        model, view = self.model, cast("L.Trainer", self)
        checkpoint["state_dict"] = model.state_dict()
        checkpoint[model.CHECKPOINT_HYPER_PARAMS_NAME] = model._hparams_name
        checkpoint[model.CHECKPOINT_HYPER_PARAMS_KEY] = dict(model.hparams)
        loop = checkpoint["loops"]["fit_loop"]["state_dict"]
        loop["combined_loader"] = [loop["combined_loader"][stream]]
        if "callbacks" in checkpoint:
            states = ((callback.state_key, callback.state_dict()) for callback in self.callbacks)
            checkpoint["callbacks"] = {key: state for key, state in states if state}
            checkpoint["optimizer_states"] = [optimizer_state]
            with self.as_global():
                for callback in self.callbacks:
                    callback.on_save_checkpoint(view, model, checkpoint)
        model.on_save_checkpoint(checkpoint)

    def read(self) -> dict[str, Any]:
        """Goes on from the run's checkpoint, which is returned.

        Raises:
            FPTError: If it is none, or of something else.
        """
        assert self.ckpt_path is not None
        checkpoint = read_checkpoint(self.ckpt_path)
        self.model.on_load_checkpoint(checkpoint)
        self.model.load_state_dict(checkpoint["state_dict"], strict=False)
        states = checkpoint["callbacks"]
        for callback in self.callbacks:
            callback.on_load_checkpoint(cast("L.Trainer", self), self.model, checkpoint)
            if callback.state_key in states:
                callback.load_state_dict(states[callback.state_key])
        return checkpoint

    def _log(self, name: str, value: Any, *_: Any, **__: Any) -> None:
        if isinstance(value, Metric):
            self._metrics[name] = value
        else:
            self._row[name] = torch.as_tensor(value).detach()

    def _log_dict(self, values: dict[str, Any], *_: Any, **__: Any) -> None:
        for name, value in values.items():
            self._log(name, value)
