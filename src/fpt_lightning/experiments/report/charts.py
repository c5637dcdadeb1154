"""What a table's page draws: a small chart for every task."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from statistics import fmean

from markupsafe import Markup

from fpt_lightning.experiments.report import svg, wording
from fpt_lightning.experiments.report.results import Entry, Results
from fpt_lightning.experiments.report.statistics import standard_error, standard_errors
from fpt_lightning.experiments.tables import Task
from fpt_lightning.runs.outcome import Outcome

MOST_POINTS = 120
"""Points of a drawn curve: more cannot be told apart at its size."""

LEAST_HEIGHT = 5.0
"""Points of accuracy that a chart shows at least, so that differences of a tenth look like none."""


Draw = Callable[[Task, Mapping[int, Entry], Mapping[str, Outcome]], Markup | None]
"""Draws a task from its cells by style, or nothing where there is nothing to draw."""


@dataclass(frozen=True)
class Section:
    """Charts of one kind, one a task."""

    title: str
    about: str
    charts: list[tuple[str, Markup]]


def sections(results: Results) -> list[Section]:
    """All charts that there is something to draw for."""
    drawn = (
        Section(
            "Learning curves",
            "Validation accuracy against gradient steps, at the chosen learning rate: mean over seeds and, as a band, "
            "their standard error, as far as all seeds were trained.",
            list(_charts(results, _learning_curves)),
        ),
        Section(
            "Accuracy against learning rate",
            "Validation accuracy of the checkpoint that was kept, mean ± standard error over the seeds that ran the "
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
            "Test accuracy against the number of trained parameters, mean ± standard error over seeds.",
            list(_charts(results, _sizes)),
        ),
    )
    return [section for section in drawn if section.charts]


def _charts(results: Results, draw: Draw) -> Iterator[tuple[str, Markup]]:
    for task in results.tasks:
        entries = {style: results.entry(arm, task) for style, arm in enumerate(results.arms)}
        if (drawn := draw(task, entries, results.outcomes)) is not None:
            yield task.title, drawn


def _learning_curves(task: Task, entries: Mapping[int, Entry], _: Mapping[str, Outcome]) -> Markup | None:
    series = [
        svg.Series(style, points, band=True) for style, entry in entries.items() if (points := _mean_curve(entry))
    ]
    return _accuracies(f"Learning curves on {task.title}", task, series, "gradient steps", False, short)


def _mean_curve(entry: Entry) -> list[svg.Point]:
    """Mean over seeds at the steps that all of them validated at."""
    curves = [{steps: 100 * accuracy for steps, accuracy in curve.validation} for curve in entry.curves.values()]
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


def _rates(task: Task, entries: Mapping[int, Entry], outcomes: Mapping[str, Outcome]) -> Markup | None:
    if all(len(entry.cell.rates) < 2 for entry in entries.values()):
        return None
    series = [
        svg.Series(style, points, markers=True)
        for style, entry in entries.items()
        if (points := [point for lr in entry.cell.rates if (point := _at_rate(entry, lr, outcomes))])
    ]
    return _accuracies(
        f"Accuracy against learning rate on {task.title}", task, series, "learning rate", True, wording.rate
    )


def _at_rate(entry: Entry, lr: float, outcomes: Mapping[str, Outcome]) -> svg.Point | None:
    """Validation accuracy at a learning rate; the test split has no part in choosing."""
    found = [outcomes[entry.cell.runs[lr, seed].id].result for seed in entry.cell.grid_seeds]
    values = [100 * result.validation for result in found if result is not None]
    values = [value for value in values if value == value]
    if not values:
        return None
    mean, error = fmean(values), standard_error(values)
    told = f"{entry.cell.arm.name}, lr {wording.rate(lr)}: validation {mean:.1f}" + (f" ± {error:.1f}" if error else "")
    return svg.Point(lr, mean, error, told, chosen=lr == entry.lr)


def _convergence(task: Task, entries: Mapping[int, Entry], _: Mapping[str, Outcome]) -> Markup | None:
    rows = []
    for style, entry in entries.items():
        name = entry.cell.arm.name
        steps = {seed: curve.steps_to_convergence(task.chance / 100) for seed, curve in entry.curves.items()}
        points = [
            svg.Point(count, 0, told=f"{name}, seed {seed}: {count:,} steps") for seed, count in steps.items() if count
        ]
        if points:
            rows.append((name, style, points, fmean(point.x for point in points)))
    if not rows:
        return None
    x = svg.span("gradient steps", [point.x for _, _, points, _ in rows for point in points], True, short)
    return svg.dots(f"Steps to convergence on {task.title}", x, rows)


def _sizes(task: Task, entries: Mapping[int, Entry], _: Mapping[str, Outcome]) -> Markup | None:
    series = []
    for style, entry in entries.items():
        results = [result for result in entry.results.values() if result.trained_parameters]
        if results:
            values = [100 * result.test for result in results if result.test is not None]
            trained, mean = fmean(result.trained_parameters or 0 for result in results), fmean(values)
            told = f"{entry.cell.arm.name}: {trained:,.0f} trained, test {mean:.1f}"
            series.append(svg.Series(style, [svg.Point(trained, mean, standard_error(values), told)], markers=True))
    if len({point.x for one in series for point in one.points}) < 2:
        return None
    return _accuracies(f"Accuracy against size on {task.title}", task, series, "trained parameters", True, short)


def _accuracies(
    title: str, task: Task, series: list[svg.Series], label: str, log: bool, written: Callable[[float], str]
) -> Markup | None:
    """A chart of accuracies, from chance up where chance is near."""
    points = list(chain.from_iterable(one.points for one in series))
    if not points:
        return None
    heights = [point.y + sign * (point.error or 0) for point in points for sign in (-1, 1)]
    lowest, highest = min(heights), max(heights)
    if lowest - task.chance < 2 * (highest - lowest) + 5:
        heights.append(task.chance)
    heights.append(highest - LEAST_HEIGHT)
    y = svg.span("accuracy, %", heights)
    x = svg.span(label, [point.x for point in points], log, written)
    return svg.chart(title, x, y, series, (task.chance, "chance"))


def short(value: float) -> str:
    """A count in thousands or millions."""
    for unit, name in ((1e6, "M"), (1e3, "k")):
        if abs(value) >= unit * 0.9995:
            return f"{value / unit:.3g}{name}"
    return f"{value:.3g}"
