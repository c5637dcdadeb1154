"""Files and folders that are there whole or not at all, whenever a process dies."""

import hashlib
import os
import secrets
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from glob import escape
from pathlib import Path

STALE = 24 * 3600.0
"""Seconds after which whoever was to finish a part is not believed to live."""


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Names the file in an OSError of the block that names none: a full disk does not say what it had no room for."""
    try:
        yield
    except OSError as error:
        if error.filename is None and error.errno is not None:
            error.filename = str(path)
        raise


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Gives a path to write to, which becomes ``path`` at the end of the block, or nothing if it raises.

    Whoever looks meanwhile sees the old content or none; processes that write one file at a time each write their own.
    The content is on the disk before the name is.

    Args:
        path: The file; its folder is made where that is missing.

    Raises:
        OSError: If it cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    clear_parts(path.parent, f".{escape(path.name)}.*.part", STALE)
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        with naming(path):
            yield part
            with part.open("rb") as written:
                os.fsync(written.fileno())
            part.replace(path)
    finally:
        with suppress(OSError):  # why it could not be written matters more than what is left of it
            part.unlink(missing_ok=True)


def write_whole(path: Path, content: str | bytes) -> None:
    """Writes a file, text in UTF-8, and its folder where that is missing.

    Raises:
        OSError: If it cannot be written; what was there before stays.
    """
    with whole_file(path) as part:
        part.write_bytes(content.encode() if isinstance(content, str) else content)


@contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """Gives an empty folder to write to, whose files move to their places in ``folder`` once all are there.

    Each file is whole at every moment, and on the disk before the first has its name; they get their names one right
    after the other, by the alphabet. Links stay out of it.

    Raises:
        OSError: If it cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    clear_parts(folder, stale=STALE)
    with tempfile.TemporaryDirectory(prefix=".", suffix=".part", dir=folder) as part:
        yield Path(part)
        written = [path for path in sorted(Path(part).rglob("*")) if path.is_file() and not path.is_symlink()]
        for path in written:
            with path.open("rb") as file:
                os.fsync(file.fileno())
        for path in written:
            place = folder / path.relative_to(part)
            place.parent.mkdir(parents=True, exist_ok=True)
            path.replace(place)


def files_below(folder: Path, endings: tuple[str, ...]) -> list[str]:
    """The paths of all files in a folder and below, in linked folders too, of names with one of these endings, sorted.

    The case of an ending does not matter; hidden files are left out, such as the ``._NAME`` that macOS leaves beside
    NAME.
    """
    found, seen = [], set()
    for where, folders, names in os.walk(folder, followlinks=True):
        folders.sort()  # so that it does not depend on the disk which of two links to a folder is followed
        if (real := Path(where).resolve()) in seen:
            folders.clear()
            continue
        seen.add(real)
        found += [
            os.path.join(where, name)  # noqa: PTH118 - a Path for each of many thousands takes seconds
            for name in names
            if name.lower().endswith(endings) and not name.startswith(".")
        ]
    return sorted(found)


def file_hash(path: Path) -> str:
    """The sha256 of a file's content, in hexadecimal digits.

    Raises:
        OSError: If it cannot be read.
    """
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def clear_parts(folder: Path, pattern: str = ".*.part", stale: float = 0.0) -> None:
    """Takes away what processes left of files and folders that were killed so many seconds ago."""
    for part in folder.glob(pattern):
        with suppress(OSError):  # its writer may have finished meanwhile
            if time.time() - part.stat().st_mtime >= stale:
                shutil.rmtree(part) if part.is_dir() else part.unlink()
