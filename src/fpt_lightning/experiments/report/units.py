"""How figures are written: percentages, R², counts, learning rates."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from fpt_lightning.experiments.report.statistics import SIGNIFICANT, standard_error

NONE, MINUS = "\N{EN DASH}", "\N{MINUS SIGN}"
SIGNS = {"better": "\N{BLACK UP-POINTING TRIANGLE}", "worse": "\N{BLACK DOWN-POINTING TRIANGLE}"}
"""What stands before a figure that is better or worse than the baseline's by more than chance."""


@dataclass(frozen=True)
class Unit:
    """What a figure is counted in.

    Attributes:
        name: In a sentence.
        title: At its start.
        axis: Along the axis of a chart.
        factor: What a value of ``result.json`` or ``metrics.csv`` is multiplied by.
        digits: Digits behind the point.
        difference: What a difference is counted in.
        least_height: What a chart shows of it at least, so that small differences look small.
        lowest: What is less a chart draws at its edge.
    """

    name: str
    title: str
    axis: str
    factor: float
    digits: int
    difference: str
    least_height: float = 0.0
    lowest: float = -math.inf

    def write(self, value: float) -> str:
        """A figure, with thousands apart; one too small to be seen has no sign."""
        size = f"{abs(value):,.{self.digits}f}"
        return MINUS * (value < 0 and _is_seen(size)) + size

    def write_mean(self, values: Sequence[float]) -> str:
        """Mean ± standard error; the mean alone of a single value."""
        mean, error = self.write(fmean(values)), standard_error(values)
        return mean if error is None else f"{mean} ± {self._write_error(error)}"

    def _write_error(self, error: float) -> str:
        """With another digit where it would be none without."""
        least = 10.0**-self.digits / 2
        if not 0 < error < least:
            return self.write(error)
        return f"{error:.{self.digits + 1}f}" if error >= least / 10 else f"< {least / 5:.{self.digits + 1}f}"

    def write_signed(self, value: float) -> str:
        written = self.write(value)
        return "+" * (value > 0 and _is_seen(written)) + written


COUNT = Unit("count", "Count", "count", 1, 0, "steps")
UNITS = {
    "accuracy": Unit("accuracy", "Accuracy", "accuracy, %", 100, 1, "points", 5),
    "r2": Unit("R²", "R²", "R²", 1, 3, "R²", 0.05, -1),
}
"""By the metric of a task."""


def rate(lr: float) -> str:
    """A learning rate as the papers write it: 3e-4."""
    mantissa, exponent = f"{lr:e}".split("e")
    return f"{float(mantissa):g}e{int(exponent)}"


def _is_seen(number: str) -> bool:
    return any(digit in number for digit in "123456789")


def short(count: float) -> str:
    """A count in thousands, millions or billions."""
    for factor, name in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(count) >= factor * 0.9995:
            return f"{count / factor:.3g}{name}"
    return f"{count:.3g}"


def percent(share: float) -> str:
    """A share of something."""
    return f"{100 * share:.3g} %"


def p_value(p: float) -> str:
    """A p-value as it follows the letter."""
    digits = 2 + sum(abs(p - SIGNIFICANT) < near for near in (5e-3, 5e-4))
    return "< 0.001" if p < 0.001 else f"= {p:.{digits}g}"
