"""What a table's page draws: a small chart for every task, or for every column."""

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from statistics import fmean

from fpt_lightning.experiments.arms import Task
from fpt_lightning.experiments.composition import dotted
from fpt_lightning.experiments.report.arithmetic import flops_per_step
from fpt_lightning.experiments.report.layers import probed
from fpt_lightning.experiments.report.pictures.bars import Bars, shares
from fpt_lightning.experiments.report.pictures.forest import Effects, effects
from fpt_lightning.experiments.report.pictures.heat_map import HeatMap, heat_map
from fpt_lightning.experiments.report.pictures.svg import Chart, Dots, Level, Point, Series, x_axis, y_axis
from fpt_lightning.experiments.report.results import Entry, Results
from fpt_lightning.experiments.report.statistics import standard_error
from fpt_lightning.experiments.report.units import UNITS, percent, rate, short
from fpt_lightning.experiments.report.variance import splits
from fpt_lightning.runs.outcome import State

Picture = Bars | Chart | Dots | Effects | HeatMap

MOST_POINTS = 120
"""Points of a drawn curve: more cannot be told apart at its size."""


def charts_of(results: Results) -> dict[str, list[tuple[str, Picture]]]:
    """All that there is something to draw for: by kind, under the title of what it is of."""
    kinds: dict[str, Callable[[Results, Task], Picture | None]] = {
        "curves": _learning_curves,
        "arithmetic": _against_arithmetic,
        "rates": _rates,
        "grids": heat_map,
        "convergence": _convergence,
        "sizes": _sizes,
        "layers": _layers,
    }
    of_columns = [(column.heading, effects(results, column)) for column in results.columns]
    return {
        "variance": [(split.task.title, bars) for split in splits(results) if (bars := shares(split)) is not None],
        "effects": [(heading, drawn) for heading, drawn in of_columns if drawn is not None],
        **{
            kind: [(task.title, chart) for task in results.tasks if (chart := draw(results, task)) is not None]
            for kind, draw in kinds.items()
        },
        "fractions": list(_fractions(results)),
    }


def _learning_curves(results: Results, task: Task) -> Chart | None:
    entries = results.entries_of(task)
    arms = [Series(entry.arm, style, _mean_curve(entry), band=True) for style, entry in enumerate(entries)]
    level = _level(results, task, "validation")
    return _chart(f"Learning curves on {task.title}", task, arms, level, "gradient steps", False, short)


def _against_arithmetic(results: Results, task: Task) -> Chart | None:
    """The learning curves again, where a step is not the same work in all arms."""
    costs = flops_per_step(results, task)
    arms = [
        Series(entry.arm, style, _mean_curve(entry, costs[entry.arm]), band=True)
        for style, entry in enumerate(results.entries_of(task))
        if entry.arm in costs
    ]
    level = _level(results, task, "validation")
    title = f"Learning curves against arithmetic on {task.title}"
    return _chart(title, task, arms, level, "floating-point operations", True, rate)


def _mean_curve(entry: Entry, cost: float = 1) -> list[Point]:
    """Mean over seeds at the steps that all of them validated at, each step as far along as it costs."""
    curves = [dict(curve.validation) for curve in entry.curves.values()]
    common = sorted(set.intersection(*map(set, curves))) if curves else []
    values = {step: [entry.unit.factor * curve[step] for curve in curves] for step in thinned(common)}
    return [Point(cost * step, fmean(seeds), standard_error(seeds)) for step, seeds in values.items()]


def thinned(steps: Sequence[int]) -> list[int]:
    """At most :data:`MOST_POINTS` of the steps, evenly spaced, the first and the last among them."""
    count = min(len(steps), MOST_POINTS)
    return [steps[round(index * (len(steps) - 1) / max(1, count - 1))] for index in range(count)]


def _rates(results: Results, task: Task) -> Chart | None:
    entries = results.entries_of(task)
    if all(len(entry.cell.rates) < 2 for entry in entries):
        return None
    arms = [
        Series(entry.arm, style, [point for lr in entry.cell.rates if (point := _at_rate(results, entry, lr))])
        for style, entry in enumerate(entries)
    ]
    title = f"{UNITS[task.metric].title} against learning rate on {task.title}"
    return _chart(title, task, arms, _level(results, task, "validation"), "learning rate", True, rate)


def _at_rate(results: Results, entry: Entry, lr: float) -> Point | None:
    """The metric on validation at a learning rate, where no seed was lost; the test split has no part in choosing."""
    unit = entry.unit
    if any(lr in entry.passed_over(results.outcomes, state) for state in (State.DIVERGED, State.FAILED)):
        return None
    finished = [results.outcomes[entry.cell.runs[lr, seed].id].result for seed in entry.cell.seeds]
    values = _finite(unit.factor * result.validation for result in finished if result is not None)
    if not values:
        return None
    seeds = f"{len(values)} seed{'s' * (len(values) > 1)}"
    tooltip = f"{entry.arm}, lr {rate(lr)}: validation {unit.write_mean(values)}, {seeds}"
    return Point(lr, fmean(values), standard_error(values), tooltip, chosen=lr == entry.lr)


def _convergence(results: Results, task: Task) -> Dots | None:
    rows, everything = [], list[float]()
    for style, entry in enumerate(results.entries_of(task)):
        steps = entry.measured("steps_to_convergence")
        points = [Point(at, 0, tooltip=f"{entry.arm}, seed {seed}: {at:,.0f} steps") for seed, at in steps.items()]
        if points:
            rows.append((entry.arm, style, points, fmean(steps.values())))
            everything += steps.values()
    if not rows:
        return None
    x = x_axis("gradient steps", everything, True, short)
    return Dots(f"Steps to convergence on {task.title}", x, rows)


def _sizes(results: Results, task: Task) -> Chart | None:
    unit, arms = UNITS[task.metric], []
    for style, entry in enumerate(results.entries_of(task)):
        values, sizes = ([*entry.measured(what).values()] for what in ("accuracy", "trained_parameters"))
        if values and (trained := fmean(sizes) if sizes else 0):
            tooltip = f"{entry.arm}: {trained:,.0f} trained, test {unit.write(fmean(values))}"
            arms.append(Series(entry.arm, style, [Point(trained, fmean(values), standard_error(values), tooltip)]))
    if len({point.x for series in arms for point in series.points}) < 2:
        return None
    title = f"{unit.title} against size on {task.title}"
    return _chart(title, task, arms, _level(results, task, "test"), "trained parameters", True, short)


def _layers(results: Results, task: Task) -> Chart | None:
    arms = [
        Series(
            entry.arm,
            style,
            [Point(layer, fmean(seeds), standard_error(seeds)) for layer, seeds in enumerate(read)],
            True,
        )
        for style, entry in enumerate(results.entries_of(task))
        if (read := probed(results, entry))
    ]
    title, level = f"Linear probe by layer on {task.title}", _level(results, task, "validation")
    return _chart(title, task, arms, level, "layer", False, "{:g}".format)


def _fractions(results: Results) -> Iterator[tuple[str, Chart]]:
    """The metric on test against the share of the training data, of columns that are one config and differ in it."""
    groups = defaultdict[tuple[str, str], list[Task]](list)
    for task in results.tasks:
        groups[task.config, task.metric].append(task)
    for tasks in (tasks for tasks in groups.values() if len(tasks) > 1):
        drawn = {task.name: [_at_fraction(results, entry) for entry in results.entries_of(task)] for task in tasks}
        of_arms = [sorted(filter(None, points), key=_x) for points in zip(*drawn.values(), strict=True)]
        is_one_task = len({_beside_fraction(results, task) for task in tasks}) == 1
        if not is_one_task or len({point.x for points in of_arms for point in points}) < 2:
            continue
        reach = {name: max(map(_x, filter(None, points)), default=0) for name, points in drawn.items()}
        whole = max(tasks, key=lambda task: reach[task.name])
        title = f"{UNITS[whole.metric].title} against fraction of the training data on {whole.title}"
        arms = [Series(arm, style, of_arms[style]) for style, arm in enumerate(results.arms)]
        level = _level(results, whole, "test")
        if (chart := _chart(title, whole, arms, level, "fraction of the training data", True, percent)) is not None:
            yield whole.title, chart


def _beside_fraction(results: Results, task: Task) -> str:
    """All other options of a column, to be compared with those of another."""
    given = [results.grid.settings(task.name, entry.cell.arm) for entry in results.entries_of(task)]
    return str([sorted((name, str(value)) for name, value in of.items() if name != "data.fraction") for of in given])


def _x(point: Point) -> float:
    return point.x


def _at_fraction(results: Results, entry: Entry) -> Point | None:
    """The metric on test at the fraction that the runs of a cell were given."""
    values, unit = list(entry.measured("accuracy").values()), entry.unit
    config = results.grid.records.config(entry.runs[0].folder.name) if values else None
    if config is None:
        return None
    fraction = float(dotted(config).get("data.fraction") or 1)
    tooltip = f"{entry.arm}, {percent(fraction)} of the data: test {unit.write_mean(values)}"
    return Point(fraction, fmean(values), standard_error(values), tooltip)


def _finite(values: Iterable[float]) -> list[float]:
    return [value for value in values if math.isfinite(value)]


def _level(results: Results, task: Task, split: str) -> Level:
    """Where the dashed line lies: at the best trivial baseline, or at chance."""
    if (best := results.best_baseline(task, split)) is None:
        return Level("chance", task.chance)
    return Level(best.name, UNITS[task.metric].factor * best.on(split))


def _chart(
    title: str, task: Task, arms: Iterable[Series], level: Level, label: str, log: bool, written: Callable[[float], str]
) -> Chart | None:
    """A chart of the task's metric, from the level up where that is near."""
    arms = [series for series in arms if series.points]
    points = [point for series in arms for point in series.points]
    if not points:
        return None
    unit = UNITS[task.metric]
    heights = [max(unit.lowest, point.y + sign * (point.error or 0)) for point in points for sign in (-1, 1)]
    lowest, highest = min(heights), max(heights)
    if lowest - level.height < 2 * (highest - lowest) + unit.least_height:
        heights.append(level.height)
    heights.append(highest - unit.least_height)
    x = x_axis(label, [point.x for point in points], log, written)
    return Chart(title, x, y_axis(unit.axis, heights, unit.least_height / 10), arms, level)
