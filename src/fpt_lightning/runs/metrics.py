"""What ``metrics.csv`` says of the course of a run."""

import csv
import hashlib
import io
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean

from fpt_lightning.errors import FPTError

CONVERGED = 0.01
"""How near the best validation a run has converged, as a share of the way from chance to that best."""


@dataclass(frozen=True)
class Curve:
    """What judges a run, along its course: accuracies, 0 to 1, or the R2 of a regression.

    Attributes:
        validation: (gradient steps done, metric on validation).
        training: (gradient steps done, metric on a training batch); nothing of a regression, which logs none.
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
            chance: The metric of guessing: accuracy, 0 to 1, or an R2 of 0.

        Returns:
            The steps; None where no validation was better than chance.
        """
        best = max((value for _, value in self.validation), default=chance)
        if best <= chance:
            return None
        enough = best - CONVERGED * (best - chance)
        return next(steps for steps, value in self.validation if value >= enough)

    @property
    def still_rising(self) -> bool:
        """Whether the last validation is the best one so far."""
        values = [value for _, value in self.validation]
        return len(values) > 1 and values[-1] > max(values[:-1])


def read_curve(metrics: Path, metric: str = "accuracy") -> Curve:
    """Reads the course of one figure out of a ``metrics.csv``: ``accuracy``, ``r2`` or ``loss``."""
    try:
        with metrics.open(newline="", encoding="utf-8") as file:
            return curve_of(csv.reader(file), metric, metrics)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        cause = error.strerror if isinstance(error, OSError) else error
        return Curve(problem=f"{metrics} cannot be read: {cause}")


def curve_of(rows: Iterator[list[str]], metric: str, source: Path) -> Curve:
    """The curve in the rows of a CSV file, its header first; ``source`` is what a problem names."""
    curve, header = Curve(), next(rows, [])
    if "step" not in header:
        return Curve(problem=f"{source} has no column 'step'")
    step = header.index("step")
    columns = [
        (header.index(name), points)
        for name, points in ((f"val_{metric}", curve.validation), (f"train_{metric}", curve.training))
        if name in header
    ]
    try:
        for row in rows:
            for column, points in columns:
                if column < len(row) and row[column] and math.isfinite(value := float(row[column])):
                    points.append((int(row[step]) + 1, value))  # the log counts steps from 0
    except (ValueError, IndexError) as error:
        return Curve(problem=f"{source} cannot be read: {error}")
    return curve


def read_rows(metrics: Path) -> list[dict[str, str]]:
    """The rows of a ``metrics.csv`` as they were written; none where there is no such file.

    Raises:
        FPTError: If it cannot be read.
    """
    try:
        with metrics.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file, restval=""))  # the last one may be cut off
        if any(None in row for row in rows):
            raise ValueError("a row has more figures than there are columns")
        return rows
    except FileNotFoundError:
        return []
    except (OSError, ValueError, csv.Error) as error:
        raise FPTError(f"{metrics} cannot be read: {error}") from error


def rows_hash(rows: Sequence[Mapping[str, str]]) -> str:
    """A hash of the figures that are there: a curve has columns of others beside its own in an archive."""
    figures = [{column: figure for column, figure in row.items() if figure} for row in rows]
    return hashlib.sha256(json.dumps(figures, sort_keys=True).encode()).hexdigest()[:16]


def rows_of_all(rows_by_run: Mapping[int, Sequence[Mapping[str, str]]]) -> str:
    """The rows of many runs as one CSV, each behind the number of its run."""
    columns = dict.fromkeys(column for rows in rows_by_run.values() for row in rows[:1] for column in row)
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, ["run", *columns], restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows({"run": run, **row} for run, rows in rows_by_run.items() for row in rows)
    return text.getvalue()
