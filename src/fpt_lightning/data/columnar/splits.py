"""Which rows are validated and tested on, where a task has no table for them."""

from collections.abc import Mapping

import numpy as np
import torch

from fpt_lightning.data.datamodule import SPLITS, Split
from fpt_lightning.data.sequences import LabelledSequences
from fpt_lightning.errors import FPTError, UsageError


def cut(
    examples: Mapping[Split, LabelledSequences],
    shares: Mapping[Split, float],
    seed: int,
    name: str,
    *,
    regression: bool,
) -> tuple[dict[Split, LabelledSequences], dict[Split, np.ndarray]]:
    """All splits, and for those that are drawn from the training table, for want of their own, its rows they have.

    Args:
        examples: The tables that there are.
        shares: What share of the training table each of the others is.
        seed: Which rows those are.
        name: What the data is called in an error.
        regression: Whether the answers are numbers.

    Raises:
        FPTError: If a regression has a single row to be measured on.
        UsageError: If none are left to train on.
    """
    least = 2 if regression else 1  # R2 of a single number is not defined
    whole, rows = examples["train"], len(examples["train"].lengths)
    order = torch.randperm(rows, generator=torch.Generator().manual_seed(seed)).numpy()
    splits, drawn = dict(examples), dict[Split, np.ndarray]()
    for split in SPLITS[1:]:
        if split not in splits:
            count = max(least, round(shares[split] * rows))
            drawn[split], order = order[:count], order[count:]
            splits[split] = whole.take(drawn[split])
    if len(order) == 0:
        raise UsageError(f"data.validation_share and data.test_share leave none of {rows} rows to train on")
    if few := [split for split in SPLITS[1:] if len(splits[split].lengths) < least]:
        raise FPTError(f"{name}: a regression needs two rows for {few[0]}, to measure R2 on")
    if len(order) < rows:
        order.sort()  # as they stand in the table
        splits["train"] = whole.take(order)
    return {split: splits[split] for split in SPLITS}, drawn
