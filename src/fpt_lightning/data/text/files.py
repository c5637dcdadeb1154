"""The books of a folder: read, checked, and divided by their names alone."""

import hashlib
import os
from pathlib import Path
from typing import NamedTuple

from fpt_lightning.data.datamodule import Split
from fpt_lightning.errors import FPTError, UsageError, not_utf8
from fpt_lightning.files import files_below


class Book(NamedTuple):
    """A text file: its path inside the folder, its content, the hash of its bytes."""

    name: str
    text: str
    sha256: str


def list_books(root: Path) -> list[Path]:
    """The ``.txt`` files of a folder and the folders in it, linked ones too, sorted.

    Raises:
        UsageError: If there is no such folder.
        FPTError: If it holds none.
    """
    if not root.is_dir():
        raise UsageError(f"data.root: there is no folder {root}")
    books = sorted(path for path in map(Path, files_below(root, (".txt",))) if path.is_file())
    if not books:
        raise FPTError(f"{root} holds no .txt file: put the texts there, or name another folder with --data.root")
    return books


def read_book(path: Path, root: Path) -> Book:
    """Reads a text file.

    Raises:
        FPTError: If it is empty, not UTF-8, or holds a zero byte, which no text does.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise FPTError(f"{path} cannot be read ({error.strerror}); mend it or take it away") from error
    name = path.relative_to(root).as_posix()
    if not content.strip():
        raise FPTError(f"{path} is empty: take it away")
    fault = content.find(b"\0")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        fault = error.start if fault < 0 else min(fault, error.start)
    if fault >= 0:
        raise not_utf8(path, content, fault)
    return Book(name, text, hashlib.sha256(content).hexdigest())


def divide(paths: list[Path], root: Path, validation: int, test: int) -> dict[Split, list[Path]]:
    """Sets those books aside whose names have the lowest hashes: neither content nor order changes where one belongs.

    A book that is added takes the place of at most one in each split: of validation, which then tests, and of the test,
    which then is trained on.

    Raises:
        UsageError: If nothing is left to train on.
    """
    if len(paths) <= validation + test:
        raise UsageError(
            f"{root} holds {len(paths)} .txt files, of which {validation} are for validation and {test} for the test: "
            "lower data.validation_books and data.test_books, or cut the text into more files"
        )
    shuffled = sorted(paths, key=lambda path: hashlib.sha256(os.fsencode(path.relative_to(root).as_posix())).digest())
    return {
        "validation": sorted(shuffled[:validation]),
        "test": sorted(shuffled[validation : validation + test]),
        "train": sorted(shuffled[validation + test :]),
    }
