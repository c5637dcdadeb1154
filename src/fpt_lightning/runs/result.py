"""``result.json``: what a finished run measured, and of what; and what was looked into behind it."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import msgspec

from fpt_lightning.errors import FPTError
from fpt_lightning.runs.folder import with_nan

PROBED = 1000
"""Examples on which `fpt analyze` judges a probe unless it is told otherwise."""


class DamagedResultError(FPTError):
    """A ``result.json`` that cannot be read, or is none."""


class Result(msgspec.Struct, frozen=True):
    """A run that ended.

    Attributes:
        steps: Gradient steps of the whole run.
        best_step: That of the checkpoint which validation chose; None of a run that diverged.
        lr: Learning rate.
        seed: Seed of the run.
        versions: Versions of the packages that made it.
        val_accuracy: Validation accuracy of the checkpoint, 0 to 1.
        test_accuracy: Test accuracy of it, 0 to 1; None of a run that was not tested.
        val_r2: The same of a regression: coefficient of determination on validation.
        test_r2: And on test.
        batch_size: Examples in a training step.
        data_fingerprint: Names the data.
        trained_parameters: How many numbers of the model were trained.
        flops_per_step: Floating-point operations of a gradient step like the first, in matrix products.
        wall_seconds: What the training took.
        status: ``diverged`` where loss or parameters were not finite any more; such a run has no figures.
        diverged_step: Gradient steps done when that was seen.
        baselines: What needs no training, or a linear layer alone, is worth on ``val`` and ``test``, by its name.
    """

    steps: int
    lr: float
    seed: int
    versions: dict[str, str]
    best_step: int | None = None
    val_accuracy: float | None = None
    test_accuracy: float | None = None
    val_r2: float | None = None
    test_r2: float | None = None
    batch_size: int | None = None
    data_fingerprint: str | None = None
    trained_parameters: int | None = None
    flops_per_step: int | None = None
    wall_seconds: float | None = None
    status: Literal["finished", "diverged"] = "finished"
    diverged_step: int | None = None
    baselines: dict[str, dict[str, float]] = {}

    def __post_init__(self) -> None:
        judged = self.val_accuracy is not None or self.val_r2 is not None
        if self.status == "diverged" and (judged or self.diverged_step is None):
            raise ValueError("it diverged, and has a figure of validation or no diverged_step")
        if self.status == "finished" and not judged:
            raise ValueError("it has neither val_accuracy nor val_r2")
        if self.status == "finished" and self.best_step is None:
            raise ValueError("it has no best_step")

    @property
    def metric(self) -> str:
        """What judges it, the higher the better: ``accuracy`` of classes, ``r2`` of a regression."""
        return "accuracy" if self.val_accuracy is not None else "r2"

    @property
    def validation(self) -> float:
        """The metric on validation; NaN of a run that diverged."""
        value = self.val_accuracy if self.val_accuracy is not None else self.val_r2
        return math.nan if value is None else value

    @property
    def test(self) -> float | None:
        """The metric on test; None of a run that was not tested."""
        return self.test_accuracy if self.val_accuracy is not None else self.test_r2


def read_result(file: Path) -> Result | None:
    """Reads a ``result.json``; None where there is none.

    Raises:
        DamagedResultError: If it is not one.
    """
    content = read_json(file)
    try:
        return None if content is None else msgspec.convert(content, Result)
    except msgspec.ValidationError as error:
        raise DamagedResultError(f"{file} is no usable result: {error}") from error


def read_json(file: Path) -> dict[str, Any] | None:
    """Reads a file of a run that holds one object, a figure that is null as NaN; None where there is none.

    Raises:
        DamagedResultError: If it cannot be read or holds something else.
    """
    try:
        content = with_nan(json.loads(file.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None
    except (ValueError, OSError, RecursionError) as error:
        raise DamagedResultError(f"{file} cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise DamagedResultError(f"{file} holds no object")
    return content


class _Probed(msgspec.Struct):
    probe: tuple[float, ...]


class _Analysis(msgspec.Struct):
    runs: list[_Probed]
    examples: int = PROBED
    fitted: int = 0  # versions before 0.5 wrote none


class Probe(NamedTuple):
    """What a linear layer reads out of every layer of a run; no scores where nobody asked.

    So many ``examples`` it was fitted to or judged on, whichever were more: a split may have fewer than were asked for.
    """

    scores: Sequence[float] = ()
    examples: int = PROBED


def read_probe(file: Path) -> Probe:
    """What ``analysis.json`` says of its run."""
    try:
        analysis = msgspec.json.decode(file.read_bytes(), type=_Analysis)
    except (OSError, ValueError):
        return Probe()
    return Probe(analysis.runs[0].probe, max(analysis.examples, analysis.fitted)) if analysis.runs else Probe()
