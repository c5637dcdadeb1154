"""Arms whose steps are not the same work, compared by what their training computes."""

from collections.abc import Iterable, Iterator, Mapping
from math import isclose
from statistics import fmean

from fpt_lightning.experiments.arms import Task
from fpt_lightning.experiments.report.results import Entry, Results

UNEQUAL = 1.05
"""A step that takes so many times the operations of another is other work."""


def flops_per_step(results: Results, task: Task) -> dict[str, float]:
    """By arm, mean over the seeds that all have, as far as results have it; empty where steps are alike.

    Where batches are padded a seed's order of data decides too. 0.3 counted no operations. Baselines without a body end
    long before any other arm is judged, and take no part.
    """
    counted = {entry.arm: counts for entry in results.entries_of(task) if (counts := _flops_per_step(entry))}
    arms = [arm for arm in counted if arm not in results.grid.experiments.baselines]
    seeds = set[int].intersection(*(set(counted[arm]) for arm in arms)) if arms else set[int]()
    known = {arm: fmean(counted[arm][seed] for seed in seeds) for arm in arms} if seeds else {}
    return known if known and max(known.values()) > UNEQUAL * min(known.values()) else {}


def equal_arithmetic(results: Results) -> Iterator[str]:
    """Validation of every arm at the operations after which the first of them ends, an arm a line."""
    costs = {task.name: flops_per_step(results, task) for task in results.tasks}
    budgets = {task.name: _budget(results.entries_of(task), costs[task.name]) for task in results.tasks}
    for arm in results.arms:
        reached = [
            said
            for task in results.tasks
            if arm in costs[task.name] and (budget := budgets[task.name]) is not None
            if (said := _at(results.entries[arm, task.name], budget / costs[task.name][arm]))
        ]
        if reached:
            yield f"{arm}: {', '.join(reached)}"


def _flops_per_step(entry: Entry) -> dict[int, int]:
    """By seed; nothing where one was not counted."""
    counts = {seed: result.flops_per_step for seed, result in entry.results.items() if result.flops_per_step}
    return counts if len(counts) == len(entry.results) else {}


def _budget(entries: Iterable[Entry], costs: Mapping[str, float]) -> float | None:
    """None where nothing is to be compared."""
    ends = {entry.arm: min(curve[-1][0] for curve in curves) for entry in entries if (curves := _judged(entry))}
    return min((cost * ends[arm] for arm, cost in costs.items() if arm in ends), default=None)


def _judged(entry: Entry) -> list[list[tuple[int, float]]]:
    """The validations of all its seeds; none where those of one cannot be read."""
    curves = [curve.validation for curve in entry.curves.values()]
    return curves if all(curves) else []


def _at(entry: Entry, step: float) -> str | None:
    """In words, between two validations where the step lies between them; None before the first."""
    curves = _judged(entry)
    ends = [curve[-1][0] for curve in curves]
    step = next((end for end in ends if isclose(end, step)), step)  # which a division missed by a rounding
    if not curves or any(not curve[0][0] <= step <= curve[-1][0] for curve in curves):
        return None
    import numpy as np

    reached = [np.interp(step, [at for at, _ in curve], [value for _, value in curve]) for curve in curves]
    written = entry.unit.write_mean([entry.unit.factor * float(value) for value in reached])
    return f"{entry.task.title} {written} at step {step:,.0f}"
