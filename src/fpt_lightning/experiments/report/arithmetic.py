"""Arms whose steps are not the same work, compared by what their training computes."""

from collections.abc import Iterable, Iterator, Sequence
from statistics import fmean

from fpt_lightning.experiments.report.results import Entry, Results
from fpt_lightning.experiments.report.statistics import standard_error

UNEQUAL = 1.05
"""A step that takes so many times the operations of another is other work."""


def flops_per_step(entries: Iterable[Entry]) -> dict[str, float]:
    """By arm, mean over seeds, as far as results have it: 0.3 counted no operations; empty where steps are alike."""
    costs = {entry.arm: cost for entry in entries if (cost := _flops_per_step(entry)) is not None}
    return costs if costs and max(costs.values()) > UNEQUAL * min(costs.values()) else {}


def equal_arithmetic(results: Results) -> Iterator[str]:
    """Validation of every arm at the operations after which the first of them ends, an arm a line.

    Baselines without a body end long before any other arm is judged, and take no part.
    """
    arms = [arm for arm in results.arms if arm not in results.grid.experiments.baselines]
    of_tasks = [[results.entries[arm, task.name] for arm in arms] for task in results.tasks]
    budgets = [_budget(entries) for entries in of_tasks]
    for arm, entries in zip(arms, zip(*of_tasks, strict=True), strict=True):
        if reached := [said for entry, budget in zip(entries, budgets, strict=True) if (said := _at(entry, budget))]:
            yield f"{arm}: {', '.join(reached)}"


def _flops_per_step(entry: Entry) -> float | None:
    counts = [result.flops_per_step for result in entry.results.values() if result.flops_per_step]
    return fmean(counts) if counts and len(counts) == len(entry.results) else None


def _budget(entries: Sequence[Entry]) -> float | None:
    """None where nothing is to be compared."""
    costs = flops_per_step(entries)
    ends = {entry.arm: min(curve[-1][0] for curve in curves) for entry in entries if (curves := _judged(entry))}
    return min((cost * ends[arm] for arm, cost in costs.items() if arm in ends), default=None)


def _judged(entry: Entry) -> list[list[tuple[int, float]]]:
    """The validations of all its seeds; none where those of one cannot be read."""
    curves = [curve.validation for curve in entry.curves.values()]
    return curves if all(curves) else []


def _at(entry: Entry, budget: float | None) -> str | None:
    """In words, between two validations where the operations end between them; None before the first."""
    cost, curves = _flops_per_step(entry), _judged(entry)
    if budget is None or cost is None or not curves:
        return None
    step = budget / cost
    if any(not curve[0][0] <= step <= curve[-1][0] for curve in curves):
        return None
    import numpy as np

    reached = [np.interp(step, [at for at, _ in curve], [value for _, value in curve]) for curve in curves]
    values = [entry.unit.factor * float(value) for value in reached]
    error = standard_error(values)
    written = entry.unit.write(fmean(values)) + (f" ± {entry.unit.write(error)}" if error is not None else "")
    return f"{entry.task.title} {written} at step {step:,.0f}"
