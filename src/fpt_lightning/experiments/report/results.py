"""From the runs of a table to its figures: what every arm measured in every column, and what it is worth."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from fpt_lightning.experiments.cells import Cell, Run
from fpt_lightning.experiments.grid import Grid
from fpt_lightning.experiments.report.statistics import Comparison, compare, holm
from fpt_lightning.experiments.report.units import COUNT, UNITS, Unit
from fpt_lightning.experiments.tables import Task
from fpt_lightning.runs.metrics import Curve
from fpt_lightning.runs.outcome import Outcome, State
from fpt_lightning.runs.result import Result

COUNTS = ("steps_to_convergence", "trained_parameters")
"""Measures that are not of the task's metric."""


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
    def arm(self) -> str:
        return self.cell.arm.name

    @property
    def unit(self) -> Unit:
        return UNITS[self.task.metric]

    @property
    def chance(self) -> float:
        """What guessing achieves, as ``result.json`` and ``metrics.csv`` measure it."""
        return self.task.chance / self.unit.factor

    @property
    def runs(self) -> list[Run]:
        """The runs that count."""
        return [self.cell.runs[self.lr, seed] for seed in self.results] if self.lr is not None else []

    def measured(self, measure: str) -> dict[int, float]:
        """What its runs measured by seed, in the unit of the report; those that have no number are left out."""
        values: dict[int, float | None]
        if measure == "steps_to_convergence":
            values = {seed: curve.steps_to_convergence(self.chance) for seed, curve in self.curves.items()}
        elif measure == "trained_parameters":
            values = {seed: result.trained_parameters for seed, result in self.results.items()}
        elif measure == "train_accuracy":
            values = {seed: curve.train_accuracy() for seed, curve in self.curves.items()}
        else:
            values = {seed: result.test for seed, result in self.results.items()}
        factor = 1 if measure in COUNTS else self.unit.factor
        return {seed: factor * value for seed, value in values.items() if value is not None and math.isfinite(value)}


@dataclass(frozen=True)
class Column:
    """A task and what is measured on it, of :data:`MEASURES`; by its name an arm has the paper's figure."""

    task: Task
    measure: str
    name: str

    @property
    def unit(self) -> Unit:
        return COUNT if self.measure in COUNTS else UNITS[self.task.metric]


@dataclass(frozen=True)
class Results:
    """A table as far as its runs are finished; ``values`` and ``comparisons`` are by arm and name of the column."""

    grid: Grid
    outcomes: Mapping[str, Outcome]
    tasks: tuple[Task, ...]
    columns: tuple[Column, ...]
    arms: tuple[str, ...]
    baseline: str
    entries: Mapping[tuple[str, str], Entry]
    values: Mapping[tuple[str, str], Mapping[int, float]]
    comparisons: Mapping[tuple[str, str], Comparison]

    def entries_of(self, task: Task) -> list[Entry]:
        """The cells of a task, by rows."""
        return [self.entries[arm, task.name] for arm in self.arms]


def collect(grid: Grid, outcomes: Mapping[str, Outcome]) -> Results:
    """Works out every figure of a table from what its runs left.

    Test figures are taken from the runs at the chosen learning rate and from no other. Each learning curve of those
    runs is read once, the others not at all.
    """
    arms = tuple(dict.fromkeys(cell.arm.name for cell in grid.cells))
    tasks = tuple(grid.experiments.tasks[name] for name in dict.fromkeys(cell.task for cell in grid.cells))
    several = len(grid.table.measures) > 1
    columns = tuple(
        Column(task, measure, f"{task.name}.{measure}" if several else task.name)
        for task in tasks
        for measure in grid.table.measures
    )
    baseline = grid.table.baseline if grid.table.baseline in arms else arms[0]
    entries = {(cell.arm.name, cell.task): _entry(cell, grid, outcomes) for cell in grid.cells}
    values: dict[tuple[str, str], Mapping[int, float]] = {}
    comparisons: dict[tuple[str, str], Comparison] = {}
    for column in columns:
        measured = {arm: entries[arm, column.task.name].measured(column.measure) for arm in arms}
        values |= {(arm, column.name): by_seed for arm, by_seed in measured.items()}
        if column.measure != "trained_parameters":  # which does not vary with the seed
            others = [arm for arm in arms if arm != baseline and measured[arm]]
            comparisons |= {(arm, column.name): compare(measured[arm], measured[baseline]) for arm in others}
    tested = {place: comparison.p for place, comparison in comparisons.items() if comparison.p is not None}
    for place, corrected in zip(tested, holm(list(tested.values())), strict=True):
        comparisons[place] = replace(comparisons[place], corrected=corrected)
    return Results(grid, outcomes, tasks, columns, arms, baseline, entries, values, comparisons)


def _entry(cell: Cell, grid: Grid, outcomes: Mapping[str, Outcome]) -> Entry:
    task = grid.experiments.tasks[cell.task]
    if cell.missing is not None:
        return Entry(cell, task, missing=cell.missing)
    # one learning rate is no choice: its seeds count as they come
    lr = cell.rates[0] if len(cell.rates) == 1 else cell.chosen(outcomes)
    if lr is None:
        return Entry(cell, task, missing=_why_open(cell.due(outcomes), outcomes))
    due = {seed: cell.runs[lr, seed] for seed in cell.seeds}
    tested = {seed: outcomes[run.id].result for seed, run in due.items() if outcomes[run.id].is_tested}
    results = {seed: result for seed, result in tested.items() if result is not None}
    missing = None if len(results) == len(due) else _why_open(due.values(), outcomes)
    curves = {seed: grid.records.curve(due[seed].folder.name, task.metric) for seed in results}
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
