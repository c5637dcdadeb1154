"""What a table's page draws: a small chart for every task."""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from statistics import fmean

from markupsafe import Markup

from fpt_lightning.experiments.report import svg
from fpt_lightning.experiments.report.results import Entry, Results
from fpt_lightning.experiments.report.statistics import standard_error, standard_errors
from fpt_lightning.experiments.report.units import at_start, chance_of, rate, short, unit_of
from fpt_lightning.experiments.tables import Task

MOST_POINTS = 120
"""Points of a drawn curve: more cannot be told apart at its size."""


@dataclass(frozen=True)
class Section:
    """Charts of one kind, one a task."""

    title: str
    about: str
    charts: list[tuple[str, Markup]]


def sections_of(results: Results) -> list[Section]:
    """All charts that there is something to draw for."""
    metric = results.judged_by
    sections = (
        Section(
            "Learning curves",
            f"Validation {metric} against gradient steps, at the chosen learning rate: mean over seeds and, as a band, "
            "their standard error, as far as all seeds were trained.",
            list(_charts(results, _learning_curves)),
        ),
        Section(
            f"{at_start(metric)} against learning rate",
            f"Validation {metric} of the checkpoint that was kept, mean ± standard error over the seeds that ran the "
            "grid; the ring marks the learning rate that was chosen. An arm whose best lies elsewhere than that of "
            "another cannot be judged at one learning rate for both.",
            list(_charts(results, _rates)),
        ),
        Section(
            "Steps to convergence",
            "Gradient steps up to the first validation that lacks at most 1 % of the way from chance to the run's best "
            "validation: a dot a seed, a bar at the mean.",
            list(_charts(results, _convergence)),
        ),
        Section(
            "Model size",
            f"Test {metric} against the number of trained parameters, mean ± standard error over seeds.",
            list(_charts(results, _sizes)),
        ),
    )
    return [section for section in sections if section.charts]


def _charts(results: Results, draw: Callable[[Results, Task], Markup | None]) -> Iterator[tuple[str, Markup]]:
    for task in results.tasks:
        if (chart := draw(results, task)) is not None:
            yield task.title, chart


def _learning_curves(results: Results, task: Task) -> Markup | None:
    curves = [
        svg.Series(style, points, band=True)
        for style, entry in enumerate(results.entries_of(task))
        if (points := _mean_curve(entry))
    ]
    return _judged(f"Learning curves on {task.title}", task, curves, "gradient steps", False, short)


def _mean_curve(entry: Entry) -> list[svg.Point]:
    """Mean over seeds at the steps that all of them validated at."""
    factor = unit_of(entry.task).factor
    curves = [{steps: factor * value for steps, value in curve.validation} for curve in entry.curves.values()]
    common = sorted(set.intersection(*(set(curve) for curve in curves))) if curves else []
    steps = thinned(common)
    values = [[curve[step] for step in steps] for curve in curves]
    means = [fmean(column) for column in zip(*values, strict=True)]
    errors = standard_errors(values)
    return [svg.Point(step, mean, error) for step, mean, error in zip(steps, means, errors, strict=True)]


def thinned(steps: Sequence[int]) -> list[int]:
    """At most :data:`MOST_POINTS` of the steps, evenly spaced, the first and the last among them."""
    if len(steps) <= MOST_POINTS:
        return list(steps)
    last = len(steps) - 1
    return [steps[round(index * last / (MOST_POINTS - 1))] for index in range(MOST_POINTS)]


def _rates(results: Results, task: Task) -> Markup | None:
    entries = results.entries_of(task)
    if all(len(entry.cell.rates) < 2 for entry in entries):
        return None
    grids = [
        svg.Series(style, points, markers=True)
        for style, entry in enumerate(entries)
        if (points := [point for lr in entry.cell.rates if (point := _at_rate(results, entry, lr))])
    ]
    title = f"{at_start(unit_of(task).name)} against learning rate on {task.title}"
    return _judged(title, task, grids, "learning rate", True, rate)


def _at_rate(results: Results, entry: Entry, lr: float) -> svg.Point | None:
    """The metric on validation at a learning rate; the test split has no part in choosing."""
    unit = unit_of(entry.task)
    finished = [results.outcomes[entry.cell.runs[lr, seed].id].result for seed in entry.cell.grid_seeds]
    values = _finite(unit.factor * result.validation for result in finished if result is not None)
    if not values:
        return None
    mean, error = fmean(values), standard_error(values)
    tooltip = f"{entry.cell.arm.name}, lr {rate(lr)}: validation {unit.write(mean)}"
    return svg.Point(lr, mean, error, tooltip + (f" ± {unit.write(error)}" if error else ""), chosen=lr == entry.lr)


def _convergence(results: Results, task: Task) -> Markup | None:
    rows = []
    for style, entry in enumerate(results.entries_of(task)):
        name = entry.cell.arm.name
        points = [
            svg.Point(steps, 0, tooltip=f"{name}, seed {seed}: {steps:,} steps")
            for seed in entry.curves
            if (steps := entry.steps_to_convergence(seed))
        ]
        if points:
            rows.append((name, style, points, fmean(point.x for point in points)))
    if not rows:
        return None
    x = svg.span("gradient steps", [point.x for _, _, points, _ in rows for point in points], True, short)
    return svg.dots(f"Steps to convergence on {task.title}", x, rows)


def _sizes(results: Results, task: Task) -> Markup | None:
    unit, sizes = unit_of(task), []
    for style, entry in enumerate(results.entries_of(task)):
        sized = [result for result in entry.results.values() if result.trained_parameters]
        values = _finite(unit.factor * result.test for result in sized if result.test is not None)
        if values:
            trained, mean = fmean(result.trained_parameters or 0 for result in sized), fmean(values)
            tooltip = f"{entry.cell.arm.name}: {trained:,.0f} trained, test {unit.write(mean)}"
            sizes.append(svg.Series(style, [svg.Point(trained, mean, standard_error(values), tooltip)], markers=True))
    if len({point.x for series in sizes for point in series.points}) < 2:
        return None
    title = f"{at_start(unit.name)} against size on {task.title}"
    return _judged(title, task, sizes, "trained parameters", True, short)


def _finite(values: Iterable[float]) -> list[float]:
    return [value for value in values if math.isfinite(value)]


def _judged(
    title: str, task: Task, arms: list[svg.Series], label: str, log: bool, written: Callable[[float], str]
) -> Markup | None:
    """A chart of the task's metric, from chance up where chance is near."""
    points = [point for series in arms for point in series.points]
    if not points:
        return None
    unit, chance = unit_of(task), chance_of(task)
    heights = [max(unit.lowest, point.y + sign * (point.error or 0)) for point in points for sign in (-1, 1)]
    lowest, highest = min(heights), max(heights)
    if lowest - chance < 2 * (highest - lowest) + unit.least_height:
        heights.append(chance)
    heights.append(highest - unit.least_height)
    y = svg.span(unit.axis, heights, least_room=unit.least_height / 10)
    x = svg.span(label, [point.x for point in points], log, written)
    return svg.chart(title, x, y, arms, (chance, "chance"))
