"""What a datamodule is told, compared with what it holds."""

from collections.abc import Callable, Collection, Mapping
from typing import Any, Literal

import lightning as L

from fpt_lightning.data.loading import ENDLESS, BatchDataset, Part, expect_shared
from fpt_lightning.errors import UsageError

MOST_WORKERS = 1000
"""Processes that a loader may start; each takes half a second and 200 MB."""


def shown(examples: int) -> str:
    """A number of examples as it is shown."""
    return "endless" if examples >= ENDLESS else f"{examples:,}"


def check_batch_size(
    batch_size: int, processes: int, count: Callable[[Literal["train", "validation", "test"]], int]
) -> None:
    """Refuses a batch or a split that devices cannot share, and a batch that is larger than the training split.

    Args:
        batch_size: Of all devices together.
        processes: One a device.
        count: Says how many examples a split has.

    Raises:
        UsageError: If there is such a batch or split.
    """
    if batch_size % processes:
        raise UsageError(
            f"data.batch_size {batch_size} counts the examples on all {processes} devices together "
            f"and must be divisible by {processes}"
        )
    if (examples := count("train")) < batch_size:
        raise UsageError(f"data.batch_size {batch_size} is more than the {examples} training examples")
    if processes > 1:
        expect_shared(count("validation"), processes, " of validation")
        expect_shared(count("test"), processes, " of the test split")


def check_split_seed(seed: int) -> None:
    """Refuses a seed that torch has no generator for.

    Raises:
        UsageError: If it is one.
    """
    if not -(2**63) <= seed < 2**64:
        raise UsageError(f"data.split_seed lies between -2**63 and 2**64 - 1, got {seed}")


def check_epochs(trainer: L.Trainer, task: str, examples: int, batch_size: int) -> None:
    """Refuses a training by epochs where the first would never end, or end before its first validation.

    Args:
        trainer: The Trainer.
        task: The task's name.
        examples: Of the training data.
        batch_size: Examples in a batch; what makes none is left out.

    Raises:
        UsageError: If it would.
    """
    by_epochs = isinstance(trainer.limit_train_batches, float) and (trainer.max_epochs or -1) >= 0
    if by_epochs and examples >= ENDLESS:
        raise UsageError(
            f"{task} is generated without end and has no epochs: "
            "set trainer.max_steps to say how long it trains, and leave trainer.max_epochs away"
        )
    most, interval = trainer.limit_train_batches, getattr(trainer, "val_check_interval", None)  # none by the clock
    begins_anew = getattr(trainer, "check_val_every_n_epoch", None) is not None  # the count, with every epoch
    if not begins_anew or not isinstance(interval, int) or trainer.limit_val_batches == 0:
        return
    whole = examples // batch_size
    batches = int(most * whole) if isinstance(most, float) else min(most, whole)
    if interval > batches:
        raise UsageError(
            f"trainer.val_check_interval {interval} is more than the {batches} batches of an epoch: make it smaller, "
            "or set trainer.check_val_every_n_epoch null, to count through all epochs"
        )


def check_test(trainer: L.Trainer, count: Callable[[], int]) -> None:
    """Refuses a part of the test split that is not one batch, or none to devices, which would come out after training.

    Args:
        trainer: The Trainer.
        count: Says how many batches the whole split has, or refuses to cut it.

    Raises:
        UsageError: If it is not.
    """
    share = trainer.limit_test_batches
    is_part = 0 < share < 1 if isinstance(share, float) else share > 0 and trainer.world_size > 1
    if not is_part:  # the split need not be read for it
        return
    batches = count()
    if isinstance(share, float) and int(share * batches) < 1:
        raise UsageError(
            f"trainer.limit_test_batches {share} of {batches} batches is none: say {1 / batches:.2g} or more, "
            "or a number of batches"
        )


def expect_encoding(encoding: Mapping[str, Any], names: Collection[str], data: str) -> None:
    """Refuses the encoding of other data, which lacks one of these names; an empty one is none.

    Raises:
        UsageError: If it is.
    """
    if encoding and not encoding.keys() >= set(names):
        raise UsageError(f"the checkpoint was not trained on {data}: pass the config.yaml of its run folder")


def part_of(whole: BatchDataset, fraction: float, task: str) -> Part:
    """A share of the training split, rounded down.

    Raises:
        UsageError: If the split has no end, or the part has no example of a class that the split has.
    """
    if len(whole) >= ENDLESS:
        raise UsageError(f"data.fraction: the training data of {task} is generated without end, and has no parts")
    part = Part(whole, int(fraction * len(whole)))
    if whole.targets is not None and part.targets is not None and not whole.targets.is_floating_point():
        classes = len(whole.targets.unique())
        if missing := classes - len(part.targets.unique()):
            raise UsageError(
                f"data.fraction {fraction} of {task} is {len(part):,} of {len(whole):,} training examples, "
                f"without any of {missing} of {classes} classes: take more"
            )
    return part
