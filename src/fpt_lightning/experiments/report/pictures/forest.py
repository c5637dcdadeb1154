"""How far arms lie from the baseline, or from each other, with intervals: the forest plot of a table."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from fpt_lightning.experiments.report.pictures.svg import Axis, sentence, x_axis
from fpt_lightning.experiments.report.reading import compared
from fpt_lightning.experiments.report.results import Column, Results
from fpt_lightning.experiments.report.units import MINUS, short

WIDEST = 4
"""How many times the room of all differences their intervals may take: beyond, they end in an arrow."""

BESIDE = 26
"""Letters of a name that fit beside the difference as it is written, in the largest of them."""


@dataclass(frozen=True)
class Effect:
    """An arm's difference to the baseline, or to another.

    Attributes:
        arm: Its name.
        other: That of the other in a contrast; empty beside the baseline.
        style: Number of the arm's marker.
        difference: In the unit of the axis.
        interval: Where the difference lies; None where there is nothing to estimate it from.
        written: The difference as it is written.
        verdict: ``better``, ``worse``, or empty.
        tooltip: All that the test found.
    """

    arm: str
    other: str
    style: int
    difference: float
    interval: tuple[float, float] | None
    written: str
    verdict: str
    tooltip: str

    @property
    def name(self) -> str:
        return f"{self.arm} {MINUS} {self.other}" if self.other else self.arm

    @property
    def lines(self) -> Sequence[str]:
        """The name above the mark, the last line of it beside the difference."""
        if len(self.name) <= BESIDE:
            return [self.name]
        return [self.arm, f"{MINUS} {self.other}" if self.other else ""]


@dataclass(frozen=True)
class Effects:
    """A row for every arm over one axis, on which zero is the baseline; behind them the contrasts."""

    title: str
    x: Axis
    rows: Sequence[Effect]
    kind: ClassVar[str] = "effects"

    @property
    def row_height(self) -> int:
        return 28 + 16 * max(len(row.lines) for row in self.rows)

    @property
    def height(self) -> int:
        return self.row_height * len(self.rows)

    @property
    def words(self) -> str:
        """What is drawn, for who cannot see it: every difference and how sure it is."""
        return sentence(self.title, [f"{row.name} {row.tooltip}" for row in self.rows])

    def beyond(self, row: Effect) -> tuple[bool, bool]:
        """Whether a row's interval goes on beyond the left edge, and beyond the right one."""
        low, high = row.interval or (row.difference, row.difference)
        return low < self.x.low, high > self.x.high


def effects(results: Results, column: Column) -> Effects | None:
    """The differences of a column; None where no arm has one."""
    contrasts = results.contrasts(column)
    pairs = [(arm, results.baseline) for arm in results.arms] + contrasts
    rows = [row for arm, other in pairs if (row := _effect(results, column, arm, other)) is not None]
    if not rows:
        return None
    to = "" if contrasts else f" to {results.baseline}"
    label = f"difference{to}, {column.unit.difference}"
    numbers = short if column.fewer_is_better else "{:g}".format
    x = x_axis(label, _shown(rows, column), False, numbers, column.unit.least_height / 10 or 0.5)
    return Effects(f"Differences on {column.heading}", x, rows)


def _effect(results: Results, column: Column, arm: str, other: str) -> Effect | None:
    comparison = results.comparison(arm, column, other)
    if comparison is None or comparison.difference is None:
        return None
    return Effect(
        arm=arm,
        other="" if other == results.baseline else other,
        style=results.arms.index(arm),
        difference=comparison.difference,
        interval=comparison.interval,
        written=column.unit.write_signed(comparison.difference),
        verdict=results.verdict(arm, column, other),
        tooltip=compared(comparison, column.unit, other),
    )


def _shown(rows: Sequence[Effect], column: Column) -> list[float]:
    """What the axis holds: zero, the differences, and their intervals as far as that leaves the differences apart."""
    differences = [0.0, *(row.difference for row in rows)]
    low, high = min(differences), max(differences)
    room = max(high - low, column.unit.least_height) * (WIDEST - 1) / 2
    ends = [end for row in rows for end in row.interval or ()]
    return [*differences, *(min(max(end, low - room), high + room) for end in ends)]
