"""ListOps on disk: the files of Long Range Arena, and ours, where examples wait for the next run."""

import hashlib
import json
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from fpt_lightning.data.datamodule import SPLITS, Split
from fpt_lightning.data.listops.grammar import WORDS, Examples, MalformedError, evaluate
from fpt_lightning.errors import FPTError
from fpt_lightning.files import file_hash, write_whole

FILES: dict[Split, str] = {"train": "basic_train.tsv", "validation": "basic_val.tsv", "test": "basic_test.tsv"}
READER_VERSION = 1
"""Changes whenever the same files give other tokens, or something is refused that was not before."""

Progress = Callable[[int], object]

_HEADER = b"Source\tTarget"
_IDS = {word.encode(): index for index, word in enumerate(WORDS)}
_BLOCK = 1000  # lines that are evaluated together


def read_official(path: Path, progress: Progress = lambda size: None) -> Examples:
    """Reads a file of Long Range Arena and recomputes every target.

    A line holds an expression, a tab and its value: ``( ( ( [MAX 4 ) 3 ) ] )``, tab, ``4``. Parentheses only repeat
    what the brackets say and are no tokens, as in Long Range Arena's own pipeline.

    Args:
        path: ``basic_train.tsv`` or one of its kind.
        progress: Called with the bytes read from time to time.

    Raises:
        FPTError: If a line is cut short, is no expression, or does not have the value it says.
    """
    blocks: list[Examples] = []
    with path.open("rb") as file:
        if file.readline(100).rstrip(b"\r\n") != _HEADER:
            raise _refusal(path, 1, "the header must be Source, tab, Target")
        number = 2
        while lines := list(islice(file, _BLOCK)):
            blocks.append(_read_block(path, number, lines))
            number += len(lines)
            progress(sum(map(len, lines)))
    if not blocks:
        raise _refusal(path, 2, "there are no examples")
    return Examples(*(np.concatenate(arrays) for arrays in zip(*blocks, strict=True)))


def _read_block(path: Path, number: int, lines: list[bytes]) -> Examples:
    """Reads lines, the first of which is called ``number``."""
    parsed = []
    for line in lines:
        try:
            parsed.append(_parse(line))
        except ValueError as error:
            raise _refusal(path, number + len(parsed), str(error)) from error
    tokens = np.frombuffer(b"".join(expression for expression, _ in parsed), dtype=np.uint8)
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
    return Examples(tokens, lengths, targets)


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


def sha256(path: Path) -> str:
    """The hash of a file of Long Range Arena.

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


def store_path(folder: Path, facts: dict[str, Any]) -> Path:
    """Where examples with these facts are kept."""
    return folder / f"listops-{hashlib.sha256(_as_json(facts).encode()).hexdigest()[:16]}.safetensors"


def save(path: Path, splits: dict[Split, Examples], facts: dict[str, Any]) -> None:
    """Keeps examples with what decided them; the file is there whole or not at all.

    Raises:
        FPTError: If the file cannot be written.
    """
    from safetensors.numpy import save as to_bytes

    arrays = {f"{split}.{name}": array for split in SPLITS for name, array in splits[split]._asdict().items()}
    try:
        # not safetensors' save_file, whose files no other user may read
        write_whole(path, to_bytes(arrays, {"facts": _as_json(facts), "sha256": _hash(splits)}))
    except OSError as error:
        raise FPTError(f"listops: {path} cannot be written ({error}); set data.root to another folder") from error


def load(path: Path, facts: dict[str, Any]) -> tuple[dict[Split, Examples], str]:
    """The examples of a file that :func:`save` wrote, and the hash of their content.

    Raises:
        FPTError: If the file is damaged, or was made of other facts.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            splits = {
                split: Examples(*(file.get_tensor(f"{split}.{name}") for name in Examples._fields)) for split in SPLITS
            }
    except (SafetensorError, OSError) as error:
        raise FPTError(f"{path} is damaged ({error}); delete it and run `fpt prepare` again") from error
    if (content := _hash(splits)) != metadata.get("sha256"):
        raise FPTError(f"{path} is damaged (its checksum differs); delete it and run `fpt prepare` again")
    if metadata.get("facts") != _as_json(facts):
        raise FPTError(f"{path} holds other examples than its name says; delete it and run `fpt prepare` again")
    return splits, content


def _as_json(facts: dict[str, Any]) -> str:
    return json.dumps(facts, sort_keys=True)


def _hash(splits: dict[Split, Examples]) -> str:
    content = hashlib.sha256()
    for split in SPLITS:
        for array in splits[split]:
            content.update(np.ascontiguousarray(array).data)
    return content.hexdigest()
