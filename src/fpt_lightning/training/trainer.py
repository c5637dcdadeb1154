"""Lightning's Trainer with the two commands of ours: `run` and `prepare`."""

import os
import resource
import signal
import sys
from typing import Any, Literal

import lightning as L
import torch
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy
from lightning.pytorch.strategies.launchers import _MultiProcessingLauncher, _SubprocessScriptLauncher
from lightning.pytorch.trainer.states import TrainerFn

from fpt_lightning.errors import UsageError
from fpt_lightning.signals import Ending
from fpt_lightning.training.artifacts.checkpoint import FollowFolder, WholeCheckpointIO
from fpt_lightning.training.artifacts.same_data import SameData
from fpt_lightning.training.callbacks import SkipIdle, Throughput
from fpt_lightning.training.captured import CaptureSteps
from fpt_lightning.training.choice import check_choice, chosen
from fpt_lightning.training.divergence import StopWhenDiverged
from fpt_lightning.training.logger import CountRows
from fpt_lightning.training.precision import RecommendPrecision
from fpt_lightning.training.random_state import RandomState, of_every_process

GRADIENTS = "gradients"  # in a checkpoint


class StopWhenTold(L.Callback):
    """Ends what a signal was to end, with all of its processes; see :class:`fpt_lightning.signals.Ending`.

    Whatever a signal interrupts may swallow its exception, so every batch asks again. Under SLURM the signals are
    Lightning's, which puts the job in line again.
    """

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if Ending.of_process is not None:
            Ending.of_process.take_over(yields=SLURMEnvironment.detect())

    def on_test_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.on_train_start(trainer, pl_module)

    def on_train_batch_start(self, *_: Any) -> None:
        if Ending.of_process is not None:
            Ending.of_process.insist()

    def on_validation_batch_start(self, *_: Any, **__: Any) -> None:
        self.on_train_batch_start()

    def on_test_batch_start(self, *_: Any, **__: Any) -> None:
        self.on_train_batch_start()

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        if Ending.of_process is not None:
            Ending.of_process.take_over(yields=False)

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Tells the processes that Lightning started; at Ctrl-C it does so itself."""
        launcher = trainer.strategy.launcher
        if isinstance(exception, SystemExit) and isinstance(launcher, _SubprocessScriptLauncher):
            launcher.kill(signal.SIGTERM)


class Pause(L.Callback):
    """Ends a training at a validation, whose checkpoint goes on with it another time as if it had never stopped.

    Attributes:
        at: The gradient step at whose validation, or at the next, the training is to pause; None lets it go on.
        step: Gradient steps done where it paused; None where it did not.
    """

    at: int | None = None
    step: int | None = None

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Goes no farther where the checkpoint is there already."""
        self.on_validation_end(trainer, pl_module)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        ends = trainer.should_stop or 0 < trainer.max_steps <= trainer.global_step  # without a pause, and for good
        if self.at is not None and trainer.global_step >= self.at and not ends:
            self.step, trainer.should_stop = trainer.global_step, True


class ValidateTheEnd(L.Callback):
    """Validates behind the last batch of the last epoch, wherever validations come: what nobody judged is lost."""

    def on_train_batch_end(self, trainer: L.Trainer, *_: object) -> None:
        last = trainer.fit_loop.epoch_loop.batch_progress.is_last_batch
        if last and 0 < (trainer.max_epochs or -1) <= trainer.current_epoch + 1:
            trainer.should_stop, trainer.check_val_every_n_epoch = True, None  # on which Lightning validates


class CountSteps(L.Callback):
    """Numbers the steps of a resumed run as one that never stopped, and a validation by the last step before it.

    A checkpoint is written before Lightning counts its step, which it makes up for where validations come by interval,
    and not behind one at the end of a training. Between the batches of a step it has counted the one before.
    """

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.fit_loop._should_accumulate() and trainer.global_step:
            trainer.fit_loop.epoch_loop._batches_that_stepped = trainer.global_step - 1

    def on_train_batch_start(self, trainer: L.Trainer, *_: object) -> None:
        """The first hook behind Lightning's own making up."""
        trainer.fit_loop.epoch_loop._batches_that_stepped = trainer.global_step


class UnfinishedStep(L.Callback):
    """Saves the gradients of a step whose batches are not all there: a validation may come in the midst of them."""

    def __init__(self) -> None:
        self._saved: list[dict[str, torch.Tensor]] = []  # a process each: they are summed when the step is made

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        if not trainer.fit_loop._should_accumulate():
            return
        own = {name: each.grad.cpu() for name, each in pl_module.named_parameters() if each.grad is not None}
        checkpoint[GRADIENTS] = of_every_process(own, trainer)

    def on_load_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        if trainer.state.fn == TrainerFn.FITTING:  # a test goes on with nothing
            self._saved = checkpoint.get(GRADIENTS, [])

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        saved, self._saved = self._saved, []  # once: a second fit goes on from the first
        if len(saved) == trainer.world_size:
            for name, gradient in saved[trainer.global_rank].items():
                parameter = pl_module.get_parameter(name)
                parameter.grad = gradient.to(parameter.device)


class FPTTrainer(L.Trainer):
    """Lightning's Trainer; every other argument means what it means there.

    A kill never leaves a broken checkpoint, see :class:`WholeCheckpointIO`, a resumed run draws the random numbers of
    one that never stopped, see :class:`RandomState`, and one that diverged ends, see :class:`StopWhenDiverged`.

    Args:
        captured: On a GPU, replay a training step as one CUDA graph; packs and other machines train as ever.
        kwargs: Lightning's.

    Raises:
        UsageError: If the strategy spawns or forks its processes.
    """

    callbacks: list[L.Callback]

    def __init__(self, captured: bool = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if not torch.cuda.is_available():
            # Lightning lets torch load the driver's library to look for a GPU, and Adam looks at every step
            os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "0"
        if isinstance(self.strategy.launcher, _MultiProcessingLauncher):
            # what a run leaves is written by the process that began it, which would have trained nothing
            raise UsageError(f"trainer.strategy {kwargs['strategy']} trains in processes of its own: use ddp")
        self.throughput, self.pause, self.same_data = Throughput(), Pause(), SameData()
        own = [
            FollowFolder(),
            self.same_data,
            self.throughput,
            StopWhenDiverged(),
            StopWhenTold(),
            RecommendPrecision(),
        ]
        own += [SkipIdle()]
        own += [CaptureSteps()] if captured else []
        own += [CountSteps(), CountRows(), UnfinishedStep()]
        own += [ValidateTheEnd()] if (self.max_epochs or -1) > 0 else []
        # the last: what other callbacks draw at the start of a resumed training does not count; what ends it for good
        # comes before what lets it pause
        self.callbacks = [*own, *self.callbacks, self.pause, RandomState()]
        # others write folders of their own; and where somebody has chosen another way, that stays
        one_file = isinstance(self.strategy, SingleDeviceStrategy | DDPStrategy)
        if one_file and type(self.strategy.checkpoint_io) is TorchCheckpointIO:
            self.strategy.checkpoint_io = WholeCheckpointIO()

    def run(
        self,
        model: L.LightningModule,
        datamodule: L.LightningDataModule,
        ckpt_path: str | None = None,
        arm: str | None = None,
        protocol: str = "paper",
        test: Literal["after", "never", "only"] = "after",
        baselines: bool = True,
        pause_at: int | None = None,
    ) -> dict[str, Any]:
        """Train, choose the checkpoint on validation, test it once, write result.json.

        Args:
            model: The model.
            datamodule: The task.
            ckpt_path: A checkpoint of this run to go on from, or to test.
            arm: The name of this row of a table; backbone and initialisation where it is left out.
            protocol: How the learning rate and the checkpoint are chosen, as the result will say.
            test: When the test split is read: after the training; never, as long as it is open whether this run
                will count; or only, without training, to test a run that was trained without.
            baselines: Whether the result says what guessing is worth and, on data of one's own, a linear layer: a pass
                over its splits and some seconds more.
            pause_at: Gradient steps after whose validation the run pauses: the same command without it, or with a later
                one, goes on from there with --ckpt_path last, and ends as if it had never stopped.

        Returns:
            What the run measured, under the names of result.json; nothing of one that paused.

        Raises:
            FPTError: If the run never validated, so that there is no checkpoint to choose, or it was replaced.
            DivergedError: If its numbers are not finite any more.
            UsageError: If only a test is asked for, and of no checkpoint or on other data; or there are none to choose
                among, or none that can be chosen among.
        """
        if test == "only" and ckpt_path is None:
            raise UsageError("--test only tests a checkpoint: add --ckpt_path RUN/checkpoints/best.ckpt")
        chooser, measured = self.chooser(test), dict[str, Any]()
        self.same_data.tests_only = test == "only"
        if chooser is not None:
            self.pause.at = pause_at
            self.fit(model, datamodule=datamodule, ckpt_path=ckpt_path, weights_only=True)
            if self.pause.step is not None:
                return {}
            ckpt_path, measured = chosen(chooser)
            # before the test, which puts the callbacks back to where they were at the best checkpoint
            measured |= self.cost()
        if test != "never":
            measured |= self.test(model, datamodule=datamodule, ckpt_path=ckpt_path, weights_only=True, verbose=False)[
                0
            ]
        return measured

    def chooser(self, test: str) -> ModelCheckpoint | None:
        """What chooses the checkpoint of a run; None where none is trained, see :meth:`run`.

        Raises:
            UsageError: If there is nothing to choose by, or nothing to test.
        """
        if test != "never" and self.limit_test_batches == 0:
            raise UsageError("trainer.limit_test_batches=0 leaves nothing to test: add --test never")
        if test == "only":
            return None
        if self.limit_val_batches == 0:
            raise UsageError("trainer.limit_val_batches=0 leaves no checkpoint to choose: use fpt fit")
        check_choice(found := [each for each in self.checkpoint_callbacks if isinstance(each, ModelCheckpoint)])
        return found[0]

    def cost(self) -> dict[str, Any]:
        """What the training took so far, under the names of result.json."""
        return {
            "steps": self.global_step,
            "samples_per_second": round(self.throughput.samples_per_second, 1),
            "flops_per_step": self.throughput.flops_per_step,
            "padding_share": round(self.throughput.padding_share, 4),
            "peak_memory_mb": round(peak_memory_mb()),
            "wall_seconds": round(self.throughput.state_dict()["wall_seconds"] or 0, 1),
        }

    def prepare(self, model: L.LightningModule, datamodule: L.LightningDataModule) -> None:
        """Fetch or generate the data of a config, verify it and say what was found; nothing else."""
        datamodule.prepare_data()


def peak_memory_mb() -> float:
    """The most memory this process has held: on the GPU where one was used, otherwise in RAM; in MiB."""
    if torch.cuda.is_initialized():
        return torch.cuda.max_memory_allocated() / 2**20
    unit = 1 if sys.platform == "darwin" else 1024  # bytes there, KiB on Linux
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20
