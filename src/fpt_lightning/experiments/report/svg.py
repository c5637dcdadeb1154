"""Small charts as SVG that take their colours from the page, so that they follow light and dark."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

WIDTH, HEIGHT = 360, 232
LEFT, RIGHT, TOP, BOTTOM = 44, 12, 10, 38
STYLES = 8
"""Colours and dashes of report.css: series with further numbers begin again."""


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
    """The points of an arm.

    Attributes:
        style: Number of its colour.
        points: In order of x.
        line: Whether they are joined.
        band: Whether errors are a band around the line rather than bars.
        markers: Whether each point is marked.
    """

    style: int
    points: Sequence[Point]
    line: bool = True
    band: bool = False
    markers: bool = False


@dataclass(frozen=True)
class Axis:
    """One axis: its range, what it says, and how numbers are written on it."""

    label: str
    low: float
    high: float
    log: bool
    written: Callable[[float], str]

    def share(self, value: float) -> float:
        """How far along the axis a value lies, 0 to 1."""
        low, high, value = (math.log10(end) if self.log else end for end in (self.low, self.high, value))
        return (value - low) / (high - low)

    def ticks(self) -> list[float]:
        """Round values within the range: about five."""
        if not self.log:
            rough = (self.high - self.low) / 5
            unit = 10 ** math.floor(math.log10(rough))
            step = next(unit * factor for factor in (1, 2, 2.5, 5, 10) if unit * factor >= rough * 0.999)
            first = math.ceil(self.low / step - 1e-9)
            return [index * step for index in range(first, math.floor(self.high / step + 1e-9) + 1)]
        decades = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
        candidates: list[float] = []
        for factors in ((1,), (1, 3), (1, 2, 5), (1, 1.5, 2, 3, 4, 5, 7)):
            candidates = [factor * 10.0**decade for decade in decades for factor in factors]
            candidates = [value for value in candidates if self.low * 0.999 <= value <= self.high * 1.001]
            if len(candidates) >= 3:
                break
        every = math.ceil(len(candidates) / 6)
        return candidates[::every]


def span(
    label: str,
    values: Sequence[float],
    log: bool = False,
    written: Callable[[float], str] = "{:g}".format,
    least_room: float = 0.5,
) -> Axis:
    """An axis with a little room on both sides of the values, at least so much on a linear one."""
    low, high = min(values), max(values)
    if log:
        room = max((high / low) ** 0.06, 1.15)
        low, high = low / room, high * room
    else:
        room = max((high - low) * 0.06, least_room)
        low, high = low - room, high + room
    return Axis(label, low, high, log, written)


def chart(title: str, x: Axis, y: Axis, series: Sequence[Series], level: tuple[float, str] | None = None) -> Markup:
    """Draws series over two axes.

    Args:
        title: For those who hear the page.
        x: The horizontal axis.
        y: The vertical axis.
        series: What is drawn.
        level: A dashed horizontal line and its name.
    """
    lines = [_grid(x, y)]
    if level is not None and y.low <= level[0] <= y.high:
        height = _place_y(y, level[0])
        right = WIDTH - RIGHT
        lines += [
            f'<line class="level" x1="{LEFT}" x2="{right}" y1="{height}" y2="{height}"/>',
            f'<text class="level-name" x="{right - 2}" y="{height - 4}" text-anchor="end">{escape(level[1])}</text>',
        ]
    lines += [_drawn(arm, x, y) for arm in series]
    return _svg(title, HEIGHT, lines)


def dots(title: str, x: Axis, rows: Sequence[tuple[str, int, Sequence[Point], float]]) -> Markup:
    """Draws a row of dots for every arm, and a bar at their mean: (name, style, points, mean)."""
    height = TOP + 34 * len(rows) + BOTTOM
    bottom = height - BOTTOM
    lines = [_vertical_grid(x, bottom)]
    for index, (name, style, points, mean) in enumerate(rows):
        middle = TOP + 34 * index + 22
        lines.append(f'<text class="row-name" x="{LEFT}" y="{middle - 10}">{escape(name)}</text>')
        lines.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{middle}" y2="{middle}"/>')
        marks = [_mark(style, _place_x(x, point.x), middle, point) for point in points]
        at = _place_x(x, mean)
        bar = f'<line class="mean" x1="{at}" x2="{at}" y1="{middle - 7}" y2="{middle + 7}"/>'
        lines.append(f'<g class="s{style % STYLES}">{"".join(marks)}{bar}</g>')
    return _svg(title, height, lines)


def swatch(style: int) -> Markup:
    """The line and marker of a series, for the legend."""
    return Markup(
        f'<svg class="swatch" viewBox="0 0 30 12" aria-hidden="true"><g class="s{style % STYLES}">'
        f'<path class="line" d="M1 6H29"/>{_mark(style, 15, 6)}</g></svg>'
    )


def _svg(title: str, height: float, lines: Sequence[str]) -> Markup:
    name = escape(title)
    return Markup(
        f'<svg class="chart" viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{name}">{"".join(lines)}</svg>'
    )


def _grid(x: Axis, y: Axis) -> str:
    bottom = HEIGHT - BOTTOM
    lines = [_vertical_grid(x, bottom)]
    for value in y.ticks():
        at = _place_y(y, value)
        lines.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{at}" y2="{at}"/>')
        lines.append(f'<text x="{LEFT - 6}" y="{at + 3.5}" text-anchor="end">{escape(y.written(value))}</text>')
    middle = (TOP + bottom) / 2
    turned = f'transform="translate(11 {middle}) rotate(-90)" text-anchor="middle"'
    lines.append(f'<text class="axis" {turned}>{escape(y.label)}</text>')
    return "".join(lines)


def _vertical_grid(x: Axis, bottom: float) -> str:
    lines = []
    for value in x.ticks():
        at = _place_x(x, value)
        lines.append(f'<line class="grid" x1="{at}" x2="{at}" y1="{TOP}" y2="{bottom}"/>')
        lines.append(f'<text x="{at}" y="{bottom + 14}" text-anchor="middle">{escape(x.written(value))}</text>')
    middle = (LEFT + WIDTH - RIGHT) / 2
    lines.append(f'<line class="ground" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{bottom}" y2="{bottom}"/>')
    lines.append(f'<text class="axis" x="{middle}" y="{bottom + 31}" text-anchor="middle">{escape(x.label)}</text>')
    return "".join(lines)


def _drawn(series: Series, x: Axis, y: Axis) -> str:
    places = [(_place_x(x, point.x), _place_y(y, point.y), point) for point in series.points]
    lines = []
    if series.band and any(point.error for point in series.points):
        edges = [
            [f"{at} {_place_y(y, point.y + sign * (point.error or 0))}" for at, _, point in places] for sign in (1, -1)
        ]
        lines.append(f'<path class="band" d="M{"L".join(edges[0] + edges[1][::-1])}Z"/>')
    if series.line and len(places) > 1:
        lines.append(f'<path class="line" d="M{"L".join(f"{at} {height}" for at, height, _ in places)}"/>')
    for at, height, point in places:
        if point.error and not series.band:
            ends = [_place_y(y, point.y + sign * point.error) for sign in (1, -1)]
            lines.append(f'<line class="error" x1="{at}" x2="{at}" y1="{ends[0]}" y2="{ends[1]}"/>')
        if series.markers:
            lines.append(_mark(series.style, at, height, point))
    return f'<g class="s{series.style % STYLES}">{"".join(lines)}</g>'


def _mark(style: int, x: float, y: float, point: Point | None = None) -> str:
    """Circle, square, triangle or diamond."""
    size = 4.0
    shapes = (
        f'<circle class="dot" cx="{x}" cy="{y}" r="{size}"',
        f'<rect class="dot" x="{x - 3.6:.1f}" y="{y - 3.6:.1f}" width="7.2" height="7.2"',
        f'<path class="dot" d="M{x} {y - 5:.1f}l4.6 8.2h-9.2z"',
        f'<path class="dot" d="M{x} {y - 5.2:.1f}l5.2 5.2l-5.2 5.2l-5.2 -5.2z"',
    )
    title = f"><title>{escape(point.tooltip)}</title></" if point and point.tooltip else "></"
    shape = shapes[style % len(shapes)]
    tag = shape[1 : shape.index(" ")]
    ring = f'<circle class="ring" cx="{x}" cy="{y}" r="8.5"/>' if point and point.chosen else ""
    return f"{ring}{shape}{title}{tag}>"


def _place_x(x: Axis, value: float) -> float:
    return round(LEFT + x.share(value) * (WIDTH - LEFT - RIGHT), 1)


def _place_y(y: Axis, value: float) -> float:
    share = min(1.0, max(0.0, y.share(value)))  # bands may leave the picture
    return round(HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM), 1)
