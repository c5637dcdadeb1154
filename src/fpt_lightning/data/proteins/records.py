"""The records of TAPE's files, read without torch: a file that kills its reader kills a child process alone."""

import io
import json
import pickle
import reprlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fpt_lightning.data.proteins import plain_pickle
from fpt_lightning.errors import FPTError

VOCABULARY = ("<pad>", "<mask>", "<cls>", "<sep>", "<unk>", *"ABCDEFGHIKLMNOPQRSTUVWXYZ")
"""TAPE's iupac vocabulary: a token's id is its place here. There is no amino acid J."""

FOLDS = 1195


_SHORT = reprlib.Repr()  # containers of a pickle may hold each other without end
_SHORT.maxlevel = 2

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


class Proteins(NamedTuple):
    """The fields of :class:`fpt_lightning.data.sequences.LabelledSequences`, by these names."""

    values: np.ndarray
    lengths: np.ndarray
    targets: np.ndarray


def parse(path: Path) -> Proteins:
    """Reads the sequences and folds of a JSON file or an LMDB folder.

    Raises:
        FPTError: If the file is damaged or a record is not what TAPE's are.
    """
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
    return Proteins(np.concatenate(sequences), lengths, np.array(folds))


def _sequence(record: Any) -> np.ndarray:
    if not isinstance(record, dict):
        raise ValueError("not a record of fields")
    if not isinstance(sequence := record.get("primary"), str) or not sequence:
        raise ValueError("'primary' is not a sequence of letters")
    return encode(sequence)


def _fold(record: dict[str, Any]) -> int:
    label = _whole(record.get("fold_label"))
    if label is None or not 0 <= label < FOLDS:
        raise ValueError(f"'fold_label' is {_SHORT.repr(record.get('fold_label'))}, not a number below {FOLDS}")
    return label


def _whole(value: Any) -> int | None:
    """A whole number, alone or in an array or list of one; None of anything else."""
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    if isinstance(value, np.ndarray) and value.size == 1:
        value = value.item()
    return int(value) if isinstance(value, int | np.integer) and not isinstance(value, bool) else None


def _json_records(path: Path) -> Iterator[tuple[str, Any]]:
    def needed(record: dict[str, Any]) -> dict[str, Any]:
        return {name: record[name] for name in ("primary", "fold_label") if name in record}

    try:
        # each record loses its profiles as soon as it is read: as Python's objects all of them would fill gigabytes
        records = json.loads(path.read_text(encoding="utf-8"), object_hook=needed)
    except json.JSONDecodeError as error:
        raise FPTError(f"{path}, line {error.lineno} column {error.colno}: {error.msg}; fetch it again") from error
    except (ValueError, RecursionError) as error:  # no UTF-8, or a number of thousands of digits
        raise FPTError(f"{path} is not JSON ({error}); fetch it again") from error
    if not isinstance(records, list):
        raise FPTError(f"{path} is not TAPE's JSON: a list of records")
    for number, record in enumerate(records):
        yield f"record {number}", record


def _lmdb_records(folder: Path) -> Iterator[tuple[str, Any]]:
    import lmdb

    try:
        with lmdb.open(str(folder), readonly=True, lock=False) as environment:
            _check_whole(folder / "data.mdb", environment)
            with environment.begin() as transaction:
                count = _unpickled(folder, "num_examples", transaction.get(b"num_examples"))
                if (examples := _whole(count)) is None:
                    raise FPTError(f"{folder}, key num_examples: {_SHORT.repr(count)} is not a number")
                for number in range(examples):
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


def main(folder: str) -> int:
    """Writes the proteins of an LMDB folder to the standard output, as numpy's npz; or what is wrong, to the other."""
    try:
        proteins = parse(Path(folder))
    except FPTError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    content = io.BytesIO()
    np.savez(content, **proteins._asdict())
    sys.stdout.buffer.write(content.getvalue())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
