"""Many runs over one frozen body, trained in one pass."""

from collections.abc import Sequence
from typing import Any

import lightning as L
import torch
from lightning.pytorch.utilities import CombinedLoader
from lightning.pytorch.utilities.model_helpers import is_overridden
from torch import Tensor

from fpt_lightning.data.spec import Batch
from fpt_lightning.errors import FPTError
from fpt_lightning.models.kernels.replicas import replicated
from fpt_lightning.models.packed import PackedTransformer, share_frozen
from fpt_lightning.training.classification import FPTClassifier
from fpt_lightning.training.logger import is_logging_step
from fpt_lightning.training.optimizer import parameter_groups
from fpt_lightning.training.packs.adam import PackedAdam
from fpt_lightning.training.packs.replica import Replica


class Pack(L.LightningModule):
    """Runs that differ in rates, seeds and budgets, as one module.

    Every run keeps what it would have alone: parameters, order of the data, random numbers, callbacks, checkpoints and
    logged figures. One that stopped or diverged leaves at the next validation and takes no time from then on.

    Args:
        replicas: The runs; their frozen weights are the same.
        looped: Compute every frozen product a run at a time: slow, and to the last bit what each would be alone.

    Raises:
        FPTError: If they differ in more than that, or their body has a form that cannot be shared.
    """

    saving: Replica | None = None

    def __init__(self, replicas: Sequence[Replica], *, looped: bool = False) -> None:
        super().__init__()
        self.replicas, self.looped = list(replicas), looped
        self.members = torch.nn.ModuleList(replica.model for replica in replicas)
        self.packed: PackedTransformer | None = None
        self.running = list(replicas)
        self.strict_loading = False
        own = ("training_step", "answer", "loss")
        self._losses_are_ours = not any(is_overridden(name, replicas[0].model, FPTClassifier) for name in own)
        self._streams = streams_of(replicas)
        for replica in replicas:
            replica.expect_heard()
        first = replicas[0].model.model
        for replica in replicas[1:]:  # before they move to a device
            share_frozen(first, replica.model.model)

    def setup(self, stage: str) -> None:
        for replica in self.replicas:
            replica.join(self.trainer)
            replica.call("setup", stage)
            replica.model.setup(stage)

    def configure_optimizers(self) -> PackedAdam:
        """Adam for all; each run's groups are its own."""
        models = [replica.model for replica in self.running]
        return PackedAdam([parameter_groups(model.lr, model.part_lr, model.model) for model in models])

    def configure_gradient_clipping(
        self, optimizer: Any, gradient_clip_val: int | float | None = None, gradient_clip_algorithm: str | None = None
    ) -> None:
        """Clips the gradient of every run by its own norm."""
        if gradient_clip_val:
            self._adam.clip(float(gradient_clip_val))

    def training_step(self, batches: Sequence[Batch], batch_idx: int) -> Tensor:
        """The sum of the runs' losses, so that each has the gradient of its own."""
        own = [batches[self._streams[self.replicas.index(replica)]] for replica in self.running]
        tokens, masks = [batch.tokens for batch in own], [batch.mask for batch in own]
        with replicated([replica.stream for replica in self.running], looped=self.looped):
            if self.packed is None:
                logits = self.running[0].model(tokens[0], masks[0])
            else:
                logits = self.packed.folded(tokens, masks)  # [runs * batch, answers, classes]
        if self.packed is not None and self._losses_are_ours and not self.looped:
            losses = self._all_losses(own, logits)
        else:
            answers = logits.chunk(len(own))
            losses = torch.stack(
                [
                    replica.training_loss(batch, batch_idx, answer)
                    for replica, batch, answer in zip(self.running, own, answers, strict=True)
                ]
            )
        self._own, self._losses = own, losses.detach().unbind()
        return losses.sum()

    def _all_losses(self, batches: Sequence[Batch], logits: Tensor) -> Tensor:
        """The loss of every run ``[runs]``, as its own training step has it, in one call."""
        first = self.running[0].model
        both = first.as_answers(logits, torch.cat([batch.target for batch in batches]))
        answers, targets = (each.view(len(batches), -1, *each.shape[1:]) for each in both)
        losses = first.losses(answers, targets)
        if is_logging_step(self.trainer, self.trainer.global_step):
            for replica, *of_run in zip(self.running, answers, targets, losses, strict=True):
                replica.model.log_step(*of_run)
        return losses

    def on_fit_start(self) -> None:
        self._each("on_fit_start")
        for replica in self.running:
            replica.model.on_fit_start()
        self._build()

    def on_train_start(self) -> None:
        for replica in self.running:
            with replica.as_global():
                replica.call("on_train_start")

    def on_train_epoch_start(self) -> None:
        self._each("on_train_epoch_start")

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> int | None:
        """Lets go who has come to the end of its own budget."""
        self._let_go()
        return None if self.running else -1

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        step = self.trainer.global_step
        for replica, own, loss in zip(self.running, self._own, self._losses, strict=True):
            replica.end_step(step, {"loss": loss}, own, batch_idx)
        if is_logging_step(self.trainer, step - 1):
            for replica in self.running:
                replica.log_row(step - 1)

    def on_validation_start(self) -> None:
        self._each("on_validation_start")
        for replica in self.running:
            replica.model.on_validation_start()

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Every run judges the batch as it would alone."""
        for replica in self.running:
            replica.model.validation_step(batch, batch_idx)

    def on_validation_epoch_end(self) -> None:
        for replica in self.running:
            replica.call("on_validation_epoch_end")
            replica.model.on_validation_epoch_end()
            replica.log_row(self.trainer.global_step - 1)

    def on_validation_end(self) -> None:
        self._each("on_validation_end")
        self._let_go()

    def on_train_epoch_end(self) -> None:
        self._each("on_train_epoch_end")

    def on_train_end(self) -> None:
        self._end(self.running)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Makes the checkpoint that of the run that asked for it."""
        assert self.saving is not None
        stream, running = self._streams[self.replicas.index(self.saving)], self.running.index(self.saving)
        self.saving.write(checkpoint, stream, self._adam.state_of(running) if "callbacks" in checkpoint else {})

    def state_dict(self, *_: Any, **__: Any) -> dict[str, Any]:  # type: ignore[override]
        """Nothing: what a checkpoint holds is that of the run which asked for it."""
        return {}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restores every run from its own, and the loops from the first's, whose step is that of all.

        Raises:
            FPTError: If they are of different steps.
        """
        saved = [replica.read() for replica in self.replicas]
        if len({each["global_step"] for each in saved}) > 1:
            raise FPTError(
                "the checkpoints of a pack must be of the same step: `fpt run FOLDER` goes on with each alone"
            )
        loop = checkpoint["loops"]["fit_loop"]["state_dict"]
        loaders = (each["loops"]["fit_loop"]["state_dict"]["combined_loader"] for each in saved)
        of_streams = dict(zip(self._streams, loaders, strict=True))  # in their order
        loop["combined_loader"] = [loader for own in of_streams.values() for loader in own]
        checkpoint["optimizer_states"] = [{"runs": [each["optimizer_states"][0] for each in saved]}]
        checkpoint["state_dict"], checkpoint["callbacks"] = {}, {}  # which the runs have read

    @property
    def _adam(self) -> PackedAdam:
        (optimizer,) = self.trainer.optimizers
        assert isinstance(optimizer, PackedAdam)
        return optimizer

    def _each(self, hook: str) -> None:
        for replica in self.running:
            replica.call(hook)

    def _build(self) -> None:
        models = [replica.model.model for replica in self.running]
        self.packed = PackedTransformer(models, self._adam.stacked) if len(models) > 1 else None

    def _let_go(self) -> None:
        """Takes out the runs that stopped, diverged or have done all their steps."""
        step = self.trainer.global_step
        done = [
            replica
            for replica in self.running
            if replica.should_stop or replica.diverged or 0 < replica.max_steps <= step
        ]
        if not done:
            return
        kept = [index for index, replica in enumerate(self.running) if replica not in done]
        self._end(done)
        self.running = [self.running[index] for index in kept]
        if kept:
            self._adam.keep(kept)
            self._build()
        else:
            self.trainer.should_stop = True

    def _end(self, replicas: Sequence[Replica]) -> None:
        for replica in replicas:
            for hook in ("on_train_end", "on_fit_end"):
                if replica.diverged is None:
                    replica.call(hook)
            replica.leave()


def streams_of(replicas: Sequence[Replica]) -> list[int]:
    """For every run the number of its training stream: runs whose data have one seed read the same batches."""
    numbers: dict[int, int] = {}
    return [numbers.setdefault(replica.datamodule.seed, len(numbers)) for replica in replicas]


class PackData(L.LightningDataModule):
    """The data of every run: a training stream for each seed, and one validation split, which all share."""

    def __init__(self, replicas: Sequence[Replica]) -> None:
        super().__init__()
        self.members = [replica.datamodule for replica in replicas]
        numbers = streams_of(replicas)
        self.streams = [self.members[numbers.index(number)] for number in sorted(set(numbers))]

    def prepare_data(self) -> None:
        for member in self.members:
            member.prepare_data()

    def setup(self, stage: str) -> None:
        """Raises FPTError where the runs have different data."""
        for member in self.members:
            member.setup(stage)
        if len({member.fingerprint() for member in self.members}) > 1:
            raise FPTError("the runs of a pack must have the same data")

    def train_dataloader(self) -> CombinedLoader:
        return CombinedLoader([member.train_dataloader() for member in self.streams], "min_size")

    def val_dataloader(self) -> Any:
        return self.members[0].val_dataloader()

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        if is_overridden("transfer_batch_to_device", self.members[0]):
            return self._each("transfer_batch_to_device", batch, device, dataloader_idx)
        return batch if device.type == "cpu" else super().transfer_batch_to_device(batch, device, dataloader_idx)

    def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        return self._each("on_before_batch_transfer", batch, dataloader_idx)

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        return self._each("on_after_batch_transfer", batch, dataloader_idx)

    def _each(self, hook: str, batch: Any, *arguments: Any) -> Any:
        assert self.trainer is not None
        if not is_overridden(hook, self.members[0]):
            return batch
        if not self.trainer.training:  # validation: one split for all
            return getattr(self.members[0], hook)(batch, *arguments)
        return [getattr(member, hook)(own, *arguments) for member, own in zip(self.streams, batch, strict=True)]
