"""From the runs of a table to what a report shows: a figure for every arm and column, and what it is worth."""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from statistics import fmean

from fpt_lightning.experiments.grid import Cell, Grid, Run
from fpt_lightning.experiments.report.statistics import Comparison, compare, holm, standard_error
from fpt_lightning.experiments.tables import MEASURES, Reference, Task
from fpt_lightning.runs.metrics import Curve, read_curve
from fpt_lightning.runs.outcome import Outcome, State
from fpt_lightning.runs.result import Result

COMPARED = ("accuracy", "train_accuracy", "steps_to_convergence")
"""Measures that are tested against the baseline: those that vary with the seed."""


@dataclass(frozen=True)
class Column:
    """A task and what is measured on it."""

    task: Task
    measure: str
    name: str
    title: str


@dataclass(frozen=True)
class Figure:
    """What a column holds for an arm.

    Attributes:
        values: By seed, in the column's units.
        expected: How many seeds there are to be.
        reference: The paper's figure.
        missing: Why there is no value, or why there are fewer than expected.
        comparison: Beside the baseline; None for the baseline itself.
    """

    values: Mapping[int, float]
    expected: int
    reference: Reference | None
    missing: str | None = None
    comparison: Comparison | None = None

    @property
    def count(self) -> int:
        """How many seeds the mean is over."""
        return len(self.values)

    @property
    def mean(self) -> float | None:
        """Mean over seeds."""
        return fmean(self.values.values()) if self.values else None

    @cached_property
    def standard_error(self) -> float | None:
        """Standard error of the mean; None for a single seed."""
        return standard_error(list(self.values.values()))

    @property
    def difference(self) -> float | None:
        """Ours minus the paper's."""
        return None if self.mean is None or self.reference is None else self.mean - self.reference.mean


@dataclass(frozen=True)
class Entry:
    """A cell with the runs that count.

    Attributes:
        cell: Arm, task and runs.
        lr: The learning rate that validation chose, or the only one; None as long as it is open.
        results: result.json of the finished runs at that learning rate, by seed.
        curves: Their metrics.csv.
        missing: Why no run counts, or not all.
    """

    cell: Cell
    lr: float | None = None
    results: Mapping[int, Result] = field(default_factory=dict)
    curves: Mapping[int, Curve] = field(default_factory=dict)
    missing: str | None = None

    @property
    def runs(self) -> list[Run]:
        """The runs that count."""
        return [self.cell.runs[self.lr, seed] for seed in self.results] if self.lr is not None else []


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

    def entry(self, arm: str, task: Task) -> Entry:
        """The cell of an arm on a task."""
        return self.entries[arm, task.name]

    def figure(self, arm: str, column: Column) -> Figure:
        """What a column holds for an arm."""
        return self.figures[arm, column.name]


def collect(grid: Grid, outcomes: Mapping[str, Outcome]) -> Results:
    """Works out every figure of a table from its run folders.

    Test accuracy is taken from the runs at the chosen learning rate and from no other. Each ``metrics.csv`` of those
    runs is read once, the others not at all.
    """
    arms = tuple(dict.fromkeys(cell.arm.name for cell in grid.cells))
    tasks = tuple(grid.experiments.tasks[name] for name in dict.fromkeys(cell.task for cell in grid.cells))
    entries = {(cell.arm.name, cell.task): _entry(cell, outcomes) for cell in grid.cells}
    columns = tuple(_column(task, measure, grid.table.measures) for task in tasks for measure in grid.table.measures)
    figures = {
        (arm, column.name): _figure(entries[arm, column.task.name], column) for arm in arms for column in columns
    }
    baseline = grid.table.baseline if grid.table.baseline in arms else arms[0]
    return Results(grid, outcomes, tasks, columns, arms, baseline, entries, _compared(figures, arms, columns, baseline))


def _column(task: Task, measure: str, measures: Iterable[str]) -> Column:
    if len(tuple(measures)) == 1:
        return Column(task, measure, task.name, task.title)
    return Column(task, measure, f"{task.name}.{measure}", f"{task.title}, {MEASURES[measure]}")


def _entry(cell: Cell, outcomes: Mapping[str, Outcome]) -> Entry:
    if cell.missing is not None:
        return Entry(cell, missing=cell.missing)
    # one learning rate is no choice: its seeds count as they come
    lr = cell.rates[0] if len(cell.rates) == 1 else cell.chosen(outcomes)
    if lr is None:
        return Entry(cell, missing=_why_open(cell.due(outcomes), outcomes))
    due = {seed: cell.runs[lr, seed] for seed in cell.seeds}
    found = {seed: outcomes[run.id] for seed, run in due.items()}
    results = {seed: outcome.result for seed, outcome in found.items() if outcome.result and outcome.is_tested}
    missing = None if len(results) == len(due) else _why_open(due.values(), outcomes)
    curves = {seed: read_curve(due[seed].folder / "metrics.csv") for seed in results}
    return Entry(cell, lr, results, curves, missing)


def _why_open(runs: Iterable[Run], outcomes: Mapping[str, Outcome]) -> str:
    """Why a cell is not finished: so many runs so far, and the first failure with its cause."""
    found = [(run, outcomes[run.id]) for run in runs]
    counts = Counter(
        "not tested" if outcome.state is State.FINISHED and not run.is_done(outcome) else outcome.state
        for run, outcome in found
    )
    others = ("not tested", *(state for state in State if state is not State.FINISHED))
    told = ", ".join(f"{counts[name]} {name}" for name in others if counts[name])
    said = f"{counts[State.FINISHED]} of {len(found)} runs so far; {told}"
    cause = next((outcome.cause for _, outcome in found if outcome.cause), None)
    return f"{said}: {' '.join(cause.split())}" if cause else said


def _figure(entry: Entry, column: Column) -> Figure:
    seeds = len(entry.cell.seeds)
    reference = entry.cell.reference.get(column.measure)
    measure = _MEASURED[column.measure]
    found = {seed: measure(entry, seed, column.task) for seed in entry.results}
    values = {seed: value for seed, value in found.items() if value is not None and math.isfinite(value)}
    missing = entry.missing
    if missing is None and len(values) < len(found):
        missing = f"{len(found) - len(values)} of {len(found)} runs {_ABSENT[column.measure]}"
    return Figure(values, seeds, reference, missing)


def _steps_to_convergence(entry: Entry, seed: int, task: Task) -> float | None:
    return entry.curves[seed].steps_to_convergence(task.chance / 100)


_MEASURED: dict[str, Callable[[Entry, int, Task], float | None]] = {
    "accuracy": lambda entry, seed, _: _percent(entry.results[seed].test),
    "train_accuracy": lambda entry, seed, _: _percent(entry.curves[seed].train_accuracy()),
    "steps_to_convergence": _steps_to_convergence,
    "trained_parameters": lambda entry, seed, _: entry.results[seed].trained_parameters,
}

_ABSENT = {
    "accuracy": "ended without a number",
    "train_accuracy": "logged no training accuracy",
    "steps_to_convergence": "were never better than chance on validation",
    "trained_parameters": "do not say how many parameters they train",
}


def _percent(share: float | None) -> float | None:
    return None if share is None else 100 * share


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
    corrected = dict(zip(tested, holm(list(tested.values())), strict=True))
    return {
        place: replace(
            figure,
            comparison=replace(comparisons[place], corrected=corrected.get(place)) if place in comparisons else None,
        )
        for place, figure in figures.items()
    }
