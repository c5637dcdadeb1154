"""What a run shows and measures of itself."""

import sys
import time
from typing import Any

import lightning as L
import torch
from lightning.pytorch import callbacks
from lightning.pytorch.utilities import rank_zero_info
from lightning.pytorch.utilities.model_helpers import is_overridden
from torch import nn

from fpt_lightning.data.spec import Batch
from fpt_lightning.models.fpt import FrozenPretrainedTransformer
from fpt_lightning.models.parts import PARTS
from fpt_lightning.training.cost import step_flops
from fpt_lightning.training.logger import is_logging_step


class StopEarly(callbacks.EarlyStopping):
    """Stops once validation has not improved ``patience`` times in a row; never, where patience is None.

    Lightning's, by another name: two of one name are none that ``--trainer.callbacks+=EarlyStopping`` could mean.

    Args:
        monitor: The metric to watch; the command line turns the default into ``val_r2`` for a regression.
        mode: ``max`` or ``min``.
        patience: Validations without improvement, 0 as 1; None trains all ``max_steps``, as the paper does.
        min_delta: Smallest change that counts as an improvement.
    """

    def __init__(
        self, monitor: str = "val_accuracy", mode: str = "max", patience: int | None = None, min_delta: float = 0.0
    ) -> None:
        never = 2**62
        super().__init__(
            monitor, min_delta, patience=never if patience is None else patience, mode=mode, strict=True,
            check_on_train_epoch_end=False,  # Lightning would ask an interval that is a time for the number it is not
        )  # fmt: skip

    @property
    def state_key(self) -> str:
        """That of checkpoints of version 0.4 and before, where its name was Lightning's."""
        return super().state_key.replace("StopEarly", "EarlyStopping", 1)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Goes on with the patience that is asked for now; Lightning would with the saved one."""
        super().load_state_dict({**state_dict, "patience": self.patience})

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Lets a run that had stopped, and was killed before its result was there, not train on."""
        trainer.should_stop = trainer.should_stop or self.wait_count >= max(1, self.patience)


class ProgressBar(callbacks.RichProgressBar):
    """One bar over all steps of a run, with loss, validation's metric and samples a second; in a terminal alone.

    It is gone when the run ends.

    Args:
        refresh_rate: Steps between two updates; each waits for the device. 0 shows no bar.
    """

    def __init__(self, refresh_rate: int = 10) -> None:
        super().__init__(refresh_rate=refresh_rate)

    @property
    def is_enabled(self) -> bool:
        return super().is_enabled and sys.stdout.isatty()

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Counts steps of the run rather than batches of an epoch."""
        if trainer.max_steps < 0:
            super().on_train_epoch_start(trainer, pl_module)
        elif self.progress is not None and self.train_progress_bar_id is None:
            self.train_progress_bar_id = self.progress.add_task(
                "Training", total=trainer.max_steps, completed=trainer.global_step
            )

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        step = batch_idx if trainer.max_steps < 0 else trainer.global_step - 1
        if self.is_enabled and (step + 1) % int(self.refresh_rate) == 0:
            super().on_train_batch_end(trainer, pl_module, outputs, batch, step)

    def on_validation_batch_start(self, trainer: L.Trainer, *arguments: Any, **others: Any) -> None:
        """Adds no second bar while a run trains."""
        if trainer.state.fn != "fit":
            super().on_validation_batch_start(trainer, *arguments, **others)

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        if self.progress is not None:
            self.progress.live.transient = True
        super().teardown(trainer, pl_module, stage)

    def get_metrics(
        self, trainer: L.Trainer, pl_module: L.LightningModule
    ) -> dict[str, int | str | float | dict[str, float]]:
        """The figures that have room in a line, the rate in whole samples."""
        metrics = super().get_metrics(trainer, pl_module)
        shown = {name: value for name, value in metrics.items() if name == "train_loss" or name.startswith("val_")}
        if isinstance(rate := metrics.get("samples_per_second"), float):
            shown["samples/s"] = f"{rate:,.0f}"
        return shown

    def configure_columns(self, trainer: L.Trainer) -> list[Any]:
        """Lightning's, with a shorter bar, and without batches a second: samples a second say it."""
        description, bar, batches, clock, _ = super().configure_columns(trainer)
        bar.bar_width = 20
        return [description, bar, batches, clock]


STEP_HOOKS = ("on_train_batch_start", "on_before_zero_grad", "on_before_backward", "on_after_backward",
              "on_before_optimizer_step", "on_train_batch_end")  # fmt: skip


class KeepLast(callbacks.ModelCheckpoint):
    """Keeps the state to go on from.

    Told to do so by steps or by the clock it keeps it behind validations too, never between a step and its validation:
    of such a state Lightning takes the validation for made, and passes over it. Where nothing validates it is saved at
    the end.
    """

    def _generate_state_key(self, **options: Any) -> str:
        return f"{callbacks.ModelCheckpoint.__qualname__}{options!r}"  # under which it always lay

    def on_train_batch_end(self, trainer: L.Trainer, *arguments: Any) -> None:
        loop = trainer.fit_loop
        if loop._data_fetcher is not None and loop.epoch_loop._should_check_val_fx(loop._data_fetcher):
            self._defer_save_until_validation = True
        else:
            super().on_train_batch_end(trainer, *arguments)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.limit_val_batches == 0 and not self._should_skip_saving_checkpoint(trainer):
            self._save_topk_checkpoint(trainer, self._monitor_candidates(trainer))


def is_idle(callback: L.Callback, hook: str) -> bool:
    """Whether a callback has nothing to do at a hook: it has none, or Lightning's that asks at every step, in vain."""
    known = type(callback) in (callbacks.ModelCheckpoint, KeepLast)
    if known and isinstance(callback, callbacks.ModelCheckpoint) and hook == "on_train_batch_end":
        return not callback._every_n_train_steps and callback._train_time_interval is None
    return not is_overridden(hook, callback)


class SkipIdle(callbacks.Callback):
    """Spares every step the calls of callbacks that have nothing to do there: of a dozen, a sixth of a short step.

    Lightning calls every hook of each, under its profiler; one that is not callable it passes over.
    """

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            for hook in STEP_HOOKS:
                if is_idle(callback, hook):
                    setattr(callback, hook, None)


class Throughput(callbacks.Callback):
    """Counts samples a second over all devices, and how many of the tokens are padding.

    Validation and its checkpoints do not count. The totals go on where a resumed run left them.

    Attributes:
        flops_per_step: Floating-point operations of a gradient step like the run's first; see :func:`step_flops`.
    """

    flops_per_step: int | None = None

    def __init__(self) -> None:
        self.samples = 0
        self.tokens = 0
        self.padding: int | torch.Tensor = 0  # a tensor on the device, so that no step waits for it
        self.training_seconds = 0.0
        self.wall_seconds = 0.0
        self._started: float | None = None  # of this process
        self._mark: float | None = None  # end of the last step; None behind a pause
        self._logged: tuple[int, float] = (0, 0.0)  # samples and seconds when the rate was last logged

    @property
    def samples_per_second(self) -> float:
        """The mean over the run; the first step behind every pause warms up and is left out."""
        return self.samples / self.training_seconds if self.training_seconds else 0.0

    @property
    def padding_share(self) -> float:
        """The share of this process's training tokens that were padding."""
        return int(self.padding) / self.tokens if self.tokens else 0.0

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._started = time.perf_counter()
        self._mark = None
        self._logged = (self.samples, self.training_seconds)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        """Adds a step, and logs the rate of the last ``log_every_n_steps``."""
        if not self.tokens:
            self.flops_per_step = step_flops(trainer, pl_module, batch)
        now = time.perf_counter()
        tokens, _, mask = (*batch, None)[:3]  # a Batch, or a tuple of a loader that is not ours
        self.tokens += tokens.shape[:2].numel()
        if mask is not None:
            self.padding = self.padding + (mask == 0).sum()  # that of others need not be bool
        if self._mark is not None:
            self.samples += tokens.size(0) * trainer.world_size
            self.training_seconds += now - self._mark
        self._mark = now
        samples, seconds = self._logged
        if is_logging_step(trainer, trainer.global_step - 1) and self.training_seconds > seconds:
            rate = (self.samples - samples) / (self.training_seconds - seconds)
            pl_module.log("samples_per_second", rate, prog_bar=True)
            self._logged = (self.samples, self.training_seconds)

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._mark = None

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self._started is not None:
            self.wall_seconds += time.perf_counter() - self._started
            self._started = None

    def state_dict(self) -> dict[str, float | None]:
        running = time.perf_counter() - self._started if self._started is not None else 0.0
        return {
            "tokens": self.tokens,
            "padding": int(self.padding),
            "samples": self.samples,
            "training_seconds": self.training_seconds,
            "wall_seconds": self.wall_seconds + running,
            "flops_per_step": self.flops_per_step,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        for name in self.state_dict():
            setattr(self, name, state_dict.get(name))  # 0.3 counted no operations


class PartsSummary(callbacks.Callback):
    """Says at the start of a run what trains and what is frozen, part by part."""

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if isinstance(pl_module.model, FrozenPretrainedTransformer):
            rank_zero_info(summarise(pl_module.model))
        else:
            assert isinstance(pl_module.model, nn.Module)
            trained = sum(parameter.numel() for parameter in pl_module.model.parameters() if parameter.requires_grad)
            rank_zero_info(f"{trained:,} parameters train")


def summarise(model: FrozenPretrainedTransformer) -> str:
    """A table of trained and frozen parameter counts by part, and the share that trains."""
    counts = {part: [0, 0] for part in PARTS}
    for name, parameter in model.named_parameters():
        counts[model.places[name].part][0 if parameter.requires_grad else 1] += parameter.numel()
    trained, frozen = (sum(count[column] for count in counts.values()) for column in (0, 1))
    rows = [f"{part:<12}{train:>15,}{rest:>15,}" for part, (train, rest) in counts.items() if train + rest]
    kept = "" if model.frozen_dtype == "float32" else f", frozen matrices in {model.frozen_dtype}"
    header = [f"{model.task.name} on {model.choice}{kept}", f"{'part':<12}{'trained':>15}{'frozen':>15}"]
    total = f"{'all':<12}{trained:>15,}{frozen:>15,}   {trained / (trained + frozen):.3%} trains"
    return "\n".join([*header, *rows, total])
