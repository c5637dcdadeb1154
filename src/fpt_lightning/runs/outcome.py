"""What a run folder says of its run: finished, diverged, running, failed, paused, stopped or missing."""

import json
from dataclasses import dataclass
from enum import StrEnum
from math import isnan
from pathlib import Path

from fpt_lightning.files import write_whole
from fpt_lightning.runs.folder import RunFolder
from fpt_lightning.runs.lock import holder_of
from fpt_lightning.runs.result import DamagedResultError, Result, read_json, read_result


class State(StrEnum):
    """Where a run stands."""

    FINISHED = "finished"
    DIVERGED = "diverged"
    RUNNING = "running"
    FAILED = "failed"
    PAUSED = "paused"
    STOPPED = "stopped"
    MISSING = "missing"


@dataclass(frozen=True)
class Outcome:
    """What a run folder says.

    Attributes:
        state: Where the run stands.
        result: The content of result.json, of a run that finished or diverged.
        cause: Why it failed or diverged, or of a finished run its test, in a line.
        attention: The picture of a finished run's attention maps, where somebody asked for them.
        holder: Which process is at a run that is running.
        paused_at: Gradient steps done where a run pauses.
        validations: (gradient steps done, metric on validation) as far as the run came, where somebody asked for them.
    """

    state: State
    result: Result | None = None
    cause: str | None = None
    attention: Path | None = None
    holder: str | None = None
    paused_at: int | None = None
    validations: tuple[tuple[int, float], ...] = ()

    @property
    def progress(self) -> tuple[int, int, bool]:
        """How far the run came, to be compared with another attempt at it."""
        ranks = {State.FINISHED: 2, State.DIVERGED: 2, State.PAUSED: 1}
        return ranks.get(self.state, 0), self.paused_at or 0, self.is_tested

    @property
    def is_tested(self) -> bool:
        """Whether there is a result, with a figure of the test split."""
        return self.result is not None and self.result.test is not None

    def has_reached(self, step: int) -> bool:
        """Whether the run came to a validation at this step, or is finished; without a number there it pauses."""
        came = max((done for done, _ in self.validations), default=0)
        return self.state is State.FINISHED or max(came, self.paused_at or 0) >= step

    def best_by(self, step: int) -> float | None:
        """The best validation up to this step, of a run whose course is lost its result's; None if there is none."""
        if not self.has_reached(step):
            return None
        values = [value for done, value in self.validations if done <= step]
        if not self.validations and self.result is not None and not isnan(self.result.validation):
            values = [self.result.validation]
        return max(values, default=None)


def read_outcome(folder: Path, makes_backbone: bool = False) -> Outcome:
    """Reads a run folder.

    Args:
        folder: The folder; it need not exist.
        makes_backbone: Whether the run is to leave a backbone, without which it is not finished.
    """
    damage: DamagedResultError | None = None
    try:
        result = read_finished(folder, makes_backbone)
    except DamagedResultError as error:
        result, damage = None, error
    if result is not None and result.status == "diverged":
        return Outcome(State.DIVERGED, result, f"it diverged at step {result.diverged_step:,}")
    if result is not None:
        cause = None if result.test is not None else _cause(folder)
        picture = RunFolder(folder).attention
        return Outcome(State.FINISHED, result, cause, picture if picture.is_file() else None)
    if not folder.is_dir():
        return Outcome(State.MISSING)
    if (holder := holder_of(folder)) is not None:
        return Outcome(State.RUNNING, holder=holder)
    if damage is not None:
        return Outcome(State.FAILED, cause=f"{damage}; the next sweep makes it again")
    if (cause := _cause(folder)) is not None:
        return Outcome(State.FAILED, cause=cause)
    if (step := RunFolder(folder).paused_at()) is not None:
        return Outcome(State.PAUSED, paused_at=step)
    goes_on = RunFolder(folder).has_checkpoint() or RunFolder(folder).as_configured().has_checkpoint()
    return Outcome(State.STOPPED if goes_on else State.MISSING)


def read_finished(folder: Path, makes_backbone: bool = False) -> Result | None:
    """The result of a run that left all it was to leave, or diverged; None where it is not finished.

    Raises:
        DamagedResultError: If its result cannot be used, or the backbone is gone.
    """
    result = read_result(RunFolder(folder).result)
    makes_backbone = makes_backbone and result is not None and result.status == "finished"
    if makes_backbone and not (folder / "backbone").is_dir():
        raise DamagedResultError(f"{folder} has a result but no backbone")
    return result


def _cause(folder: Path) -> str | None:
    """Why the last attempt failed; None where it did not."""
    try:
        failure = read_json(RunFolder(folder).failure)
    except DamagedResultError as error:
        return str(error)
    return None if failure is None else str(failure.get("cause", "its cause is unknown"))


def write_failure(folder: Path, cause: str) -> None:
    """Keeps the cause of a failure in the run folder."""
    write_whole(RunFolder(folder).failure, json.dumps({"cause": cause}) + "\n")
