"""Errors that a user can mend: each message names the cause and the way out."""

import difflib
from collections.abc import Iterable
from pathlib import Path


class FPTError(Exception):
    """Something outside the program is wrong: a file, a backbone, a checkpoint."""

    exit_code = 1


class UsageError(FPTError):
    """The command line or a config asks for something that does not exist."""

    exit_code = 2


class DivergedError(FPTError):
    """A training whose numbers are not finite any more.

    Args:
        step: Gradient steps done when it was seen.
        what: What is not finite.
        lr: The learning rate, where the module has one.
    """

    def __init__(self, step: int, what: str, lr: float | None = None) -> None:
        rate = "" if lr is None else f" than {lr:g}"
        super().__init__(
            f"the training diverged at step {step:,}: {what} is not finite; choose a smaller learning rate{rate}"
        )
        self.step = step


def not_utf8(path: Path, content: bytes, place: int) -> FPTError:
    """The error that names a byte of a file which belongs to no text, and its line."""
    line = content.count(b"\n", 0, place) + 1
    byte = f"byte 0x{content[place]:02x}"
    return FPTError(f"{path}, line {line}: {byte} is not UTF-8 text; save the file in that encoding")


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Ends a sentence: with ``"; did you mean 'x'?"`` for the nearest known word, or a full stop where none is near."""
    nearest = difflib.get_close_matches(word, list(known), n=1)
    return f"; did you mean '{nearest[0]}'?" if nearest else "."


def first_line(error: Exception) -> str:
    """What an error of others says, to stand within a sentence of ours."""
    return str(error).strip().partition("\n")[0].rstrip(".:")


def os_reason(error: OSError) -> str:
    """What the system says, and of which file."""
    if error.strerror is None or error.filename is None:
        return first_line(error) or type(error).__name__
    return f"{error.filename}: {error.strerror}"
