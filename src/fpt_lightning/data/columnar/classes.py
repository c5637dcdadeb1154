"""Classes of a table that nothing can be learnt of, or that no figure tells of."""

import textwrap
from collections.abc import Mapping, Sequence
from contextlib import suppress

from fpt_lightning.data.datamodule import SPLITS, Split
from fpt_lightning.data.sequences import SequenceTable
from fpt_lightning.errors import UsageError

AS_NUMBERS = "data.regression true learns them as numbers"


def expect_trained(name: str, classes: Sequence[str], splits: Mapping[Split, SequenceTable]) -> None:
    """Refuses a cut that leaves a class no row to train on.

    Raises:
        UsageError: If there is such a class.
    """
    if lost := _missing(classes, splits["train"]):
        way_out = "add rows of it, choose another data.split_seed, or give tables of their own for validation and test"
        raise UsageError(
            f"{name}: class {lost[0]!r} has no row left to train on ({len(lost)} of {len(classes)} classes): "
            + (f"most are numbers of their own, and {AS_NUMBERS}" if _are_numbers(classes, splits) else way_out)
        )


def remarks(classes: Sequence[str], splits: Mapping[Split, SequenceTable]) -> list[str]:
    """What is to be known of the classes before a figure is believed, a line each."""
    lines = [f"most answers are a number of their own: {AS_NUMBERS}"] if _are_numbers(classes, splits) else []
    for split in SPLITS[1:]:
        if lost := _missing(classes, splits[split]):
            named = textwrap.shorten(", ".join(lost), 80)
            lines.append(f"{split} has no row of {len(lost)} of {len(classes)} classes: {named}")
    return lines


def is_number(word: str) -> bool:
    """Whether a label is one, as Python reads it."""
    with suppress(ValueError):
        float(word)
        return True
    return False


def _are_numbers(classes: Sequence[str], splits: Mapping[Split, SequenceTable]) -> bool:
    return 2 * len(classes) > len(splits["train"]) and all(map(is_number, classes))


def _missing(classes: Sequence[str], split: SequenceTable) -> list[str]:
    counts = split.targets.flatten().bincount(minlength=len(classes)).tolist()
    return [label for label, count in zip(classes, counts, strict=True) if not count]
