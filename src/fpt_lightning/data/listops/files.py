"""The files of Long Range Arena's ListOps."""

from itertools import islice
from pathlib import Path

import numpy as np

from fpt_lightning.data.datamodule import Split
from fpt_lightning.data.listops.grammar import WORDS, MalformedError, evaluate
from fpt_lightning.data.sequences import LabelledSequences
from fpt_lightning.errors import FPTError
from fpt_lightning.files import file_hash

FILES: dict[Split, str] = {"train": "basic_train.tsv", "validation": "basic_val.tsv", "test": "basic_test.tsv"}
READER_VERSION = 1
"""Changes whenever the same files give other tokens, or something is refused that was not before."""

_HEADER = b"Source\tTarget"
_IDS = {word.encode(): index for index, word in enumerate(WORDS)}
_BLOCK = 1000  # lines that are evaluated together


def read_official(path: Path) -> LabelledSequences:
    """Reads a file of Long Range Arena and recomputes every target.

    A line holds an expression, a tab and its value: ``( ( ( [MAX 4 ) 3 ) ] )``, tab, ``4``. Parentheses only repeat
    what the brackets say and are no tokens, as in Long Range Arena's own pipeline.

    Raises:
        FPTError: If a line is cut short, is no expression, or does not have the value it says.
    """
    from tqdm import tqdm

    size, blocks = path.stat().st_size, []
    with path.open("rb") as file, tqdm(total=size, desc=path.name, unit="B", unit_scale=True, disable=None) as bar:
        if file.readline(100).rstrip(b"\r\n") != _HEADER:
            raise _refusal(path, 1, "the header must be Source, tab, Target")
        number = 2
        while lines := list(islice(file, _BLOCK)):
            blocks.append(_read_block(path, number, lines))
            number += len(lines)
            bar.update(sum(map(len, lines)))
    if not blocks:
        raise _refusal(path, 2, "there are no examples")
    return LabelledSequences(*(np.concatenate(arrays) for arrays in zip(*blocks, strict=True)))


def _read_block(path: Path, number: int, lines: list[bytes]) -> LabelledSequences:
    """Reads lines, the first of which is called ``number``."""
    parsed = []
    for line in lines:
        try:
            parsed.append(_parse(line))
        except ValueError as error:
            raise _refusal(path, number + len(parsed), str(error)) from error
    tokens = np.frombuffer(bytearray().join(expression for expression, _ in parsed), dtype=np.uint8)
    lengths = np.array([len(expression) for expression, _ in parsed], dtype=np.int32)
    targets = np.array([target for _, target in parsed], dtype=np.uint8)
    try:
        values = evaluate(tokens, lengths)
    except MalformedError as error:
        raise _refusal(path, number + error.index, str(error)) from error
    if (wrong := np.flatnonzero(values != targets)).size:
        first = int(wrong[0])
        cause = f"the target is {targets[first]} where the expression is worth {values[first]}"
        raise _refusal(path, number + first, cause)
    return LabelledSequences(tokens, lengths, targets)


def _parse(line: bytes) -> tuple[bytes, int]:
    """The ids and the target of a line.

    Raises:
        ValueError: If it is not a line of Long Range Arena's files; whether brackets match is not looked at.
    """
    source, tab, target = line.rstrip(b"\r\n").partition(b"\t")
    if not tab:
        raise ValueError("there is no tab with a target behind the expression")
    if len(target) != 1 or not target.isdigit():
        raise ValueError(f"the target must be a digit, got {_shown(target)}")
    if source.count(b"(") != source.count(b")"):
        raise ValueError("the parentheses do not match")
    words = source.translate(None, b"()").split()
    try:
        return bytes(map(_IDS.__getitem__, words)), int(target)
    except KeyError as error:
        raise ValueError(f"unknown token {_shown(error.args[0])}") from error


def _shown(word: bytes) -> str:
    """A word that may be anything, short enough for a message."""
    return repr(word[:20].decode(errors="replace")) + ("..." if len(word) > 20 else "")


def _refusal(path: Path, number: int, cause: str) -> FPTError:
    return FPTError(f"{path}, line {number:,}: {cause}; fetch or make the file again")


def source_hash(path: Path) -> str:
    """The sha256 of a file of Long Range Arena.

    Raises:
        FPTError: If the file is missing or cannot be read.
    """
    try:
        return file_hash(path)
    except OSError as error:
        raise FPTError(
            f"listops: {path} cannot be read ({error.strerror}).\n"
            f"Set data.source to the folder of {', '.join(FILES.values())}, or leave it out to generate examples."
        ) from error
