"""A table in words, the same for every format: markdown, LaTeX and HTML escape and frame it."""

import os
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from urllib.parse import quote

from fpt_lightning.experiments.arms import Reference
from fpt_lightning.experiments.cells import Run
from fpt_lightning.experiments.report.arithmetic import equal_arithmetic
from fpt_lightning.experiments.report.checks import warnings_of
from fpt_lightning.experiments.report.layers import layers
from fpt_lightning.experiments.report.pictures.charts import Picture, charts_of
from fpt_lightning.experiments.report.reading import compared, contrasts, options, rates, reading
from fpt_lightning.experiments.report.results import Column, Entry, Results
from fpt_lightning.experiments.report.units import COUNT, MINUS, NONE, UNITS, Unit, rate
from fpt_lightning.experiments.report.variance import SplitText, in_words, splits
from fpt_lightning.experiments.tables import Profile, Table
from fpt_lightning.runs.outcome import Outcome, State

ABSENT = {
    "accuracy": "ended without a number",
    "train_accuracy": "logged no training {metric}",
    "steps_to_convergence": "were never better than {floor} on validation",
    "trained_parameters": "do not say how many parameters they train",
}
OF_CURVES = ("train_accuracy", "steps_to_convergence")
"""Measures that are read out of learning curves."""


@dataclass(frozen=True)
class FigureText:
    """A figure of the table; what there is not is empty.

    Attributes:
        mean: Mean ± standard error.
        reference: The paper's, as it gave it.
        difference: Ours minus the paper's.
        comparison: What the test against the baseline found, a sentence.
        verdict: In short: ``better`` or ``worse``, or empty where nothing speaks against chance.
        count: How many seeds it is over.
        lr: The learning rate that was chosen among several.
        note: The number of the note that says why there is none, or why so few seeds.
    """

    mean: str
    reference: str
    difference: str
    comparison: str
    verdict: str
    count: str
    lr: str
    note: int | None


@dataclass(frozen=True)
class RunText:
    """A run in the list of its cell; ``counts`` says whether it is part of the figure."""

    run: Run
    outcome: Outcome
    counts: bool
    lr: str
    validation: str
    test: str
    steps: str
    link: str
    command: str


@dataclass(frozen=True)
class CellText:
    """An arm on a task with its runs."""

    arm: str
    task: str
    summary: str
    runs: list[RunText]


@dataclass(frozen=True)
class Page:
    """All that a report says.

    Attributes:
        baselines: What needs no backbone, by name, a figure a column.
        notes: Why figures are missing; the same reason is given once.
        over: What a figure is the mean of.
        baseline: The arm that the others are tested against.
        reading: How to read the table, a sentence each.
        contrasts: What other pairs of arms came to than those with the baseline, a line each.
        options: What the profile and the protocol change of the tasks' configs, a line each.
        rates: The learning rates of every arm on every task, an arm a line; none where nothing is chosen yet.
        equal_arithmetic: What every arm reaches with the operations of the cheapest; none where steps are alike.
        layers: What probes read out of the layers of every arm; none where nobody asked.
        metric: What judges the tasks.
        variance: What the arms are draws of, a task each; empty where they are none.
        charts: By kind; see :func:`charts_of`.
        attention: Titles and pictures of attention maps.
    """

    table: Table
    profile: Profile
    headings: list[str]
    rows: list[tuple[str, list[FigureText]]]
    baselines: list[tuple[str, list[str]]]
    notes: list[str]
    over: str
    baseline: str
    reading: list[str]
    contrasts: list[str]
    options: list[str]
    rates: list[str]
    equal_arithmetic: list[str]
    layers: list[str]
    warnings: list[str]
    metric: str
    variance: list[SplitText]
    charts: dict[str, list[tuple[str, Picture]]]
    attention: list[tuple[str, Path]]
    cells: list[CellText]

    @property
    def about(self) -> str:
        """What the profile is for, as it says itself."""
        return f"Profile {self.profile.name}: {self.profile.about}." if self.profile.about else ""

    @property
    def at_equal_arithmetic(self) -> str:
        """The title of those lines."""
        return f"Validation {self.metric} at equal arithmetic, where the arm that computes least ends"

    @property
    def of_layers(self) -> str:
        """The title of what probes read."""
        return (
            f"Validation {self.metric} of a linear layer on what stands before every block and, last, behind them all"
        )

    def how_to_read(self, papers: str) -> str:
        """In full; ``papers`` says where the paper's figures stand, where there are any."""
        beside = any(figure.reference for _, figures in self.rows for figure in figures)
        return " ".join([f"{self.over}, the paper's figure {papers}." if beside else f"{self.over}.", *self.reading])


def page_of(results: Results, folder: Path) -> Page:
    """Puts a table into words; links to run folders start from ``folder``, where the page will lie."""
    grid, notes = results.grid, list[str]()
    seeds = len(grid.protocol.seeds)
    metric = " or ".join(dict.fromkeys(UNITS[task.metric].name for task in results.tasks))
    return Page(
        table=grid.table,
        profile=grid.profile,
        headings=[column.heading for column in results.columns],
        rows=[(arm, [_figure(results, arm, column, notes) for column in results.columns]) for arm in results.arms],
        baselines=list(_baselines(results)),
        notes=notes,
        over=f"Mean ± standard error over {seeds} seeds" if seeds > 1 else "One seed",
        baseline=results.baseline,
        reading=list(reading(results, metric)),
        contrasts=list(contrasts(results)),
        options=list(options(results)),
        rates=list(rates(results)),
        equal_arithmetic=list(equal_arithmetic(results)),
        layers=list(layers(results)),
        warnings=warnings_of(results),
        metric=metric,
        variance=[in_words(split) for split in splits(results)],
        charts=charts_of(results),
        attention=list(_attention(results)),
        cells=[_cell(results, entry, folder) for task in results.tasks for entry in results.entries_of(task)],
    )


def _figure(results: Results, arm: str, column: Column, notes: list[str]) -> FigureText:
    entry = results.entries[arm, column.task.name]
    values = list(results.values[arm, column.name].values())
    reference, unit = entry.cell.reference.get(column.measure), column.unit
    count, seeds = len(values), len(entry.cell.seeds)
    comparison = results.comparison(arm, column)
    return FigureText(
        mean=_mean(values, column),
        reference="" if reference is None else _reference(reference, unit),
        difference=unit.write_signed(fmean(values) - reference.mean) if values and reference is not None else "",
        comparison="" if comparison is None else compared(comparison, unit, results.baseline),
        verdict=results.verdict(arm, column),
        count=(f"n = {count}" + (f" of {seeds}" if count < seeds else "")) if count else "",
        lr=rate(entry.lr) if entry.lr is not None and len(entry.cell.rates) > 1 else "",
        note=_note(results, entry, column, count, notes),
    )


def _baselines(results: Results) -> Iterator[tuple[str, list[str]]]:
    """The trivial baselines as rows of the table, where it has columns for them."""
    for name in dict.fromkeys(one.name for of_task in results.baselines.values() for one in of_task):
        figures = []
        for column in results.columns:
            measured = column.measure == "accuracy"
            found = [one for one in results.baselines[column.task.name] if measured and one.name == name]
            figures.append(column.unit.write(column.unit.factor * found[0].test) if found else "")
        if any(figures):
            yield name, figures


def _mean(values: list[float], column: Column) -> str:
    """Mean ± standard error; the mean alone of a single seed, and of a number that no seed changes."""
    if not values:
        return NONE
    alike = column.measure == "trained_parameters" and len(set(values)) == 1
    return column.unit.write_mean(values[:1] if alike else values)


def _reference(reference: Reference, unit: Unit) -> str:
    """The paper's figure with as many digits as it gave."""
    mean, error = reference.mean, reference.standard_error
    if unit is COUNT:
        written = [unit.write(number) for number in (mean, error) if number is not None]
    else:
        written = [MINUS * (mean < 0) + f"{abs(mean):g}"]
        written += [] if error is None else [max(unit.write(error), f"{error:g}", key=len)]
    return " ± ".join(written)


def _note(results: Results, entry: Entry, column: Column, count: int, notes: list[str]) -> int | None:
    """The number, from 1, of the note that says why there are fewer values than seeds."""
    finished = len(entry.results)
    if entry.missing is None and count == finished:
        return None
    best = results.best_baseline(column.task, "validation")
    told = ABSENT[column.measure].format(metric=column.unit.name, floor=best.name if best else "chance")
    if column.measure in OF_CURVES and any(curve.problem for curve in entry.curves.values()):
        told = "have no learning curve that can be read"
    absent = f"{finished - count} of {finished} runs {told}" if count < finished else None
    why = "; ".join(filter(None, [entry.missing, absent]))
    note = (f"mean over {count} of {len(entry.cell.seeds)} seeds: " if count else "") + why
    if note not in notes:
        notes.append(note)
    return notes.index(note) + 1


def _attention(results: Results) -> Iterator[tuple[str, Path]]:
    """The attention maps of the first run of every cell that left them."""
    for task in results.tasks:
        for entry in results.entries_of(task):
            for run in entry.runs:
                if (picture := results.outcomes[run.id].attention) is not None:
                    yield f"{entry.arm} on {task.title}, seed {run.seed}", picture
                    break


def _cell(results: Results, entry: Entry, folder: Path) -> CellText:
    arm, task, outcomes = entry.arm, entry.task.title, results.outcomes
    if entry.cell.missing is not None:
        return CellText(arm, task, entry.cell.missing, [])
    due = entry.cell.due(outcomes)
    # the run that made the backbone, the grid, and the other seeds of what it chose
    runs = [*{run.needs.id: run.needs for run in due if run.needs is not None}.values(), *due]
    states = [outcomes[run.id].state for run in runs]
    counts = [f"{states.count(state)} {state}" for state in State if state in states]
    chosen = [f"lr {rate(entry.lr)}"] if entry.lr is not None else []
    return CellText(arm, task, ", ".join(chosen + counts), [_run(entry, run, outcomes[run.id], folder) for run in runs])


def _run(entry: Entry, run: Run, outcome: Outcome, folder: Path) -> RunText:
    counts = run in entry.runs
    result = outcome.result if outcome.state is State.FINISHED else None
    unit = UNITS[result.metric if result else entry.task.metric]
    is_there = outcome.state is not State.MISSING and run.folder.is_dir()  # an archived run has no folder
    return RunText(
        run=run,
        outcome=outcome,
        counts=counts,
        lr="backbone" if run.lr is None else rate(run.lr),
        validation=unit.write(unit.factor * result.validation) if result else "",
        test=unit.write(unit.factor * result.test) if result and counts and result.test is not None else "",
        steps=f"{outcome.result.steps:,}" if outcome.result else "",
        link=quote(Path(os.path.relpath(run.folder, folder)).as_posix()) + "/" if is_there else "",
        command=f"fpt {shlex.join(run.command)}",
    )
