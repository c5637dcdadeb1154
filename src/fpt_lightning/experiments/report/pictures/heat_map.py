"""Every run of the grids of a task: a square a learning rate and seed, the arms below each other."""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import ClassVar

from fpt_lightning.experiments.arms import Task
from fpt_lightning.experiments.cells import Run
from fpt_lightning.experiments.report.pictures.svg import LEFT, NUMBER, RIGHT, sentence
from fpt_lightning.experiments.report.results import Entry, Results
from fpt_lightning.experiments.report.units import UNITS, Unit, rate
from fpt_lightning.runs.outcome import Outcome, State

SQUARE, PITCH = 16, 18
"""Height of a square, and from one to the next."""
NAME, GAP, SCALE = 20, 8, 22
"""Room above the squares of an arm for its name, below them, and of the scale at the top."""
BROADEST = 60
"""Of a column."""
PALEST = 0.08
"""Opacity of the lowest value: it is a square still."""

ON_THE_WAY = (State.RUNNING, State.PAUSED, State.STOPPED)


@dataclass(frozen=True)
class Square:
    """A run.

    Attributes:
        x: Left edge.
        y: Upper edge.
        opacity: Its best validation so far, from :data:`PALEST` to 1; None where it has none.
        state: ``finished``, ``way`` of one that is on its way, or ``diverged``, ``failed``, ``missing``.
        tooltip: In words.
    """

    x: float
    y: float
    opacity: float | None
    state: str
    tooltip: str


@dataclass(frozen=True)
class Block:
    """The runs of an arm.

    Attributes:
        name: Of the arm.
        y: Upper edge of its squares.
        height: Of all of them.
        seeds: What stands beside the rows.
        squares: Those of runs that are asked for or there.
        chosen: Left edge of the column that was chosen.
        told: In words.
    """

    name: str
    y: int
    height: int
    seeds: Sequence[str]
    squares: Sequence[Square]
    chosen: float | None
    told: str


@dataclass(frozen=True)
class HeatMap:
    """Blocks over one axis of learning rates: (left edge, what is written below, empty where there is no room)."""

    title: str
    rates: Sequence[tuple[float, str]]
    blocks: Sequence[Block]
    scale: tuple[str, str]
    width: float
    kind: ClassVar[str] = "squares"
    square: ClassVar[int] = SQUARE
    pitch: ClassVar[int] = PITCH

    @property
    def height(self) -> int:
        last = self.blocks[-1]
        return last.y + last.height

    @property
    def words(self) -> str:
        """What is drawn, for who cannot see it: the range of every arm, its choice, and how its runs stand."""
        return sentence(self.title, [f"{block.name} {block.told}" for block in self.blocks])


def heat_map(results: Results, task: Task) -> HeatMap | None:
    """The grids of a task; None where no arm has one, or no run has a number."""
    entries = [entry for entry in results.entries_of(task) if len(entry.cell.rates) > 1]
    unit, worth = UNITS[task.metric], dict[str, float]()
    for entry in entries:
        for run in entry.cell.runs.values():
            value = _best_so_far(results, run, results.outcomes[run.id], task)
            if value is not None and isfinite(value):
                worth[run.id] = max(unit.lowest, unit.factor * value)
    if not worth:
        return None
    high = max(worth.values())
    low = min(*worth.values(), high - unit.least_height)
    opacities = {run: PALEST + (1 - PALEST) * (value - low) / (high - low) for run, value in worth.items()}
    rates = sorted({lr for entry in entries for lr in entry.cell.rates})
    column = min(BROADEST, (RIGHT - LEFT) / len(rates))
    places = {lr: round(LEFT + number * column, 1) for number, lr in enumerate(rates)}
    blocks, y = list[Block](), SCALE
    for entry in entries:
        blocks.append(_block(results, entry, places, y + NAME, worth, opacities))
        y = blocks[-1].y + blocks[-1].height + GAP
    every = -(-NUMBER // column)
    written = [(place, rate(lr) if number % every == 0 else "") for number, (lr, place) in enumerate(places.items())]
    title = f"{unit.title} of every learning rate and seed on {task.title}"
    return HeatMap(title, written, blocks, (unit.write(low), unit.write(high)), round(column - PITCH + SQUARE, 1))


def _best_so_far(results: Results, run: Run, outcome: Outcome, task: Task) -> float | None:
    """The best validation of a run that finished or is on its way; others have no part in a choice."""
    if outcome.state is State.FINISHED:
        return outcome.result.validation if outcome.result else None
    if outcome.state not in ON_THE_WAY:
        return None
    course = outcome.validations or results.grid.records.curve(run.folder.name, task.metric).validation
    return max((value for _, value in course), default=None)


def _block(
    results: Results,
    entry: Entry,
    places: Mapping[float, float],
    y: int,
    worth: Mapping[str, float],
    opacities: Mapping[str, float],
) -> Block:
    cell, unit = entry.cell, UNITS[entry.task.metric]
    due = {run.id for run in cell.due(results.outcomes)}
    squares, states = list[Square](), Counter[State]()
    for (lr, seed), run in cell.runs.items():
        outcome = results.outcomes[run.id]
        if outcome.state is State.MISSING and run.id not in due:
            continue
        states[outcome.state] += 1
        value = f"validation {unit.write(worth[run.id])}, " if run.id in worth else ""
        told = f"{entry.arm}, lr {rate(lr)}, seed {seed}: {value}{outcome.state}"
        state = "way" if outcome.state in ON_THE_WAY else str(outcome.state)
        row = y + PITCH * cell.seeds.index(seed)
        squares.append(Square(places[lr], row, _rounded(opacities.get(run.id)), state, told))
    values = [worth[run.id] for run in cell.runs.values() if run.id in worth]
    chosen = None if entry.lr is None else places[entry.lr]
    told = _told(entry, values, states, unit)
    return Block(entry.arm, y, PITCH * len(cell.seeds), [_short(seed) for seed in cell.seeds], squares, chosen, told)


def _rounded(opacity: float | None) -> float | None:
    return None if opacity is None else round(opacity, 3)


def _told(entry: Entry, values: Collection[float], states: Mapping[State, int], unit: Unit) -> str:
    ranges = [f"from {unit.write(min(values))} to {unit.write(max(values))}"] if values else []
    chosen = [f"chosen {rate(entry.lr)}"] if entry.lr is not None else []
    return ", ".join(ranges + chosen + [f"{states[state]} {state}" for state in State if state in states])


def _short(seed: int) -> str:
    """A seed in the room beside a row."""
    return str(seed) if seed < 10_000 else f"\N{HORIZONTAL ELLIPSIS}{seed % 100:02}"
