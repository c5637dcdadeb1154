"""Shares of a whole as bars: where the variance of a figure comes from."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from fpt_lightning.experiments.report.pictures.svg import LEFT, RIGHT, Axis, sentence
from fpt_lightning.experiments.report.units import UNITS, p_value
from fpt_lightning.experiments.report.variance import REST, Split


@dataclass(frozen=True)
class Bar:
    """A share.

    Attributes:
        name: Of what has it.
        share: In percent.
        told: What stands below the name.
        rest: Whether it is what is left over.
    """

    name: str
    share: float
    told: str
    rest: bool


@dataclass(frozen=True)
class Bars:
    """A bar for every share of a whole."""

    title: str
    x: Axis
    rows: Sequence[Bar]
    kind: ClassVar[str] = "bars"
    row_height: ClassVar[int] = 54

    @property
    def height(self) -> int:
        return self.row_height * len(self.rows)

    @property
    def words(self) -> str:
        """What is drawn, for who cannot see it: every share with what stands above its bar."""
        return sentence(self.title, [f"{row.name} {row.told}" for row in self.rows])


def shares(split: Split) -> Bars | None:
    """The split of a task; None where there is none."""
    if not split.components:
        return None
    unit = UNITS[split.task.metric]
    rows = []
    for one in split.components:
        share, deviation = 100 * split.share(one), f"{math.sqrt(one.variance):.{unit.digits + 1}f} {unit.difference}"
        told = [f"{share:.0f} %", deviation, *([] if one.p is None else [f"p {p_value(one.p)}"])]
        rows.append(Bar(one.name, share, ", ".join(told), one.name == REST))
    x = Axis("share of the variance, %", 0, 100, LEFT, RIGHT, False, "{:g}".format)
    return Bars(f"Variance of test {unit.name} on {split.task.title}", x, rows)
