"""Arms whose steps are not the same work, compared by what their training computes."""

from collections.abc import Iterable, Iterator, Mapping
from statistics import fmean

from fpt_lightning.experiments.arms import Task
from fpt_lightning.experiments.report.results import Entry, Results

UNEQUAL = 1.05
"""A step that takes so many times the operations of another is other work."""


def flops_per_step(results: Results, task: Task) -> dict[str, float]:
    """By arm, mean over seeds, as far as results have it: 0.3 counted no operations; empty where steps are alike.

    Baselines without a body end long before any other arm is judged, and take no part.
    """
    costs = {entry.arm: _flops_per_step(entry) for entry in results.entries_of(task)}
    known = {
        arm: cost for arm, cost in costs.items() if cost is not None and arm not in results.grid.experiments.baselines
    }
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


def _flops_per_step(entry: Entry) -> float | None:
    counts = [result.flops_per_step for result in entry.results.values() if result.flops_per_step]
    return fmean(counts) if counts and len(counts) == len(entry.results) else None


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
    if not curves or any(not curve[0][0] <= step <= curve[-1][0] for curve in curves):
        return None
    import numpy as np

    reached = [np.interp(step, [at for at, _ in curve], [value for _, value in curve]) for curve in curves]
    written = entry.unit.write_mean([entry.unit.factor * float(value) for value in reached])
    return f"{entry.task.title} {written} at step {step:,.0f}"
