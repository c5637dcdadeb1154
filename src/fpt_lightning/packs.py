"""Runs of several commands over one frozen body, trained in one pass."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import lightning as L
import torch
from lightning.pytorch.utilities import rank_zero_info

from fpt_lightning import __version__
from fpt_lightning.cli import FPTCLI
from fpt_lightning.data.cache import cache_file, kept
from fpt_lightning.errors import FPTError, UsageError
from fpt_lightning.machine import machine
from fpt_lightning.models.backbones.build import built_once
from fpt_lightning.models.packed import PackedTransformer, share_frozen
from fpt_lightning.training.artifacts.checkpoint import WholeCheckpointIO
from fpt_lightning.training.callbacks import ProgressBar
from fpt_lightning.training.packs.module import Pack, PackData
from fpt_lightning.training.packs.replica import Replica
from fpt_lightning.training.trainer import ValidateTheEnd

OF_THE_RUN = ("callbacks", "captured", "default_root_dir", "enable_checkpointing", "logger", "max_steps", "plugins")
"""Arguments of the Trainer that are each run's own."""
SIZES = (1, 2, 3, 9, 27)
"""Runs in one pass whose time is compared."""
AS_GOOD = 1.03
"""Times the least time a run that is not told from it: runs go alone then, and the larger of two packs is taken."""
ROUNDS = 4
"""How often every size is measured, in turn with the others, the first time to warm up."""


class Member(FPTCLI):
    """A `fpt run` that is built and waits for the others of its pack."""

    def _run_subcommand(self, subcommand: str) -> None:
        """Runs nothing yet."""
        self.kwargs = self._prepare_subcommand_kwargs(subcommand)
        self.trainer.pause.at = self.kwargs["pause_at"]
        self.replica = Replica(self.model, self.datamodule, self.trainer, self.kwargs["ckpt_path"])
        self.trainer.chooser(self.kwargs["test"])  # refuses what leaves none


def run_together(
    commands: Sequence[Sequence[str]],
    *,
    measured: bool = True,
    unfit: Callable[[Mapping[str, Any]], str | None] = lambda _: None,
) -> list[FPTError | None]:
    """Makes the runs of several `fpt run` commands in one pass, whose run folders this process holds.

    Where memory runs out, one half of those that are not made goes on from its last checkpoints, and then the other.

    Args:
        commands: What follows ``fpt``; they differ in rates, seeds and budgets alone, and go on from ``last``.
        measured: Whether to measure how many of them at a time take the least time, rather than to take all.
        unfit: Says of a run's options why it cannot be part of a pack, where it does.

    Returns:
        For every command why it did not end well, None where it did.

    Raises:
        FPTError: If they cannot be trained in one pass; nothing has been written then.
    """
    problems: list[FPTError | None] = []
    try:
        for problem in _run_together(commands, measured, unfit):  # those that were made stay when memory runs out
            problems.append(problem)
        return problems
    except torch.OutOfMemoryError:
        if len(commands) == 1:
            raise
        torch.cuda.empty_cache()
    left = commands[len(problems) :]
    half = -(-len(left) // 2)
    rank_zero_info(f"{len(left)} runs are left, and need more memory than there is: {half} at a time")
    for part in filter(None, (left[:half], left[half:])):
        problems += run_together(part, measured=False)
    return problems


def _run_together(
    commands: Sequence[Sequence[str]], measured: bool, unfit: Callable[[Mapping[str, Any]], str | None]
) -> Iterator[FPTError | None]:
    members: list[Member] = []
    with built_once():
        for words in commands:
            member = Member(words)
            if members:
                share_frozen(members[0].model.model, member.model.model)  # before the next takes memory of its own
            members.append(member)
    options = [member.config[member.subcommand] for member in members]
    if why := unfit(options[0].as_dict()):
        raise UsageError(f"--pack: {why}")
    if len(intervals := {str(each.trainer.val_check_interval) for each in options}) > 1:
        raise UsageError(
            f"the runs of a pack validate at the same steps, these every {' and '.join(sorted(intervals))}: "
            "set trainer.val_check_interval to at most the least trainer.max_steps"
        )
    size = _best_size([member.replica for member in members]) if measured else len(members)
    if size > 1:
        PackedTransformer([member.model.model for member in members[:2]])  # refuses before anything is written
    rank_zero_info(f"{len(members)} runs, {size} in one pass")
    for start in range(0, len(members), size):
        part = members[start : start + size]
        _train(part)
        for member in part:
            yield _conclude(member, {"size": len(part), "mode": "fused"})


def _best_size(replicas: Sequence[Replica]) -> int:
    """How many runs in one pass take the least time a run; measured once on a machine, and kept in the cache folder."""
    first, sizes = replicas[0], [size for size in SIZES if size <= len(replicas)]
    data, model, identity = first.datamodule, first.model.model, first.model.model.identity()
    key = {
        "machine": machine(first.alone.strategy.root_device.type),
        "version": __version__,
        "precision": first.alone.precision_plugin.precision,
        "batch": (data.batch_size, model.reads_features, sizes),
        "body": (identity["task"], identity["trained"], identity["frozen_dtype"], first.model.hparams.get("dropout")),
        "frozen": {name: list(parameter.shape) for name, parameter in model.frozen_parameters().items()},
    }
    file = cache_file(data.cache_folder, "pack", key)
    seconds = kept(file, key, lambda: {"seconds": torch.tensor(_seconds(replicas, sizes))})["seconds"].tolist()
    quick = [size for size, spent in zip(sizes, seconds, strict=True) if spent <= AS_GOOD * min(seconds)]
    return 1 if 1 in quick else max(quick)  # what is not measured, such as callbacks, is shared too


def _seconds(replicas: Sequence[Replica], sizes: Sequence[int]) -> list[float]:
    """The time that a step takes a run, forward and backward on a batch of the task, by how many are in one pass."""
    data, models = replicas[0].datamodule, [replica.model.model for replica in replicas]
    device = replicas[0].alone.strategy.root_device
    data.prepare_data()
    data.setup("fit")
    batch = data.sample(data.batch_size, torch.device("cpu"))
    spent: dict[int, list[float]] = {size: [] for size in sizes}
    with torch.random.fork_rng(), replicas[0].alone.precision_plugin.forward_context():
        packs = {size: models[0] if size == 1 else PackedTransformer(models[:size]) for size in sizes}
        for packed in packs.values():
            packed.to(device)
        tokens, mask = batch.tokens.to(device), None if batch.mask is None else batch.mask.to(device)
        for size, packed in list(packs.items()) * ROUNDS:
            begun = time.perf_counter()
            logits = packed(tokens, mask) if size == 1 else torch.cat(packed([tokens] * size, [mask] * size))
            logits.float().square().mean().backward()
            if device.type == "cuda":
                torch.cuda.synchronize()
            spent[size].append(time.perf_counter() - begun)
    for model in models:
        model.zero_grad(set_to_none=True)
    return [min(times[1:]) / size for size, times in spent.items()]


def _train(members: Sequence[Member]) -> None:
    replicas, first = [member.replica for member in members], members[0]
    if len({replica.ckpt_path is None for replica in replicas}) > 1:
        raise FPTError("some runs of the pack have a checkpoint, others none: `fpt run FOLDER` goes on with each alone")
    unlimited = any(replica.max_steps < 0 for replica in replicas)
    options: dict[str, Any] = dict(first._get(first.config_init, "trainer"))
    trainer = L.Trainer(
        **{name: value for name, value in options.items() if name not in OF_THE_RUN},
        max_steps=-1 if unlimited else max(replica.max_steps for replica in replicas),
        callbacks=[ValidateTheEnd(), *([ProgressBar()] if options["enable_progress_bar"] is not False else [])],
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
    except FPTError as error:
        return error
    return None
