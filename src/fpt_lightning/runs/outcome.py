"""What a run folder says of its run: finished, running, failed, stopped or missing."""

import json
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from fpt_lightning.runs.folder import RunFolder

REQUIRED: dict[str, type | tuple[type, ...]] = {
    "val_accuracy": (int, float),
    "steps": int,
    "best_step": int,
    "lr": (int, float),
    "seed": int,
    "versions": dict,
}
"""What every result must hold, and of what kind; one of a run that was tested also holds its test accuracy."""


class State(StrEnum):
    """Where a run stands."""

    FINISHED = "finished"
    RUNNING = "running"
    FAILED = "failed"
    STOPPED = "stopped"
    MISSING = "missing"


@dataclass(frozen=True)
class Outcome:
    """What a run folder says.

    Attributes:
        state: Where the run stands.
        result: The content of result.json, of a finished run.
        cause: Why it failed, or of a finished run its test, in a line.
    """

    state: State
    result: dict[str, Any] | None = None
    cause: str | None = None

    @property
    def is_tested(self) -> bool:
        """Whether the result holds a test accuracy."""
        return is_tested(self.result)


def read_outcome(folder: Path, makes_backbone: bool = False) -> Outcome:
    """Reads a run folder.

    Args:
        folder: The folder; it need not exist.
        makes_backbone: Whether the run is to leave a backbone, without which it is not finished.
    """
    result, damage = read_result(folder, makes_backbone)
    if result is not None:
        return Outcome(State.FINISHED, result, None if is_tested(result) else _cause(folder))
    if not folder.is_dir():
        return Outcome(State.MISSING)
    if is_locked(folder):
        return Outcome(State.RUNNING)
    if damage is not None:
        return Outcome(State.FAILED, cause=f"{damage}; the next sweep makes it again")
    if (cause := _cause(folder)) is not None:
        return Outcome(State.FAILED, cause=cause)
    return Outcome(State.STOPPED if any(RunFolder(folder).checkpoints.glob("*.ckpt")) else State.MISSING)


def read_result(folder: Path, makes_backbone: bool = False) -> tuple[dict[str, Any] | None, str | None]:
    """The result of a finished run, None where there is none; or what is wrong with it."""
    file = RunFolder(folder).result
    result, damage = _read_json(file)
    if result is None:
        return None, damage
    if wrong := [name for name, kind in REQUIRED.items() if not isinstance(result.get(name), kind)]:
        return None, f"{file} has no usable {', '.join(wrong)}"
    if makes_backbone and not (folder / "backbone").is_dir():
        return None, f"{folder} has a result but no backbone"
    return result, None


def is_tested(result: dict[str, Any] | None) -> bool:
    """Whether there is a result, with a test accuracy."""
    return result is not None and isinstance(result.get("test_accuracy"), int | float)


def _cause(folder: Path) -> str | None:
    """Why the last attempt failed; None where it did not."""
    failure, damage = _read_json(failure_file(folder))
    return failure.get("cause", "its cause is unknown") if failure is not None else damage


def failure_file(folder: Path) -> Path:
    """Where the cause of a failure is kept."""
    return folder / "failure.json"


def write_failure(folder: Path, cause: str) -> None:
    """Keeps the cause of a failure in the run folder."""
    folder.mkdir(parents=True, exist_ok=True)
    failure_file(folder).write_text(json.dumps({"cause": cause}) + "\n")


def lock_of(folder: Path) -> FileLock:
    """The lock of a run: the kernel lets it go when its owner dies, so it never needs to be cleared."""
    return FileLock(folder / ".lock", timeout=0)


def is_locked(folder: Path) -> bool:
    """Whether a process somewhere is at this run."""
    if not (folder / ".lock").exists():
        return False
    try:
        with lock_of(folder):
            return False
    except Timeout:
        return True


def _read_json(path: Path) -> tuple[dict[str, Any] | None, str | None]:
    """The content of a file, None where there is none; or what is wrong with it."""
    try:
        content = json.loads(path.read_text())
    except FileNotFoundError:
        return None, None
    except (ValueError, OSError) as error:
        return None, f"{path} cannot be read: {error}"
    return (content, None) if isinstance(content, dict) else (None, f"{path} holds no result")
