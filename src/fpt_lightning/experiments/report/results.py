"""From the runs of a table to what a report shows: a figure for every arm and column, and what it is worth."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from statistics import fmean

from fpt_lightning.experiments.grid import Cell, Grid, Run
from fpt_lightning.experiments.report.statistics import Comparison, compare, holm, standard_error
from fpt_lightning.experiments.report.units import COUNT, UNITS, Unit
from fpt_lightning.experiments.tables import Reference, Task
from fpt_lightning.runs.metrics import Curve
from fpt_lightning.runs.outcome import Outcome, State
from fpt_lightning.runs.result import Result

COMPARED = ("accuracy", "train_accuracy", "steps_to_convergence")
"""Measures that are tested against the baseline: those that vary with the seed."""


@dataclass(frozen=True)
class Column:
    """A task, what is measured on it, and in which unit; by its name an arm has the paper's figure."""

    task: Task
    measure: str
    name: str
    unit: Unit


@dataclass(frozen=True)
class Figure:
    """What a column holds for an arm.

    Attributes:
        values: By seed, in the column's unit.
        expected: How many seeds there are to be.
        reference: The paper's figure.
        missing: Why there are fewer.
        comparison: Beside the baseline; None of the baseline itself.
    """

    values: Mapping[int, float]
    expected: int
    reference: Reference | None
    missing: str | None = None
    comparison: Comparison | None = None

    @property
    def mean(self) -> float | None:
        return fmean(self.values.values()) if self.values else None

    @cached_property
    def standard_error(self) -> float | None:
        """Standard error of the mean; None for a single seed."""
        return standard_error(list(self.values.values()))


@dataclass(frozen=True)
class Entry:
    """A cell with the runs that count.

    Attributes:
        lr: The learning rate that validation chose, or the only one; None as long as it is open.
        results: The finished runs at that learning rate, by seed.
        curves: Their learning curves.
        missing: Why no run counts, or not all.
    """

    cell: Cell
    task: Task
    lr: float | None = None
    results: Mapping[int, Result] = field(default_factory=dict)
    curves: Mapping[int, Curve] = field(default_factory=dict)
    missing: str | None = None

    @property
    def runs(self) -> list[Run]:
        """The runs that count."""
        return [self.cell.runs[self.lr, seed] for seed in self.results] if self.lr is not None else []

    @property
    def unit(self) -> Unit:
        return UNITS[self.task.metric]

    @property
    def chance(self) -> float:
        """What guessing achieves, as ``result.json`` and ``metrics.csv`` measure it."""
        return self.task.chance / self.unit.factor

    def measured(self, measure: str, seed: int) -> float | None:
        """What a run measured, in the unit of the report; None where it did not."""
        result, curve = self.results[seed], self.curves[seed]
        if measure == "steps_to_convergence":
            return curve.steps_to_convergence(self.chance)
        if measure == "trained_parameters":
            return result.trained_parameters
        value = result.test if measure == "accuracy" else curve.train_accuracy()
        return None if value is None else self.unit.factor * value


@dataclass(frozen=True)
class Results:
    """A table as far as its runs are finished."""

    grid: Grid
    outcomes: Mapping[str, Outcome]
    tasks: tuple[Task, ...]
    columns: tuple[Column, ...]
    arms: tuple[str, ...]
    baseline: str
    entries: Mapping[tuple[str, str], Entry]
    figures: Mapping[tuple[str, str], Figure]

    def entries_of(self, task: Task) -> list[Entry]:
        """The cells of a column, by rows."""
        return [self.entries[arm, task.name] for arm in self.arms]

    @property
    def judged_by(self) -> str:
        """The metric of the tasks, in a sentence."""
        return " or ".join(dict.fromkeys(UNITS[task.metric].name for task in self.tasks))


def collect(grid: Grid, outcomes: Mapping[str, Outcome]) -> Results:
    """Works out every figure of a table from what its runs left.

    Test figures are taken from the runs at the chosen learning rate and from no other. Each learning curve of those
    runs is read once, the others not at all.
    """
    arms = tuple(dict.fromkeys(cell.arm.name for cell in grid.cells))
    tasks = tuple(grid.experiments.tasks[name] for name in dict.fromkeys(cell.task for cell in grid.cells))
    entries = {(cell.arm.name, cell.task): _entry(cell, grid, outcomes) for cell in grid.cells}
    columns = tuple(_column(task, measure, grid.table.measures) for task in tasks for measure in grid.table.measures)
    figures = {
        (arm, column.name): _figure(entries[arm, column.task.name], column) for arm in arms for column in columns
    }
    baseline = grid.table.baseline if grid.table.baseline in arms else arms[0]
    return Results(grid, outcomes, tasks, columns, arms, baseline, entries, _compared(figures, arms, columns, baseline))


def _column(task: Task, measure: str, measures: tuple[str, ...]) -> Column:
    name = task.name if len(measures) == 1 else f"{task.name}.{measure}"
    return Column(task, measure, name, UNITS[task.metric] if measure in ("accuracy", "train_accuracy") else COUNT)


def _entry(cell: Cell, grid: Grid, outcomes: Mapping[str, Outcome]) -> Entry:
    task = grid.experiments.tasks[cell.task]
    if cell.missing is not None:
        return Entry(cell, task, missing=cell.missing)
    # one learning rate is no choice: its seeds count as they come
    lr = cell.rates[0] if len(cell.rates) == 1 else cell.chosen(outcomes)
    if lr is None:
        return Entry(cell, task, missing=_why_open(cell.due(outcomes), outcomes))
    due = {seed: cell.runs[lr, seed] for seed in cell.seeds}
    results = {
        seed: outcome.result
        for seed, run in due.items()
        if (outcome := outcomes[run.id]).result is not None and outcome.is_tested
    }
    missing = None if len(results) == len(due) else _why_open(due.values(), outcomes)
    curves = {seed: grid.runs.curve(due[seed].folder.name, task.metric) for seed in results}
    return Entry(cell, task, lr, results, curves, missing)


def _why_open(runs: Iterable[Run], outcomes: Mapping[str, Outcome]) -> str:
    """Why a cell is not finished: so many runs so far, and the first failure with its cause."""
    ended = [(run, outcomes[run.id]) for run in runs]
    counts = Counter(
        "not tested" if outcome.state is State.FINISHED and not run.is_done(outcome) else outcome.state
        for run, outcome in ended
    )
    others = ("not tested", *(state for state in State if state is not State.FINISHED))
    rest = ", ".join(f"{counts[name]} {name}" for name in others if counts[name])
    sentence = f"{counts[State.FINISHED]} of {len(ended)} runs so far; {rest}"
    cause = next((outcome.cause for _, outcome in ended if outcome.cause), None)
    return f"{sentence}: {' '.join(cause.split())}" if cause else sentence


def _figure(entry: Entry, column: Column) -> Figure:
    measured = {seed: entry.measured(column.measure, seed) for seed in entry.results}
    values = {seed: value for seed, value in measured.items() if value is not None and math.isfinite(value)}
    missing, absent = entry.missing, len(measured) - len(values)
    if missing is None and absent:
        missing = f"{absent} of {len(measured)} runs {_ABSENT[column.measure].format(metric=column.unit.name)}"
    return Figure(values, len(entry.cell.seeds), entry.cell.arm.reference.get(column.name), missing)


_ABSENT = {
    "accuracy": "ended without a number",
    "train_accuracy": "logged no training {metric}",
    "steps_to_convergence": "were never better than chance on validation",
    "trained_parameters": "do not say how many parameters they train",
}


def _compared(
    figures: Mapping[tuple[str, str], Figure], arms: Iterable[str], columns: Iterable[Column], baseline: str
) -> dict[tuple[str, str], Figure]:
    """Every arm beside the baseline, corrected over all comparisons of the table."""
    comparisons = {
        (arm, column.name): compare(figures[arm, column.name].values, figures[baseline, column.name].values)
        for column in columns
        if column.measure in COMPARED
        for arm in arms
        if arm != baseline and figures[arm, column.name].values
    }
    tested = {place: comparison.p for place, comparison in comparisons.items() if comparison.p is not None}
    for place, corrected in zip(tested, holm(list(tested.values())), strict=True):
        comparisons[place] = replace(comparisons[place], corrected=corrected)
    return {place: replace(figure, comparison=comparisons.get(place)) for place, figure in figures.items()}
