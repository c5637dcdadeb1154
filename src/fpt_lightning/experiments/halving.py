"""Successive halving of a grid of learning rates (Jamieson and Talwalkar 2016; Li et al. 2018, Hyperband, section 3).

All rates begin; at every rung the better of them go on, and the others pause there. With a reduction factor of 3, nine
rates become three at a ninth of the steps and one at a third, as in scikit-learn's ``HalvingGridSearchCV`` or Optuna's
``SuccessiveHalvingPruner``; unlike in their asynchronous forms a rung waits for all who are to reach it, so that
neither the number of processes nor a kill has a part in the choice.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from typing import Any


@dataclass(frozen=True)
class Rung:
    """A validation at which learning rates are left behind.

    Attributes:
        step: Gradient steps done there.
        keeps: How many learning rates go on.
    """

    step: int
    keeps: int


def shares_of(rates: int, reduction: int) -> list[float]:
    """The rungs of a grid as shares of a run's steps: ``reduction`` to the power of -k, ..., -1.

    There are as many as the rates have powers of ``reduction`` below or at them, at least one. A power of it itself is
    brought down to one rate; five to eight rates have one rung with a reduction of 3, which leaves two or three.
    """
    count = 1
    while reduction ** (count + 1) <= rates:
        count += 1
    return [float(reduction) ** (number - count) for number in range(count)]


def kept(rates: int, reduction: int, shares: Sequence[float], least: int) -> dict[float, int]:
    """How many learning rates go on, by the share of a run's steps; see :func:`rungs_of`."""
    numbers = {share: max(least, ceil(rates / reduction**number)) for number, share in enumerate(shares, 1)}
    before = [rates, *numbers.values()]
    return {share: number for (share, number), left in zip(numbers.items(), before, strict=False) if number < left}


def rungs_of(
    rates: int, reduction: int, shares: Sequence[float], least: int, steps: int, interval: int
) -> tuple[Rung, ...]:
    """The rungs of one task, each at the first validation that is not before its share of the steps.

    Args:
        rates: Learning rates of the grid.
        reduction: How many times fewer of them every rung leaves, rounded up.
        shares: Where the rungs are, as shares of the steps, in rising order.
        least: The fewest that a rung leaves; where nobody would stop there is none.
        steps: Of a whole run.
        interval: Steps between two validations.

    Raises:
        ValueError: If there is no validation before the end at one of the shares.
    """
    at: dict[int, int] = {}  # two rungs at one validation are the later one: both know the same
    for share, number in kept(rates, reduction, shares, least).items():
        step = max(1, ceil(round(share * steps / interval, 9))) * interval
        if step >= steps:
            raise ValueError(
                f"its rung at {share:.0%} of {steps:,} steps has no validation before the end, "
                f"they come every {interval:,}: set trainer.val_check_interval"
            )
        at[step] = number
    return tuple(Rung(step, number) for step, number in at.items())


def going_on(order: Iterable[float], keeps: int, lost: Collection[float]) -> list[float]:
    """Who goes on from a rung: the first so many, from the best to the worst, that come through.

    One that was lost later on, since it diverged or failed, has gone on and takes nobody's place: the next comes in.
    Whoever is lost when, the same go on.
    """
    gone: list[float] = []
    for rate in order:
        if keeps == 0:
            break
        gone.append(rate)
        keeps -= rate not in lost
    return gone


def validation_interval(values: Mapping[str, Any]) -> int | None:
    """Gradient steps between two validations of a run; None where its options do not say it, or not in steps.

    Args:
        values: Its options, by dotted name.
    """
    batches, each = values.get("trainer.val_check_interval"), values.get("trainer.accumulate_grad_batches") or 1
    if (
        not isinstance(batches, int)
        or batches < 1
        or batches % each
        or values.get("trainer.check_val_every_n_epoch") is not None
    ):
        return None
    return batches // each
