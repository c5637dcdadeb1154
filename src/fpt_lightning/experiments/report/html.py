"""A table as one HTML file that needs nothing else: figures, charts, and every run with its command."""

import base64
import os
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from fpt_lightning import __version__
from fpt_lightning.experiments.grid import Run
from fpt_lightning.experiments.report import charts, svg, wording
from fpt_lightning.experiments.report.results import Column, Entry, Figure, Results
from fpt_lightning.experiments.tables import Task
from fpt_lightning.runs.folder import RunFolder
from fpt_lightning.runs.outcome import Outcome, State

TEMPLATES = Path(__file__).parent / "templates"


@dataclass(frozen=True)
class Shown:
    """A figure in the table."""

    mean: str
    significant: bool
    reference: str
    difference: str
    count: str
    lr: str
    told: str
    note: int | None


@dataclass(frozen=True)
class ShownRun:
    """A run in the list of its cell."""

    seed: int
    lr: str
    state: str
    counts: bool
    validation: str
    test: str
    steps: str
    folder: str
    link: str
    command: str
    cause: str


@dataclass(frozen=True)
class ShownCell:
    """An arm on a task with its runs."""

    arm: str
    task: str
    told: str
    runs: list[ShownRun]


@dataclass(frozen=True)
class Attention:
    """An attention map of a run."""

    title: str
    source: str


def page(results: Results, warnings: Sequence[str], folder: Path) -> str:
    """The whole page.

    Args:
        results: The table.
        warnings: Sentences below it.
        folder: Where the file will lie.
    """
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    notes = wording.Footnotes()
    rows = [
        (arm, svg.swatch(style), [_shown(results, arm, column, notes) for column in results.columns])
        for style, arm in enumerate(results.arms)
    ]
    return environment.get_template("report.html").render(
        table=results.grid.table,
        profile=results.grid.profile,
        headings=[wording.heading(column, results) for column in results.columns],
        rows=rows,
        notes=notes.notes,
        reading=wording.reading(results, "below ours"),
        warnings=warnings,
        sections=charts.sections(results),
        attention=list(_attention(results)),
        cells=[_cell(results, arm, task, folder) for task in results.tasks for arm in results.arms],
        version=__version__,
        style=_file("report.css"),
        script=_file("report.js"),
    )


def _file(name: str) -> Markup:
    return Markup((TEMPLATES / name).read_text(encoding="utf-8"))


def _shown(results: Results, arm: str, column: Column, notes: wording.Footnotes) -> Shown:
    figure = results.figure(arm, column)
    entry = results.entry(arm, column.task)
    return Shown(
        wording.mean(figure, column.measure),
        figure.comparison is not None and figure.comparison.significant,
        wording.reference(figure, column.measure),
        wording.difference(figure, column.measure),
        _count(figure),
        wording.rate(entry.lr) if entry.lr is not None and len(entry.cell.rates) > 1 else "",
        wording.compared(figure, column, results),
        notes.mark(figure),
    )


def _count(figure: Figure) -> str:
    if not figure.count:
        return ""
    return f"n = {figure.count}" + (f" of {figure.expected}" if figure.count < figure.expected else "")


def _attention(results: Results) -> Iterator[Attention]:
    """The attention maps of the first run of every cell that left them."""
    for task in results.tasks:
        for arm in results.arms:
            entry = results.entry(arm, task)
            pictures = (
                (seed, RunFolder(run.folder).attention) for seed, run in zip(entry.results, entry.runs, strict=True)
            )
            found = next(((seed, picture) for seed, picture in pictures if picture.is_file()), None)
            if found is not None:
                seed, picture = found
                data = base64.b64encode(picture.read_bytes()).decode()
                yield Attention(f"{arm} on {task.title}, seed {seed}", f"data:image/png;base64,{data}")


def _cell(results: Results, arm: str, task: Task, folder: Path) -> ShownCell:
    entry = results.entry(arm, task)
    if entry.cell.missing is not None:
        return ShownCell(arm, task.title, entry.cell.missing, [])
    runs = _runs(results, entry)
    states = [results.outcomes[run.id].state for run in runs]
    counts = [f"{states.count(state)} {state}" for state in State if state in states]
    chosen = [f"lr {wording.rate(entry.lr)}"] if entry.lr is not None else []
    shown = [_shown_run(entry, run, results.outcomes[run.id], folder) for run in runs]
    return ShownCell(arm, task.title, ", ".join(chosen + counts), shown)


def _runs(results: Results, entry: Entry) -> list[Run]:
    """The run that made the backbone, the grid, and the other seeds of what it chose."""
    due = entry.cell.due(results.outcomes)
    makers = {run.needs.id: run.needs for run in due if run.needs is not None}
    return [*makers.values(), *due]


def _shown_run(entry: Entry, run: Run, outcome: Outcome, folder: Path) -> ShownRun:
    result = outcome.result
    counts = run in entry.runs
    path = Path(os.path.relpath(run.folder, folder)).as_posix()
    return ShownRun(
        run.seed,
        "backbone" if run.lr is None else wording.rate(run.lr),
        outcome.state.value,
        counts,
        _percentage(result.validation if result else None),
        _percentage(result.test if result else None) if counts else "",
        f"{result.steps:,}" if result else "",
        run.folder.name,
        quote(path) + "/",
        f"fpt {shlex.join(run.command)}",
        outcome.cause or "",
    )


def _percentage(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.1f}"
