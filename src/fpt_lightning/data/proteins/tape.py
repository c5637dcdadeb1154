"""The files of TAPE's remote homology task: JSON and LMDB (Rao et al. 2019, https://github.com/songlab-cal/tape)."""

import json
import pickle
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from fpt_lightning.data.cache import cache_file, kept
from fpt_lightning.data.proteins import plain_pickle
from fpt_lightning.data.sequences import LabelledSequences
from fpt_lightning.errors import FPTError

VOCABULARY = ("<pad>", "<mask>", "<cls>", "<sep>", "<unk>", *"ABCDEFGHIKLMNOPQRSTUVWXYZ")
"""TAPE's iupac vocabulary: a token's id is its place here. There is no amino acid J."""

FOLDS = 1195

READER_VERSION = 1
"""Changes whenever the same files give other proteins, or something is refused that was not before."""

EXAMPLES = {
    "train": 12312,
    "valid": 736,
    "test_fold_holdout": 718,
    "test_superfamily_holdout": 1254,
    "test_family_holdout": 1272,
}
"""How many examples TAPE has under each of its own split names."""

_CODES = np.zeros(256, dtype=np.uint8)
_CODES[[ord(letter) for letter in VOCABULARY[5:]]] = range(5, len(VOCABULARY))


def encode(sequence: str) -> np.ndarray:
    """The ids ``[residues]`` uint8 of a protein's letters.

    Raises:
        ValueError: If a letter is no amino acid; TAPE refuses it too.
    """
    ids = _CODES[np.frombuffer(sequence.encode("ascii", "replace"), dtype=np.uint8)]
    if not ids.all():
        place = int((ids == 0).argmax())
        raise ValueError(f"{sequence[place]!r} at residue {place + 1} is no amino acid: they are A to Z without J")
    return ids


def find_split(root: Path, split: str) -> Path | None:
    """Where a split lies in a folder or its subfolder ``remote_homology``; JSON goes before LMDB."""
    for folder in (root / "remote_homology", root):
        text, database = (folder / f"remote_homology_{split}.{kind}" for kind in ("json", "lmdb"))
        if text.is_file():
            return text
        if (database / "data.mdb").is_file():
            return database
    return None


def read_proteins(path: Path, cache_folder: Path) -> LabelledSequences:
    """Reads a split, or what an earlier reading of the same file kept of it: its size and its time tell which it is.

    TAPE's records carry evolutionary profiles a hundred times as long as the sequence, so what the task needs is kept.

    Returns:
        Values are places in :data:`VOCABULARY`, uint8, targets are folds below :data:`FOLDS`.

    Raises:
        FPTError: If the file is damaged or a record is not what TAPE's are.
    """
    state = (path / "data.mdb" if path.is_dir() else path).stat()
    key = [READER_VERSION, state.st_size, state.st_mtime_ns]
    file = cache_file(cache_folder, "proteins", path.resolve())
    return LabelledSequences.from_tensors(kept(file, key, lambda: _parse(path).as_tensors()))


def _parse(path: Path) -> LabelledSequences:
    sequences, folds = [], []
    for place, record in _json_records(path) if path.suffix == ".json" else _lmdb_records(path):
        try:
            sequences.append(_sequence(record))
            folds.append(_fold(record))
        except ValueError as error:
            raise FPTError(f"{path}, {place}: {error}") from error
    if not sequences:
        raise FPTError(f"{path} has no records")
    lengths = np.array([len(sequence) for sequence in sequences])
    return LabelledSequences(np.concatenate(sequences), lengths, np.array(folds))


def _sequence(record: Any) -> np.ndarray:
    if not isinstance(record, dict):
        raise ValueError("not a record of fields")
    if not isinstance(sequence := record.get("primary"), str) or not sequence:
        raise ValueError("'primary' is not a sequence of letters")
    return encode(sequence)


def _fold(record: dict[str, Any]) -> int:
    label = np.asarray(record.get("fold_label"))
    if label.size != 1 or label.dtype.kind not in "iu" or not 0 <= label.item() < FOLDS:
        raise ValueError(f"'fold_label' is {record.get('fold_label')!r:.40}, not a number below {FOLDS}")
    return int(label.item())


def _json_records(path: Path) -> Iterator[tuple[str, Any]]:
    def needed(record: dict[str, Any]) -> dict[str, Any]:
        return {name: record[name] for name in ("primary", "fold_label") if name in record}

    try:
        # each record loses its profiles as soon as it is read: as Python's objects all of them would fill gigabytes
        records = json.loads(path.read_text(encoding="utf-8"), object_hook=needed)
    except json.JSONDecodeError as error:
        raise FPTError(f"{path}, line {error.lineno} column {error.colno}: {error.msg}; fetch it again") from error
    except (UnicodeDecodeError, RecursionError) as error:
        raise FPTError(f"{path} is not JSON ({error}); fetch it again") from error
    if not isinstance(records, list):
        raise FPTError(f"{path} is not TAPE's JSON: a list of records")
    for number, record in enumerate(records):
        yield f"record {number}", record


def require_lmdb() -> None:
    """Makes sure that LMDB files can be read.

    Raises:
        FPTError: If the package is not installed.
    """
    if find_spec("lmdb") is None:
        raise FPTError(
            "TAPE's LMDB files need a package that is missing: pip install 'fpt-lightning[proteins]'.\n"
            "Without it, put TAPE's JSON files into data.root."
        )


def _lmdb_records(folder: Path) -> Iterator[tuple[str, Any]]:
    require_lmdb()
    import lmdb

    try:
        with lmdb.open(str(folder), readonly=True, lock=False) as environment:
            _check_whole(folder / "data.mdb", environment)
            with environment.begin() as transaction:
                count = _unpickled(folder, "num_examples", transaction.get(b"num_examples"))
                if not isinstance(count, int | np.integer):
                    raise FPTError(f"{folder}, key num_examples: {count!r:.40} is not a number")
                for number in range(count):
                    record = _unpickled(folder, str(number), transaction.get(str(number).encode()))
                    yield f"key {number}", record
    except lmdb.Error as error:
        raise FPTError(f"{folder / 'data.mdb'} is damaged ({error}); fetch it again") from error


def _check_whole(path: Path, environment: Any) -> None:
    """Compares a file with its own header: reading beyond its end would kill the process."""
    promised = (environment.info()["last_pgno"] + 1) * environment.stat()["psize"]
    if (actual := path.stat().st_size) < promised:
        raise FPTError(f"{path} has {actual:,} bytes where its header promises {promised:,}; fetch it again")


def _unpickled(folder: Path, key: str, content: bytes | None) -> Any:
    if content is None:
        raise FPTError(f"{folder} has no key {key}; fetch it again")
    try:
        return plain_pickle.loads(content)
    except pickle.UnpicklingError as error:
        raise FPTError(f"{folder}, key {key}: {error}") from error
