"""Small charts, laid out for ``templates/svg.html``, which draws them in the page's colours, light and dark."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

from fpt_lightning.experiments.report.units import MINUS

LEFT, RIGHT, TOP, BOTTOM, WIDTH = 46, 348, 28, 208, 360
"""Edges of the drawn area, and of all."""

LETTER, NUMBER = 9.6, 44
"""Room of a letter and of a number along an axis, in the largest letters."""

ROW, MARK, SPREAD = 50, 9, 18
"""Of rows of dots: the height of one, the room of a mark, and how high equal ones are stacked."""


@dataclass(frozen=True)
class Point:
    """A value with its error bar; the chosen one has a ring."""

    x: float
    y: float
    error: float | None = None
    tooltip: str = ""
    chosen: bool = False


@dataclass(frozen=True)
class Series:
    """The points of an arm, joined in order of x.

    Attributes:
        name: Of the arm.
        style: Number of its colour.
        points: What is drawn.
        band: Whether errors are a band around the line; otherwise they are bars, and each point is marked.
    """

    name: str
    style: int
    points: Sequence[Point]
    band: bool = False


@dataclass(frozen=True)
class Axis:
    """One axis: what it says, its range and where that begins and ends, and how numbers are written on it."""

    label: str
    low: float
    high: float
    start: int
    end: int
    log: bool
    written: Callable[[float], str]

    def place(self, value: float) -> float:
        """Where a value lies; one out of range at the edge."""
        low, high, value = (math.log10(end) if self.log else end for end in (self.low, self.high, value))
        share = min(1.0, max(0.0, (value - low) / (high - low)))
        return round(self.start + share * (self.end - self.start), 1)

    def number(self, value: float) -> str:
        """What is written at a value."""
        return MINUS * (value < 0) + self.written(abs(value))

    def number_at(self, value: float) -> float:
        """Where the middle of its number lies: at the value, or as far from the edge of all as the number needs."""
        return min(self.place(value), round(WIDTH - LETTER * len(self.number(value)) / 2, 1))

    def ticks(self) -> list[float]:
        """Round values within the range: about five."""
        if self.log:
            decades = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
            candidates: list[float] = []
            for factors in ((1,), (1, 3), (1, 2, 5), (1, 1.5, 2, 3, 4, 5, 7)):
                candidates = [factor * 10.0**decade for decade in decades for factor in factors]
                candidates = [value for value in candidates if self.low * 0.999 <= value <= self.high * 1.001]
                if len(candidates) >= 3:
                    break
            if candidates:  # none lies between 1,100 and 1,400
                return self._apart(candidates)
        rough = (self.high - self.low) / 5
        unit = 10 ** math.floor(math.log10(rough))
        step = next(unit * factor for factor in (1, 2, 2.5, 5, 10) if unit * factor >= rough * 0.999)
        first = math.ceil(self.low / step - 1e-9)
        return [index * step for index in range(first, math.floor(self.high / step + 1e-9) + 1)]

    def _apart(self, values: Sequence[float]) -> list[float]:
        """Those whose numbers do not run into each other."""
        kept = [values[0]]
        kept.extend(value for value in values[1:] if self.place(value) - self.place(kept[-1]) >= NUMBER)
        return kept


@dataclass(frozen=True)
class Level:
    """A dashed line, with its name: what is worth nothing."""

    name: str
    height: float


@dataclass(frozen=True)
class Chart:
    """Arms over two axes, and the level of what needs no backbone."""

    title: str
    x: Axis
    y: Axis
    arms: Sequence[Series]
    level: Level
    kind: ClassVar[str] = "chart"

    @property
    def height(self) -> int:
        return self.y.start - self.y.end

    @property
    def styles(self) -> list[int]:
        """Of the arms that there is something to draw of."""
        return [arm.style for arm in self.arms]

    @property
    def words(self) -> str:
        """What is drawn, for who cannot see it: every arm from its first point to its last."""
        return sentence(self.title, [f"{arm.name} {self._course(arm.points)}" for arm in self.arms])

    def _course(self, points: Sequence[Point]) -> str:
        ends = [f"{point.y:.4g} at {self.x.written(point.x)}" for point in (points[0], points[-1])]
        chosen = [f", chosen {self.x.written(point.x)} with {point.y:.4g}" for point in points if point.chosen]
        return (ends[0] if len(points) == 1 else " to ".join(ends)) + "".join(chosen)


@dataclass(frozen=True)
class Dots:
    """A row of dots for every arm, and a bar at their mean: (name, style, points, mean)."""

    title: str
    x: Axis
    rows: Sequence[tuple[str, int, Sequence[Point], float]]
    kind: ClassVar[str] = "dots"
    row_height: ClassVar[int] = ROW

    @property
    def height(self) -> int:
        return self.row_height * len(self.rows)

    @property
    def styles(self) -> list[int]:
        """As of a :class:`Chart`."""
        return [style for _, style, _, _ in self.rows]

    @property
    def words(self) -> str:
        """What is drawn, for who cannot see it: the mean and the number of dots of every arm."""
        told = [f"{name} {mean:,.0f} in the mean of {len(points)}" for name, _, points, mean in self.rows]
        return sentence(self.title, told)

    def marks(self, points: Sequence[Point]) -> list[tuple[float, float, Point]]:
        """Where every dot lies, and how far above or below its row: those that would cover each other are stacked."""
        piles: list[list[Point]] = []
        for point in sorted(points, key=lambda point: point.x):
            if piles and self.x.place(point.x) - self.x.place(piles[-1][-1].x) < MARK:
                piles[-1].append(point)
            else:
                piles.append([point])
        return [
            (
                self.x.place(point.x),
                round((place - (len(pile) - 1) / 2) * min(MARK, SPREAD / max(1, len(pile) - 1)), 1),
                point,
            )
            for pile in piles
            for place, point in enumerate(pile)
        ]


def sentence(title: str, told: Sequence[str]) -> str:
    """What a picture shows, in words."""
    return f"{title}: {'; '.join(told)}."


def x_axis(
    label: str, values: Sequence[float], log: bool, written: Callable[[float], str], least_room: float = 0.5
) -> Axis:
    """From left to right, with a little room on both sides of the values."""
    low, high = min(values), max(values)
    room = max((high / low) ** 0.06, 1.15) if log else max((high - low) * 0.06, least_room)
    ends = (low / room, high * room) if log else (low - room, high + room)
    return Axis(label, *ends, LEFT, RIGHT, log, written)


def y_axis(label: str, values: Sequence[float], least_room: float) -> Axis:
    """From the bottom up, likewise."""
    low, high = min(values), max(values)
    room = max((high - low) * 0.06, least_room)
    return Axis(label, low - room, high + room, BOTTOM, TOP, False, "{:g}".format)
