import json
import os
import pickle
import struct
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import tape_pickles, tape_record, write_tape_json, write_tape_lmdb
from fpt_lightning.data.cache import default_folder
from fpt_lightning.data.proteins.records import FOLDS, VOCABULARY, encode
from fpt_lightning.data.proteins.tape import find_split
from fpt_lightning.data.proteins.tape import read_proteins as read_proteins_keeping
from fpt_lightning.data.sequences import LabelledSequences
from fpt_lightning.errors import FPTError

LETTERS = "ABCDEFGHIKLMNOPQRSTUVWXYZ"
PROTEINS = st.lists(st.tuples(st.text(LETTERS, min_size=1, max_size=30), st.integers(0, FOLDS - 1)), min_size=1)
RECORDS = [tape_record(number, "ACDEFGHIK"[: number + 2], number) for number in range(5)]


def read_proteins(path: Path) -> LabelledSequences:
    return read_proteins_keeping(path, default_folder())


def test_the_vocabulary_is_tapes() -> None:
    assert len(VOCABULARY) == 30
    assert [VOCABULARY.index(token) for token in ("<pad>", "<mask>", "<cls>", "<sep>", "<unk>")] == [0, 1, 2, 3, 4]
    assert [VOCABULARY.index(letter) for letter in "ACIKXZ"] == [5, 7, 13, 14, 27, 29]


@given(st.text(LETTERS, min_size=1))
def test_encoded_letters_come_back(sequence: str) -> None:
    assert "".join(VOCABULARY[token] for token in encode(sequence)) == sequence


@given(st.text(LETTERS), st.characters().filter(lambda letter: letter not in LETTERS), st.text())
def test_what_is_no_amino_acid_is_refused(before: str, letter: str, after: str) -> None:
    with pytest.raises(ValueError) as refusal:
        encode(before + letter + after)
    assert str(refusal.value).startswith(f"{letter!r} at residue {len(before) + 1} ")


@settings(max_examples=12)  # LMDB is read in a process of its own
@given(
    proteins=PROTEINS, protocol=st.integers(0, pickle.HIGHEST_PROTOCOL), wrap=st.sampled_from([int, np.int64, np.array])
)
def test_json_and_lmdb_give_what_was_written(
    proteins: list[tuple[str, int]], protocol: int, wrap: Any, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("tape")
    records = [tape_record(number, sequence, fold) for number, (sequence, fold) in enumerate(proteins)]
    text = read_proteins(write_tape_json(folder / "text", "train", records))
    pickles = tape_pickles([{**record, "fold_label": wrap(record["fold_label"])} for record in records], protocol)
    for read in (text, read_proteins(write_tape_lmdb(folder / "database", "train", pickles))):
        assert [(len(sequence), fold) for sequence, fold in proteins] == list(
            zip(read.lengths.tolist(), read.targets.tolist(), strict=True)
        )
        assert "".join(VOCABULARY[token] for token in read.values) == "".join(sequence for sequence, _ in proteins)


def test_json_goes_before_lmdb_and_the_subfolder_before_the_folder(tmp_path: Path) -> None:
    below = tmp_path / "remote_homology"
    assert find_split(tmp_path, "valid") is None
    database = write_tape_lmdb(tmp_path, "valid", tape_pickles(RECORDS))
    assert find_split(tmp_path, "valid") == database
    text = write_tape_json(tmp_path, "valid", RECORDS)
    assert find_split(tmp_path, "valid") == text
    database = write_tape_lmdb(below, "valid", tape_pickles(RECORDS))
    assert find_split(tmp_path, "valid") == database
    assert find_split(tmp_path, "train") is None


@pytest.mark.parametrize("kind", ["json", "lmdb"])
def test_a_second_reading_opens_what_the_first_kept(tmp_path: Path, kind: str) -> None:
    path = _write(tmp_path, kind, RECORDS)
    first = read_proteins(path)
    file = path / "data.mdb" if kind == "lmdb" else path
    before = file.stat()
    file.write_bytes(b"x" * before.st_size)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    for ours, theirs in zip(first, read_proteins(path), strict=True):
        assert np.array_equal(ours, theirs)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns + 1))
    with pytest.raises(FPTError):
        read_proteins(path)


def _write(folder: Path, kind: str, records: list[dict[str, object]]) -> Path:
    if kind == "json":
        return write_tape_json(folder, "train", records)
    return write_tape_lmdb(folder, "train", tape_pickles(records))


RECORD_ERRORS: dict[str, tuple[Any, str]] = {
    "J": ({**RECORDS[0], "primary": "ACJ"}, "'J' at residue 3 is no amino acid"),
    "lower case": ({**RECORDS[0], "primary": "Ac"}, "'c' at residue 2"),
    "no residues": ({**RECORDS[0], "primary": ""}, "'primary' is not"),
    "a list of residues": ({**RECORDS[0], "primary": ["A"]}, "'primary' is not"),
    "no sequence": ({"fold_label": 1}, "'primary' is not"),
    "no fold": ({"primary": "A"}, "'fold_label' is None"),
    "a fold too many": ({**RECORDS[0], "fold_label": FOLDS}, "'fold_label' is 1195, not a number below 1195"),
    "a fold below zero": ({**RECORDS[0], "fold_label": -1}, "'fold_label' is -1"),
    "a fold in words": ({**RECORDS[0], "fold_label": "a.1"}, "'fold_label' is 'a.1'"),
    "two folds": ({**RECORDS[0], "fold_label": [1, 2]}, "'fold_label' is [1, 2]"),
    "ragged folds": ({**RECORDS[0], "fold_label": [1, [2]]}, "'fold_label' is [1, [2]]"),
    "not a record": ([1], "not a record"),
}


@pytest.mark.parametrize("case", RECORD_ERRORS)
@pytest.mark.parametrize("kind", ["json", "lmdb"])
def test_a_wrong_record_is_named(tmp_path: Path, kind: str, case: str) -> None:
    record, message = RECORD_ERRORS[case]
    path = _write(tmp_path, kind, [*RECORDS, record])
    with pytest.raises(FPTError) as error:
        read_proteins(path)
    assert str(error.value).startswith(f"{path}, {'record' if kind == 'json' else 'key'} 5: ")
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "line 1 column 1: Expecting value"),
        (b"{}", "not TAPE's JSON: a list"),
        (b" [ ]", "has no records"),
        (b"[{]", "line 1 column 3: Expecting property name"),
        (b'[{"primary": "A", "fold_label": 1}\n {', "line 2 column 2: Expecting ',' delimiter"),
        (b'[{"primary": "A", "fold_label": 1},\n', "line 2 column 1: Expecting value"),
        (b'[{"primary": "A", "fold_label": 1}] [', "line 1 column 37: Extra data"),
        (b'[{"primary": "\xff"}]', "is not JSON"),
        (b"[" * 100_000, "is not JSON"),
        (b'[{"protein_length": ' + b"1" * 5000 + b"}]", "is not JSON"),
    ],
)
def test_damaged_json_is_named(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "remote_homology_train.json"
    path.write_bytes(content)
    with pytest.raises(FPTError) as error:
        read_proteins(path)
    assert str(path) in str(error.value)
    assert message in str(error.value)


WHOLE = json.dumps([{"primary": "ACD", "fold_label": 3, "evolutionary": [[0.5]]}] * 2)


@given(end=st.integers(0, len(WHOLE) - 1))
def test_json_cut_anywhere_is_refused(end: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("cut") / "remote_homology_train.json"
    path.write_text(WHOLE[:end])
    with pytest.raises(FPTError, match=r"remote_homology_train\.json"):
        read_proteins(path)


class Touch:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.path}",)


@pytest.mark.parametrize("key", ["0", "3", "num_examples"])
def test_a_malicious_pickle_is_named_and_not_run(tmp_path: Path, key: str) -> None:
    pickles = {**tape_pickles(RECORDS), key: pickle.dumps({**RECORDS[0], "evolutionary": Touch(tmp_path / "hacked")})}
    path = write_tape_lmdb(tmp_path, "train", pickles)
    with pytest.raises(FPTError) as error:
        read_proteins(path)
    system = f"{os.system.__module__}.system"
    assert str(error.value) == f"{path}, key {key}: the pickle asks for {system}, which is not plain data"
    assert not (tmp_path / "hacked").exists()


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("2", b"", "key 2: damaged pickle: pickle exhausted"),
        ("2", pickle.dumps(RECORDS[2])[:-40], "key 2: "),
        ("num_examples", pickle.dumps("five"), "key num_examples: 'five' is not a number"),
        ("num_examples", pickle.dumps(7), "has no key 5"),
        ("num_examples", pickle.dumps(0), "has no records"),
    ],
)
def test_a_damaged_record_of_an_lmdb_is_named(tmp_path: Path, key: str, value: bytes, message: str) -> None:
    path = write_tape_lmdb(tmp_path, "train", {**tape_pickles(RECORDS), key: value})
    with pytest.raises(FPTError) as error:
        read_proteins(path)
    assert str(path) in str(error.value)
    assert message in str(error.value)


def test_a_missing_count_is_named(tmp_path: Path) -> None:
    path = write_tape_lmdb(tmp_path, "train", {"0": b""})
    with pytest.raises(FPTError, match="has no key num_examples"):
        read_proteins(path)


@pytest.mark.parametrize("keep", [0, 100, 5000, -1, -4096, -10_000])
def test_a_truncated_database_is_named(tmp_path: Path, keep: int) -> None:
    """Reading beyond the end of the file would end the process."""
    path = write_tape_lmdb(tmp_path, "train", tape_pickles([tape_record(0, "A" * 900, 0)] * 3))
    data = path / "data.mdb"
    data.write_bytes(data.read_bytes()[:keep])
    with pytest.raises(FPTError, match=r"data\.mdb (is damaged|has [\d,]+ bytes where its header promises)"):
        read_proteins(path)


@pytest.mark.parametrize("content", [b"\x00" * 20_000, b"<html>" * 4000])
def test_a_file_that_is_no_database_is_named(tmp_path: Path, content: bytes) -> None:
    path = write_tape_lmdb(tmp_path, "train", tape_pickles(RECORDS))
    (path / "data.mdb").write_bytes(content)
    with pytest.raises(FPTError, match=r"data\.mdb is damaged .*; fetch it again"):
        read_proteins(path)


def test_a_database_is_read_without_a_lock(tmp_path: Path) -> None:
    path = write_tape_lmdb(tmp_path, "train", tape_pickles(RECORDS))
    (path / "lock.mdb").unlink()
    assert read_proteins(path).targets.tolist() == [0, 1, 2, 3, 4]
    assert [entry.name for entry in path.iterdir()] == ["data.mdb"]


def test_without_the_package_the_way_out_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_tape_lmdb(tmp_path, "train", tape_pickles(RECORDS))
    monkeypatch.setitem(sys.modules, "lmdb", None)
    with pytest.raises(FPTError, match=r"pip install 'fpt-lightning\[proteins\]'"):
        read_proteins(path)
    assert len(read_proteins(write_tape_json(tmp_path, "train", RECORDS)).lengths) == 5


def _with_sizes_beyond_the_file(database: bytes) -> bytes:
    """An LMDB whose long values claim 256 MiB each: every page is there, what is read lies behind the last."""
    content, page = bytearray(database), 4096
    for start in range(2 * page, len(content), page):  # behind the two heads
        kind, lower = struct.unpack_from("<HH", content, start + 10)
        for place in range(16, lower, 2) if kind == 2 else ():  # the nodes of a leaf
            (offset,) = struct.unpack_from("<H", content, start + place)
            if struct.unpack_from("<H", content, start + offset + 4)[0] & 1:  # a value on pages of its own
                struct.pack_into("<HH", content, start + offset, 0, 0x1000)
    assert content != database
    return bytes(content)


def test_an_lmdb_that_kills_its_reader_is_named(tmp_path: Path) -> None:
    records = [tape_record(number, "ACDEFGHIK" * 9, number) for number in range(5)]
    path = write_tape_lmdb(tmp_path, "train", tape_pickles(records))
    assert len(read_proteins(path).lengths) == 5
    data = path / "data.mdb"
    data.write_bytes(_with_sizes_beyond_the_file(data.read_bytes()))
    with pytest.raises(FPTError, match=r"data\.mdb is damaged \(its reader died of SIG(BUS|SEGV)\)"):
        read_proteins(path)


@pytest.mark.parametrize("more", [" and more", "[]", "{}"])
def test_text_behind_the_records_is_refused(tmp_path: Path, more: str) -> None:
    path = write_tape_json(tmp_path, "train", RECORDS)
    path.write_text(path.read_text() + more)
    with pytest.raises(FPTError, match=r"train\.json, line 1 column \d+: Extra data"):
        read_proteins(path)


def test_a_label_that_holds_itself_without_end_is_shown_in_short(tmp_path: Path) -> None:
    """Sixty pairs, each of the one before twice: written out they are 2^60 of them."""
    label = b"K\x01" + b"2\x86" * 60
    record = b"\x80\x02}(X\x07\x00\x00\x00primaryX\x03\x00\x00\x00ACDX\x0a\x00\x00\x00fold_label" + label + b"u."
    path = write_tape_lmdb(tmp_path, "train", {"0": record, "num_examples": pickle.dumps(1)})
    with pytest.raises(FPTError, match=r"key 0: 'fold_label' is .{1,60}, not a number below 1195"):
        read_proteins(path)
