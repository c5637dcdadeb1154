"""What a table may claim: standard errors, and which arms differ from the baseline by more than chance."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

from fpt_lightning.experiments.cells import ROUNDING

SIGNIFICANT = 0.05
"""The corrected p-value below which a difference is called significant."""

CONFIDENCE = 0.95
"""How often such intervals hold the true difference, where differences are normally distributed."""


@dataclass(frozen=True)
class Comparison:
    """An arm beside another, in most cases the baseline, over the seeds that both have.

    Attributes:
        seeds: How many seeds both have.
        difference: Mean of the arm minus that of the other; None without a common seed.
        p: Two-sided p-value of the paired t-test; None where there is nothing to test.
        untested: Why there is no p-value.
        corrected: The p-value after Holm's correction over the table.
        interval: Where the difference lies with :data:`CONFIDENCE`, by the t distribution; None where p is.
    """

    seeds: int
    difference: float | None = None
    p: float | None = None
    untested: str | None = None
    corrected: float | None = None
    interval: tuple[float, float] | None = None

    def verdict(self, fewer_is_better: bool) -> str:
        """``better`` or ``worse`` than the other; empty where chance explains the difference."""
        if self.corrected is None or self.corrected >= SIGNIFICANT:
            return ""
        return "better" if ((self.difference or 0) < 0) == fewer_is_better else "worse"


def standard_error(values: Sequence[float]) -> float | None:
    """Standard error of the mean, from the sample's standard deviation; None for fewer than two values."""
    if len(values) < 2:
        return None
    return stdev(values) / math.sqrt(len(values))


def compare(arm: Mapping[int, float], other: Mapping[int, float]) -> Comparison:
    """Paired t-test over the seeds that an arm and another, each with its values by seed, have in common.

    Fewer than two common seeds, or differences that are the same on every seed, leave nothing to estimate a variance
    from: a t-test would give no value there, or p = 0 from two seeds that happen to agree.
    """
    seeds = sorted(arm.keys() & other.keys())
    differences = [arm[seed] - other[seed] for seed in seeds]
    if not seeds:
        return Comparison(0, untested="no seed in common")
    difference = fmean(differences)
    equal = ROUNDING * max(abs(of[seed]) for of in (arm, other) for seed in seeds)
    if len(seeds) < 2:
        return Comparison(1, difference, untested="one seed in common, a test needs two")
    if max(differences) - min(differences) <= equal:
        same = "no difference" if abs(difference) <= equal else "the same difference"
        return Comparison(len(seeds), difference, untested=f"{same} on every seed: no variance to test with")
    from scipy import stats  # most of a second

    found = stats.ttest_rel([arm[seed] for seed in seeds], [other[seed] for seed in seeds])
    low, high = found.confidence_interval(CONFIDENCE)
    return Comparison(len(seeds), difference, float(found.pvalue), interval=(float(low), float(high)))


def holm(p_values: Sequence[float], to_come: int = 0) -> list[float]:
    """Holm's step-down correction: the chance of a single false claim in the whole table stays below the level.

    The k-th smallest of m p-values is multiplied by m - k + 1, never falls below the one before it, and is at most 1
    (Holm 1979, "A simple sequentially rejective multiple test procedure").

    Args:
        p_values: Of the comparisons that can be tested.
        to_come: How many more the table asks for: each counts as one that finds nothing.
    """
    many = len(p_values) + to_come
    corrected = [0.0] * len(p_values)
    largest = 0.0
    for rank, place in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        largest = max(largest, min(1.0, p_values[place] * (many - rank)))
        corrected[place] = largest
    return corrected
