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
