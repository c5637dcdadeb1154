"""What ``metrics.csv`` says of the course of a run."""

import csv
import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean

CONVERGED = 0.01
"""How near the best validation a run has converged, as a share of the way from chance to that best."""


@dataclass(frozen=True)
class Curve:
    """Accuracies of a run, 0 to 1.

    Attributes:
        validation: (gradient steps done, validation accuracy).
        training: (gradient steps done, accuracy of a training batch).
        problem: Why there is nothing, where the file cannot be read.
    """

    validation: list[tuple[int, float]] = field(default_factory=list)
    training: list[tuple[int, float]] = field(default_factory=list)
    problem: str | None = None

    def train_accuracy(self) -> float | None:
        """Training accuracy at the end of the run: the mean over the last fifth of the logged batches."""
        last = self.training[-math.ceil(len(self.training) / 5) :]
        return fmean(accuracy for _, accuracy in last) if last else None

    def steps_to_convergence(self, chance: float) -> int | None:
        """Gradient steps to convergence, measured on validation.

        The steps of the first validation that lacks at most 1 % (:data:`CONVERGED`) of the way from chance to the best
        validation of the run. The paper (section 3.4) does not say what it took for convergence.

        Args:
            chance: Accuracy of guessing, 0 to 1.

        Returns:
            The steps; None where no validation was better than chance.
        """
        best = max((accuracy for _, accuracy in self.validation), default=chance)
        if best <= chance:
            return None
        enough = best - CONVERGED * (best - chance)
        return next(steps for steps, accuracy in self.validation if accuracy >= enough)

    @property
    def still_rising(self) -> bool:
        """Whether the last validation is the best one so far."""
        accuracies = [accuracy for _, accuracy in self.validation]
        return len(accuracies) > 1 and accuracies[-1] > max(accuracies[:-1])


def read_curve(metrics: Path) -> Curve:
    """Reads a ``metrics.csv``."""
    try:
        with metrics.open(newline="") as file:
            rows = csv.reader(file)
            header = next(rows, [])
            if "step" not in header:
                return Curve(problem=f"{metrics} has no column 'step'")
            return _curve(rows, header)
    except (OSError, UnicodeDecodeError, csv.Error, ValueError) as error:
        cause = error.strerror if isinstance(error, OSError) else error
        return Curve(problem=f"{metrics} cannot be read: {cause}")


def _curve(rows: Iterable[list[str]], header: list[str]) -> Curve:
    curve = Curve()
    step = header.index("step")
    columns = [
        (header.index(name), points)
        for name, points in (("val_accuracy", curve.validation), ("train_accuracy", curve.training))
        if name in header
    ]
    for row in rows:
        for column, points in columns:
            if column < len(row) and row[column]:
                accuracy = float(row[column])
                if math.isfinite(accuracy):
                    points.append((int(row[step]) + 1, accuracy))  # the log counts steps from 0
    return curve
