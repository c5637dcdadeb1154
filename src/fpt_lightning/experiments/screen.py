"""How a sweep stands, on the screen: a live table in a terminal, a line a run in a file."""

import csv
import time
from collections import Counter
from datetime import timedelta
from itertools import groupby
from statistics import fmean
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table as Box
from rich.text import Text

from fpt_lightning.errors import printable
from fpt_lightning.experiments.cells import Cell, Run
from fpt_lightning.experiments.grid import Grid
from fpt_lightning.runs.outcome import Outcome, State

STYLES = {State.FAILED: "red", State.DIVERGED: "magenta", State.RUNNING: "yellow", State.FINISHED: "green"}


class Screen:
    """The view of a sweep, which makes ``slots`` runs at a time, None where nobody knows; used with ``with``."""

    def __init__(self, grid: Grid, slots: int | None, console: Console | None = None) -> None:
        self.grid = grid
        self.slots = slots
        self.console = console or Console(highlight=False)
        self._runs = {run.id: run for run in grid.all_runs()}
        self._live = Live(console=self.console, auto_refresh=False, transient=True)
        self._seconds: dict[str, float | None] = {}  # of the runs that were trained; None of an older version's
        self._begun = time.monotonic()

    def __enter__(self) -> "Screen":
        if self.console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._live.stop()

    def show(self, outcomes: dict[str, Outcome], running: list[str]) -> None:
        """Draws the table anew, in a terminal."""
        if self.console.is_terminal:
            self._live.update(Group(overview(self.grid, outcomes), self._below(outcomes, running)), refresh=True)

    def ended(self, run: Run, outcome: Outcome) -> None:
        """Prints a line: what a run measured, or why it failed."""
        what = f"{run.folder.name}  {describe(run)}"
        if outcome.state is State.DIVERGED:
            said = plain(f"{what}  {outcome.cause}", style=STYLES[State.DIVERGED])
        elif outcome.state is State.PAUSED:
            best = outcome.best_by(outcome.paused_at or 0)
            figure = "" if best is None else f", validation {best:.4f}"
            said = plain(f"{what}  pauses at step {outcome.paused_at:,}{figure}")
        elif outcome.state is not State.FINISHED or outcome.result is None:
            said = plain(f"{what}  failed: {outcome.cause}", style="red")
        elif run.id in self._seconds:
            said = plain(f"{what}  tested")
        else:
            took = self._seconds[run.id] = outcome.result.wall_seconds
            seconds = "" if took is None else f", {took:.0f} s"
            said = plain(f"{what}  validation {outcome.result.validation:.4f}{seconds}")
        self.console.print(said, soft_wrap=True)

    def _below(self, outcomes: dict[str, Outcome], running: list[str]) -> Text:
        lines = [f"  {describe(run)}{_step(run)}" for name in running if (run := self._runs.get(name))]
        done = sum(run.is_done(outcomes[run.id]) for run in self.grid.due(outcomes))
        total = self.grid.size(outcomes)
        lines.append(f"{done} of {total} runs{self._left(total - done)}")
        return Text("\n").join(map(plain, lines))

    def _left(self, runs: int) -> str:
        seconds = [own for own in self._seconds.values() if own is not None]
        if not seconds or runs <= 0:
            return ""
        parallel = self.slots or max(1.0, sum(seconds) / (time.monotonic() - self._begun))
        left = timedelta(seconds=round(runs * fmean(seconds) / parallel))
        return f", about {left} left"


def overview(grid: Grid, outcomes: dict[str, Outcome]) -> Box:
    """Arms against tasks: finished runs of all, and those that failed, pause or run."""
    about = f"{grid.table.name} ({grid.profile.name}, {grid.protocol.name}): {grid.table.title}"
    box = Box(title=plain(about))
    box.add_column("")
    for task in dict.fromkeys(cell.task for cell in grid.cells):
        box.add_column(plain(grid.experiments.tasks[task].title), justify="right")
    for name, cells in groupby(grid.cells, lambda cell: cell.arm.name):
        box.add_row(plain(name), *(_stand(cell, outcomes) for cell in cells))
    return box


def plain(text: str, style: str = "") -> Text:
    """Text of a file or of a user: it is shown as it stands, be it markup or a terminal's commands."""
    return Text(printable(text).replace("\n", "\\n"), style=style)


def describe(run: Run) -> str:
    """A run in a few words."""
    return f"{run.task}, {run.arm}, lr {run.lr:g}, seed {run.seed}" if run.lr is not None else "backbone for others"


def _stand(cell: Cell, outcomes: dict[str, Outcome]) -> Text:
    if cell.missing is not None:
        return Text("left out", style="dim")
    due = cell.due(outcomes)
    states = Counter(outcomes[run.id].state for run in due)
    done = sum(run.is_done(outcomes[run.id]) for run in due)
    size = cell.size(outcomes)
    text = Text(f"{done}/{size}")
    if done == size:
        text.stylize(STYLES[State.FINISHED])
    for state in (State.RUNNING, State.PAUSED, State.DIVERGED, State.FAILED):
        if states[state]:
            text.append(f" {states[state]} {state}", style=STYLES.get(state, ""))
    return text


def _step(run: Run) -> str:
    """How far a run is, of its own ``metrics.csv``."""
    try:
        with (run.folder / "metrics.csv").open(newline="") as file:
            rows: list[dict[str, Any]] = list(csv.DictReader(file))
        step = int(rows[-1]["step"]) + 1
    except (OSError, IndexError, KeyError, ValueError):  # not written yet, or this very moment
        return ""
    return f", step {step:,}" + (f" of {run.steps:,}" if run.steps else "")
