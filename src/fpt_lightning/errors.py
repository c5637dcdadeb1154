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
        way_out: What may help.
    """

    def __init__(self, step: int, what: str, way_out: str) -> None:
        super().__init__(f"the training diverged at step {step:,}: {what} is not finite; {way_out}")
        self.step = step


def not_utf8(path: Path, content: bytes, place: int) -> FPTError:
    """The error that names a byte of a file which belongs to no text, and its line."""
    line = content.count(b"\n", 0, place) + 1
    byte = f"byte 0x{content[place]:02x}"
    return FPTError(f"{path}, line {line}: {byte} is not UTF-8 text; save the file in that encoding")


LONGEST_NAME = 200
"""Characters that a name of an arm, a task or a table may have."""


def check_name(name: str) -> None:
    """Refuses a name that is too long, or that a terminal would take for something to do.

    Raises:
        ValueError: If it is.
    """
    if len(name) > LONGEST_NAME:
        raise ValueError(f"a name has at most {LONGEST_NAME} characters, this one has {len(name):,}")
    if not name.isprintable():
        raise ValueError(f"a name has no control characters, got {name!r}")


def at_least(least: float, prefix: str = "", /, **options: float | None) -> None:
    """Refuses options that are too small; None means that one is not given.

    Args:
        least: The smallest value that makes sense.
        prefix: What stands before the names in the message, such as ``data.``.
        options: The values, by name.

    Raises:
        UsageError: If one is.
    """
    for name, value in options.items():
        if value is not None and value < least:
            raise UsageError(f"{prefix}{name} must be at least {least}, got {value}")


def are_shares(prefix: str, /, *, with_0: bool = False, with_1: bool = False, **options: float) -> None:
    """Refuses options that are no share of something.

    Args:
        prefix: What stands before the names in the message, such as ``data.``.
        with_0: Whether nothing is one.
        with_1: Whether all is one.
        options: The values, by name.

    Raises:
        UsageError: If one does not lie between 0 and 1.
    """
    for name, share in options.items():
        if not (0 < share < 1 or (with_0 and share == 0) or (with_1 and share == 1)):
            raise UsageError(f"{prefix}{name} lies between 0 and 1, got {share}")


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Ends a sentence: with ``"; did you mean 'x'?"`` for the nearest known word, or a full stop where none is near."""
    nearest = difflib.get_close_matches(word, list(known), n=1)
    return f"; did you mean '{nearest[0]}'?" if nearest else "."


def first_line(error: Exception) -> str:
    """What an error of others says, to stand within a sentence of ours."""
    return str(error).strip().partition("\n")[0].rstrip(".:")


def brief(value: object) -> str:
    """A value as a message shows it: a megabyte of it would hide the rest."""
    text = "null" if value is None else f"'{value}'" if isinstance(value, str) else str(value)
    return text if len(text) <= 80 else f"{text[:60]}... ({len(text):,} characters)"


def printable(text: str) -> str:
    """Text whose control characters are spelled out, so that a name neither colours a terminal nor moves its cursor."""
    return "".join(sign if sign.isprintable() or sign == "\n" else repr(sign)[1:-1] for sign in text)


def os_reason(error: OSError) -> str:
    """What the system says, and of which file."""
    if error.strerror is None or error.filename is None:
        return first_line(error) or type(error).__name__
    return f"{error.filename}: {error.strerror}"
