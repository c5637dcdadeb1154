"""From the runs of a table to its figures: what every arm measured in every column, and what it is worth."""

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import fmean

from fpt_lightning.experiments.arms import Task
from fpt_lightning.experiments.cells import Cell, Run
from fpt_lightning.experiments.grid import Grid
from fpt_lightning.experiments.report.statistics import Comparison, compare, holm
from fpt_lightning.experiments.report.units import COUNT, UNITS, Unit
from fpt_lightning.experiments.tables import MEASURES, Table
from fpt_lightning.runs.metrics import Curve
from fpt_lightning.runs.outcome import Outcome, State
from fpt_lightning.runs.result import Result

Compared = tuple[str, str, str]

COUNTS = ("steps_to_convergence", "trained_parameters")
"""Measures that are not of the task's metric."""


@dataclass(frozen=True)
class Baseline:
    """What one trivial rule is worth on a task, without a backbone, as results measure it."""

    name: str
    validation: float
    test: float

    def on(self, split: str) -> float:
        return self.validation if split == "validation" else self.test


@dataclass(frozen=True)
class Entry:
    """A cell with the runs that count.

    Attributes:
        floor: What needs no backbone reaches on validation: chance, or the best trivial baseline that results have.
        lr: The learning rate that validation chose, or the only one; None as long as it is open.
        results: The finished runs at that learning rate, by seed.
        curves: Their learning curves.
        missing: Why no run counts, or not all.
    """

    cell: Cell
    task: Task
    floor: float
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
    def runs(self) -> list[Run]:
        """The runs that count."""
        return [self.cell.runs[self.lr, seed] for seed in self.results] if self.lr is not None else []

    def passed_over(self, outcomes: Mapping[str, Outcome], state: State) -> list[float]:
        """The other learning rates that no choice could fall on, as a run diverged or failed without a result."""
        lost = {run.lr for run in self.cell.runs.values() if outcomes[run.id].state is state}
        return [lr for lr in self.cell.rates if lr in lost and lr != self.lr]

    def measured(self, measure: str) -> dict[int, float]:
        """What its runs measured by seed, in the unit of the report; those that have no number are left out."""
        values: dict[int, float | None]
        if measure == "steps_to_convergence":
            values = {seed: curve.steps_to_convergence(self.floor) for seed, curve in self.curves.items()}
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
    heading: str

    @property
    def unit(self) -> Unit:
        return COUNT if self.measure in COUNTS else UNITS[self.task.metric]

    @property
    def fewer_is_better(self) -> bool:
        return self.measure == "steps_to_convergence"


@dataclass(frozen=True)
class Results:
    """A table as far as its runs are finished.

    Attributes:
        baselines: By name of the task.
        values: By arm and name of the column.
        comparisons: By arm, the other arm, which is the baseline or that of a contrast, and name of the column.
        to_come: Comparisons that are asked for and that lack the runs; the correction counts them.
    """

    grid: Grid
    outcomes: Mapping[str, Outcome]
    tasks: tuple[Task, ...]
    columns: tuple[Column, ...]
    arms: tuple[str, ...]
    baseline: str
    baselines: Mapping[str, Sequence[Baseline]]
    entries: Mapping[tuple[str, str], Entry]
    values: Mapping[tuple[str, str], Mapping[int, float]]
    comparisons: Mapping[Compared, Comparison]
    to_come: int

    def comparison(self, arm: str, column: Column, other: str | None = None) -> Comparison | None:
        """With another arm, by default the baseline."""
        return self.comparisons.get((arm, other or self.baseline, column.name))

    def contrasts(self, column: Column) -> list[tuple[str, str]]:
        """Pairs of arms beside the baseline that both have runs."""
        return [
            (arm, other)
            for (arm, other, name), found in self.comparisons.items()
            if name == column.name and other != self.baseline and found.seeds
        ]

    def verdict(self, arm: str, column: Column, other: str | None = None) -> str:
        """``better`` or ``worse`` than it, or empty; who learns less is not better for ending sooner."""
        other = other or self.baseline
        comparison = self.comparison(arm, column, other)
        verdict = "" if comparison is None else comparison.verdict(column.fewer_is_better)
        if not verdict or not column.fewer_is_better:
            return verdict
        sooner, later = (arm, other) if verdict == "better" else (other, arm)
        ours, others = (self.entries[one, column.task.name].measured("accuracy") for one in (sooner, later))
        return verdict if ours and others and fmean(ours.values()) >= fmean(others.values()) else ""

    def entries_of(self, task: Task) -> list[Entry]:
        """The cells of a task, by rows."""
        return [self.entries[arm, task.name] for arm in self.arms]

    def best_baseline(self, task: Task, split: str = "test") -> Baseline | None:
        """The best trivial baseline of a task on ``validation`` or ``test``; None where it is no better than chance."""
        better = [baseline for baseline in self.baselines[task.name] if baseline.on(split) > _chance(task)]
        return max(better, key=lambda baseline: baseline.on(split), default=None)


def collect(grid: Grid, outcomes: Mapping[str, Outcome]) -> Results:
    """Works out every figure of a table from what its runs left.

    Test figures are taken from the runs at the chosen learning rate and from no other. Each learning curve of those
    runs is read once, the others not at all.
    """
    arms = tuple(dict.fromkeys(cell.arm.name for cell in grid.cells))
    tasks = tuple(grid.experiments.tasks[name] for name in dict.fromkeys(cell.task for cell in grid.cells))
    several = len(grid.table.measures) > 1
    columns = tuple(
        Column(task, measure, f"{task.name}.{measure}" if several else task.name, _heading(task, measure, grid.table))
        for task in tasks
        for measure in grid.table.measures
    )
    baseline = grid.table.baseline if grid.table.baseline in arms else arms[0]
    baselines = {task.name: _baselines(task, grid, outcomes) for task in tasks}
    floors = {
        task.name: max([_chance(task), *(baseline.validation for baseline in baselines[task.name])]) for task in tasks
    }
    entries = {(cell.arm.name, cell.task): _entry(cell, floors[cell.task], grid, outcomes) for cell in grid.cells}
    values: dict[tuple[str, str], Mapping[int, float]] = {}
    for column in columns:
        measured = {arm: entries[arm, column.task.name].measured(column.measure) for arm in arms}
        values |= {(arm, column.name): by_seed for arm, by_seed in measured.items()}
    pairs = list(_pairs(grid.table, arms, baseline, columns, entries))
    comparisons, to_come = _comparisons(pairs, values)
    return Results(grid, outcomes, tasks, columns, arms, baseline, baselines, entries, values, comparisons, to_come)


def _pairs(
    table: Table,
    arms: Sequence[str],
    baseline: str,
    columns: Iterable[Column],
    entries: Mapping[tuple[str, str], Entry],
) -> Iterator[Compared]:
    """What is to be compared: every arm with the baseline, and the contrasts of the arms that are asked for."""
    if table.variance:  # draws have nothing to be compared for
        return
    of_arms = [(arm, baseline) for arm in arms if arm != baseline]
    of_arms += [pair for pair in table.contrasts if set(pair) <= {*arms} and baseline not in pair]
    for column in columns:
        if column.measure != "trained_parameters":  # which does not vary with the seed
            for arm, other in of_arms:
                if all(entries[one, column.task.name].cell.missing is None for one in {arm, other} - {baseline}):
                    yield arm, other, column.name


def _comparisons(
    pairs: Sequence[Compared], values: Mapping[tuple[str, str], Mapping[int, float]]
) -> tuple[dict[Compared, Comparison], int]:
    """Those that have runs, corrected with all the others, and how many lack them."""
    made = {
        (arm, other, column): compare(values[arm, column], values[other, column])
        for arm, other, column in pairs
        if values[arm, column]
    }
    to_come = len(pairs) - sum(comparison.seeds > 1 for comparison in made.values())
    tested = {place: comparison.p for place, comparison in made.items() if comparison.p is not None}
    corrected = zip(tested, holm(list(tested.values()), to_come), strict=True)
    return made | {place: replace(made[place], corrected=p) for place, p in corrected}, to_come


def _heading(task: Task, measure: str, table: Table) -> str:
    """Names the measure where accuracy does not go without saying."""
    if table.measures == ("accuracy",) and task.metric == "accuracy":
        return task.title
    return f"{task.title}, {MEASURES[measure].replace(UNITS['accuracy'].axis, UNITS[task.metric].axis)}"


def _chance(task: Task) -> float:
    """What ``experiments.yaml`` says of guessing, as ``result.json`` and ``metrics.csv`` measure it."""
    return task.chance / UNITS[task.metric].factor


def _baselines(task: Task, grid: Grid, outcomes: Mapping[str, Outcome]) -> list[Baseline]:
    """The trivial baselines that the runs on a task left: means, in case their data or their seeds differ."""
    figures = defaultdict[str, list[dict[str, float]]](list)
    for run in (run for cell in grid.cells if cell.task == task.name for run in cell.runs.values()):
        if (result := outcomes[run.id].result) is not None:
            for name, by_split in result.baselines.items():
                if all(math.isfinite(by_split.get(split, math.nan)) for split in ("val", "test")):
                    figures[name].append(by_split)
    return [
        Baseline(name, fmean(one["val"] for one in of_runs), fmean(one["test"] for one in of_runs))
        for name, of_runs in figures.items()
    ]


def _entry(cell: Cell, floor: float, grid: Grid, outcomes: Mapping[str, Outcome]) -> Entry:
    task = grid.experiments.tasks[cell.task]
    if cell.missing is not None:
        return Entry(cell, task, floor, missing=cell.missing)
    # one learning rate is no choice: its seeds count as they come
    lr = cell.rates[0] if len(cell.rates) == 1 else cell.chosen(outcomes)
    if lr is None:
        return Entry(cell, task, floor, missing=_why_open(cell.due(outcomes), outcomes))
    due = {seed: cell.runs[lr, seed] for seed in cell.seeds}
    tested = {seed: outcomes[run.id].result for seed, run in due.items() if outcomes[run.id].is_tested}
    results = {seed: result for seed, result in tested.items() if result is not None}
    missing = None if len(results) == len(due) else _why_open(due.values(), outcomes)
    curves = {seed: grid.records.curve(due[seed].folder.name, task.metric) for seed in results}
    return Entry(cell, task, floor, lr, results, curves, missing)


def _why_open(runs: Iterable[Run], outcomes: Mapping[str, Outcome]) -> str:
    """Why a cell is not finished: so many runs so far, and the first failure with its cause."""
    ended = [(run, outcomes[run.id]) for run in runs]
    counts = Counter(
        "not tested" if outcome.state is State.FINISHED and run.test and not outcome.is_tested else outcome.state
        for run, outcome in ended
    )
    steps = {outcome.result.diverged_step or 0 for _, outcome in ended if outcome.result and _diverged(outcome)}
    at = " and ".join(f"{step:,}" for step in sorted(steps))
    diverged = f"diverged (step{'s' * (len(steps) > 1)} {at})"
    if counts[State.FINISHED] + counts[State.DIVERGED] == len(ended):
        lost = diverged if counts[State.DIVERGED] else "ended without a number on validation"
        return f"{counts[State.DIVERGED] or len(ended)} of {len(ended)} runs {lost}"
    others = ("not tested", *(state for state in State if state is not State.FINISHED))
    rest = ", ".join(
        f"{counts[name]} {diverged if name is State.DIVERGED else name}" for name in others if counts[name]
    )
    sentence = f"{counts[State.FINISHED]} of {len(ended)} runs so far; {rest}"
    cause = next((outcome.cause for _, outcome in ended if outcome.cause and not _diverged(outcome)), None)
    return f"{sentence}: {' '.join(cause.split())}" if cause else sentence


def _diverged(outcome: Outcome) -> bool:
    return outcome.state is State.DIVERGED
