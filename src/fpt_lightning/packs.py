"""Runs of several commands over one frozen body, trained in one pass."""

from collections.abc import Sequence
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import ModelCheckpoint

from fpt_lightning.cli import FPTCLI
from fpt_lightning.errors import DivergedError, FPTError, UsageError
from fpt_lightning.models.packed import share_frozen
from fpt_lightning.training.callbacks import ProgressBar
from fpt_lightning.training.checkpoint import WholeCheckpointIO
from fpt_lightning.training.choice import check_choice
from fpt_lightning.training.packs.module import Pack, PackData
from fpt_lightning.training.packs.replica import Replica

OF_THE_RUN = ("callbacks", "default_root_dir", "enable_checkpointing", "logger", "max_steps", "plugins")
"""Arguments of the Trainer that are each run's own."""


class Member(FPTCLI):
    """A `fpt run` that is built and waits for the others of its pack."""

    def _run_subcommand(self, subcommand: str) -> None:
        """Runs nothing yet."""
        self.kwargs = self._prepare_subcommand_kwargs(subcommand)
        self.replica = Replica(self.model, self.datamodule, self.trainer, self.kwargs["ckpt_path"])
        checkpoints = self.trainer.checkpoint_callbacks
        check_choice([each for each in checkpoints if isinstance(each, ModelCheckpoint)])


def run_together(commands: Sequence[Sequence[str]]) -> list[FPTError | None]:
    """Makes the runs of several `fpt run` commands in one pass, whose run folders this process holds.

    Args:
        commands: What follows ``fpt``; they differ in rates, seeds and budgets alone.

    Returns:
        For every command why it did not end well, None where it did.

    Raises:
        FPTError: If they cannot be trained in one pass; nothing has been written then.
    """
    members: list[Member] = []
    for words in commands:
        member = Member(words)
        if members:
            share_frozen(members[0].model.model, member.model.model)  # before the next takes memory of its own
        members.append(member)
    _train(members)
    about = {"size": len(members), "mode": "fused"}
    return [_conclude(member, about) for member in members]


def _train(members: Sequence[Member]) -> None:
    replicas = [member.replica for member in members]
    first = members[0]
    options: dict[str, Any] = dict(first._get(first.config_init, "trainer"))
    trainer = L.Trainer(
        **{name: value for name, value in options.items() if name not in OF_THE_RUN},
        max_steps=max(replica.max_steps for replica in replicas),
        callbacks=[ProgressBar()] if options["enable_progress_bar"] is not False else [],
        logger=False,
        enable_checkpointing=False,
        plugins=[WholeCheckpointIO()],
    )
    if trainer.world_size > 1:
        raise UsageError("a pack trains on one device: set trainer.devices 1")
    trainer.fit(Pack(replicas), datamodule=PackData(replicas), ckpt_path=replicas[0].ckpt_path, weights_only=True)


def _conclude(member: Member, about: dict[str, Any]) -> FPTError | None:
    try:
        member.conclude(member.replica, member.kwargs, pack=about)
    except DivergedError as error:
        return error
    except FPTError as error:
        return error
    return None
