import hashlib
import io
import sys
import tarfile
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning as L
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from conftest import TAPE_HOLDOUTS, Fpt, tape_pickles, tape_record, write_tape_json, write_tape_lmdb
from fpt_lightning.data.datamodule import SPLITS
from fpt_lightning.data.download import RemoteFile
from fpt_lightning.data.proteins.datamodule import CLS, SEP, RemoteHomology
from fpt_lightning.data.proteins.records import VOCABULARY
from fpt_lightning.data.proteins.tape import find_split
from fpt_lightning.errors import FPTError, UsageError
from fpt_lightning.training.classification import FPTClassifier

NAMES = ("train", "valid", *(f"test_{level}_holdout" for level in TAPE_HOLDOUTS))


def _data(root: Path, **options: Any) -> RemoteHomology:
    return RemoteHomology(root=str(root), **{"batch_size": 4, "download": False, **options})


def _of_lengths(root: Path, lengths: list[int]) -> Path:
    """All splits with proteins of these lengths."""
    records = [tape_record(number, "ACDEFGHIKL"[number % 10] * length, number) for number, length in enumerate(lengths)]
    for name in NAMES:
        write_tape_json(root, name, records)
    return root


def test_a_protein_stands_between_cls_and_sep(tmp_path: Path) -> None:
    for name in NAMES:
        write_tape_json(tmp_path, name, [tape_record(0, "MKV", 1194), tape_record(1, "W", 7)])
    batch = _data(tmp_path).dataset("train").__getitems__([0, 1])
    m, k, v, w = (VOCABULARY.index(letter) for letter in "MKVW")
    assert batch.tokens.tolist() == [[CLS, m, k, v, SEP], [CLS, w, SEP, 0, 0]]
    assert batch.tokens.dtype == torch.int64
    assert batch.target.tolist() == [[1194], [7]]
    assert batch.mask is not None
    assert batch.mask.tolist() == [[True] * 5, [True] * 3 + [False] * 2]


def test_the_papers_sizes_are_known_before_any_file() -> None:
    task = RemoteHomology(root="nowhere").task
    assert (task.name, task.max_length, task.vocabulary_size, task.classes) == ("remote_homology", 1024, 30, 1195)
    assert (task.answers, task.metric) == (1, "accuracy")


@pytest.mark.parametrize("holdout", TAPE_HOLDOUTS)
def test_the_test_split_is_the_chosen_holdout(tape_root: Path, holdout: str) -> None:
    for level in TAPE_HOLDOUTS:
        write_tape_json(tape_root / "remote_homology", f"test_{level}_holdout", [tape_record(0, "A" * len(level), 0)])
    data = _data(tape_root, holdout=holdout)
    data.prepare_data()
    assert [len(data.dataset(split)) for split in SPLITS] == [60, 20, 1]
    assert data.dataset("test").lengths.tolist() == [len(holdout) + 2]


def test_two_holdouts_are_enough_to_test_on_one(tape_root: Path) -> None:
    (tape_root / "remote_homology/remote_homology_test_family_holdout.json").unlink()
    _data(tape_root).prepare_data()


@given(lengths=st.lists(st.integers(1, 20), min_size=1, max_size=12), limit=st.integers(3, 22))
def test_long_proteins_are_truncated_or_left_out(
    lengths: list[int], limit: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    root = _of_lengths(tmp_path_factory.mktemp("tape"), lengths)
    longer = [number for number, length in enumerate(lengths) if length + 2 > limit]

    whole = _data(root, limit=limit)
    table = whole.dataset("test")
    assert table.lengths.tolist() == [min(length + 2, limit) for length in lengths]
    assert table.values.tolist().count(SEP) == len(lengths)
    assert [batch.tokens[0, -1].item() for batch in map(table.__getitem__, range(len(lengths)))] == [SEP] * len(lengths)
    assert table.targets[:, 0].tolist() == list(range(len(lengths)))
    assert whole.longer("test") == len(longer)
    assert whole.kept_share("test") == 1

    skipping = _data(root, limit=limit, too_long="skip_and_scale")
    kept = [number for number in range(len(lengths)) if number not in longer]
    assert skipping.kept_share("test") == len(kept) / len(lengths)
    if not kept:
        with pytest.raises(UsageError, match=f"data.limit {limit} leaves no example of test_fold_holdout"):
            skipping.dataset("test")
        return
    table = skipping.dataset("test")
    assert table.lengths.tolist() == [lengths[number] + 2 for number in kept]
    assert table.targets[:, 0].tolist() == kept


def test_what_becomes_of_long_proteins_is_said(tmp_path: Path) -> None:
    root = _of_lengths(tmp_path, [10, 20, 30, 40])
    lines = "\n".join(_data(root, limit=32).describe())
    assert (
        "train: 4 of TAPE's 12,312 proteins of 10 to 40 amino acids, mean 25; 1 longer than 32 tokens truncated"
        in lines
    )
    lines = "\n".join(_data(root, limit=31, too_long="skip_and_scale").describe())
    assert "remote_homology: 2 train, 2 validation, 2 test" in lines
    assert "test_fold_holdout: 4 of TAPE's 718" in lines
    assert "2 longer than 31 tokens left out, accuracy x 0.5000; 4 of 1,195 folds, 4 of them in train" in lines
    assert "none longer than 1,024 tokens;" in "\n".join(_data(root).describe())


def test_the_fingerprint_follows_the_content_and_not_the_format(tape_root: Path, tmp_path: Path) -> None:
    records = [tape_record(number, "ACDEFG"[: number + 1], number) for number in range(6)]
    for name in NAMES:
        write_tape_json(tmp_path / "text", name, records)
        write_tape_lmdb(tmp_path / "database", name, tape_pickles(records))
    before = _data(tmp_path / "text").fingerprint()
    assert _data(tmp_path / "text", seed=3).fingerprint() == before
    assert _data(tmp_path / "database").fingerprint() == before
    assert _data(tmp_path / "text", too_long="skip_and_scale").fingerprint() != before
    assert _data(tmp_path / "text", limit=5).fingerprint() != before
    assert _data(tmp_path / "text", holdout="family").fingerprint() != before
    write_tape_json(tmp_path / "text", "valid", records[::-1])
    assert _data(tmp_path / "text").fingerprint() != before


def test_little_is_padded(tmp_path: Path) -> None:
    """Lengths as SCOP's domains have them: log-normal about 150, up to beyond the limit."""
    drawn = torch.empty(800).log_normal_(5, 0.55, generator=torch.Generator().manual_seed(0))
    records = [{"primary": "A" * length, "fold_label": 0} for length in drawn.long().clamp(20, 1300).tolist()]
    for name in NAMES:
        write_tape_json(tmp_path, name, records)
    data = _data(tmp_path, batch_size=16, eval_batch_size=16)
    for loader in (data.train_dataloader(), data.val_dataloader()):
        tokens = real = 0
        for batch in loader:
            tokens += batch.tokens.numel()
            real += batch.tokens.numel() if batch.mask is None else int(batch.mask.sum())
        assert tokens * 0.85 < real < tokens


@pytest.mark.parametrize("name", ["train", "valid", "test_fold_holdout"])
def test_a_missing_split_is_named(tape_root: Path, name: str) -> None:
    (tape_root / f"remote_homology/remote_homology_{name}.json").unlink()
    data = _data(tape_root)
    split = {"train": "train", "valid": "validation"}.get(name, "test")
    for ask in (data.prepare_data, lambda: data.dataset(split)):  # type: ignore[arg-type]
        with pytest.raises(FPTError) as error:
            ask()
        first, second = str(error.value).splitlines()
        assert f"no {name} (remote_homology_{name}.json or .lmdb) in {tape_root} or " in first
        assert "https://s3.amazonaws.com/songlabdata" in second


def test_a_limit_without_room_is_refused() -> None:
    with pytest.raises(UsageError, match=r"data\.limit must be at least 3"):
        RemoteHomology(limit=2)


@pytest.fixture
def archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """TAPE's archive on a server of its own."""
    folder = tmp_path / "server"
    for name in NAMES:
        records = [tape_record(number, "ACDEFG"[: number + 1], number) for number in range(6)]
        write_tape_lmdb(folder / "remote_homology", name, tape_pickles(records))
    path = folder / "remote_homology.tar.gz"
    with tarfile.open(path, "w:gz") as tar:
        tar.add(folder / "remote_homology", "remote_homology")
    handler = partial(SimpleHTTPRequestHandler, directory=str(folder))
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    url = f"http://127.0.0.1:{server.server_address[1]}/{path.name}"
    checksum = f"md5:{hashlib.md5(path.read_bytes()).hexdigest()}"
    monkeypatch.setattr(RemoteHomology, "ARCHIVE", RemoteFile(path.name, (url,), checksum))
    yield path
    server.shutdown()
    server.server_close()


def test_missing_splits_are_fetched_and_unpacked(
    archive: Path, fpt: Fpt, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["prepare", "--config=remote_homology.yaml", f"--data.root={tmp_path / 'new'}", "--data.batch_size=2"]
    assert fpt(*words) == 0
    assert "train: 6 of TAPE's 12,312 proteins" in capsys.readouterr().out
    assert find_split(tmp_path / "new", "train") == tmp_path / "new/remote_homology/remote_homology_train.lmdb"
    archive.unlink()
    (tmp_path / "new" / archive.name).unlink()
    assert fpt(*words) == 0


def test_without_the_package_nothing_is_fetched(archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lmdb", None)
    with pytest.raises(FPTError, match="pip install"):
        _data(tmp_path / "new", download=True).prepare_data()
    assert not (tmp_path / "new").exists()


def test_a_failed_fetch_says_where_the_file_goes(
    fpt: Fpt, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    nowhere = RemoteFile("remote_homology.tar.gz", ("http://127.0.0.1:9/a", "http://127.0.0.1:9/b"), f"md5:{'0' * 32}")
    monkeypatch.setattr(RemoteHomology, "ARCHIVE", nowhere)
    assert fpt("prepare", "--config=remote_homology.yaml", "--data.root=empty") == 1
    error = capsys.readouterr().err
    message = error[error.index("fpt: error: ") :].rstrip("\n")
    assert message.count("\n") == 1
    assert "http://127.0.0.1:9/a (" in message
    assert "http://127.0.0.1:9/b (" in message
    assert "put the file into empty by hand" in message


def test_an_archive_that_lacks_a_split_is_not_enough(
    archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with tarfile.open(archive, "w:gz") as tar:
        tar.addfile(tarfile.TarInfo("remote_homology/other"), io.BytesIO())
    checksum = f"md5:{hashlib.md5(archive.read_bytes()).hexdigest()}"
    monkeypatch.setattr(RemoteHomology, "ARCHIVE", RemoteFile(archive.name, RemoteHomology.ARCHIVE.urls, checksum))
    with pytest.raises(FPTError, match=r"no train, valid, test_fold_holdout \(remote_homology_train\.json"):
        _data(tmp_path / "new", download=True).prepare_data()


def test_proteins_left_out_count_as_wrong(tape_root: Path) -> None:
    """An accuracy over those that were read times the share that was (FPT section 2.2)."""
    data = RemoteHomology(root=str(tape_root), limit=50, too_long="skip_and_scale")
    model = FPTClassifier(data.task, "tiny")
    trainer = L.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False)
    folds, read = data.proteins("test").targets, data.dataset("test").targets
    assert 0 < len(read) < len(folds)
    torch.nn.init.zeros_(model.model.output.weight)
    with torch.no_grad():
        model.model.output.bias[read[0]] = 1.0  # always answers the fold of the first protein that is read
    measured = trainer.test(model, data, verbose=False)[0]["test_accuracy"]
    assert measured == pytest.approx((read == read[0]).sum().item() / len(folds))


def test_as_released_reads_the_end_of_the_padded_batch(tmp_path: Path) -> None:
    root = _of_lengths(tmp_path, [3, 9, 5, 30])
    released = _data(root, limit=20, as_released=True)
    batch = released.dataset("train").__getitems__([0, 1, 2])
    assert batch.mask is None
    assert batch.tokens[:, -1].tolist() == [VOCABULARY.index("<pad>"), SEP, VOCABULARY.index("<pad>")]
    assert (released.task.classes, released.kept_share("test")) == (1200, 3 / 4)
    assert released.eval_batch_size == 16  # four times what is trained on
    assert next(iter(released.val_dataloader())).mask is None
    assert any("read at the end of the padded batch" in line for line in released.describe())


@pytest.mark.parametrize("stage", ["fit", "test"])
def test_the_end_of_a_batch_is_that_of_one_process(tape_root: Path, stage: str) -> None:
    strategy = SimpleNamespace(root_device=torch.device("cpu"))
    trainer: Any = SimpleNamespace(
        world_size=2, global_rank=0, strategy=strategy, limit_train_batches=1, limit_test_batches=1
    )
    for read_at in ("sep", "batch_end"):
        data = _data(tape_root, read_at=read_at)
        data.trainer = trainer
        if read_at == "sep":
            data.setup(stage)
            continue
        with pytest.raises(UsageError, match=r"2 processes .*\n.*\(--trainer\.devices 1\), or .* data\.read_at sep"):
            data.setup(stage)


def test_the_batch_size_is_part_of_a_task_that_is_read_at_its_end(tape_root: Path) -> None:
    for read_at, many in (("sep", 1), ("batch_end", 2)):
        prints = {_data(tape_root, read_at=read_at, batch_size=size).fingerprint() for size in (4, 8)}
        assert len(prints) == many


def test_each_switch_of_the_release_stands_alone(tape_root: Path) -> None:
    switches: dict[str, Any] = {"too_long": "skip_and_scale", "read_at": "batch_end", "outputs": 1200}
    prints = {_data(tape_root, **{name: value}).fingerprint() for name, value in switches.items()}
    assert len({*prints, _data(tape_root).fingerprint()}) == 4
    assert _data(tape_root, **switches).fingerprint() == _data(tape_root, as_released=True).fingerprint()


def test_fewer_classes_than_folds_are_refused() -> None:
    with pytest.raises(UsageError, match=r"data\.outputs must be at least 1195, got 1000"):
        RemoteHomology(outputs=1000)


def test_left_out_proteins_count_as_wrong_for_a_guess_too(tmp_path: Path) -> None:
    folds = [5, 5, 9, 5, 9]
    records = [tape_record(number, "A" * (10 + number), fold) for number, fold in enumerate(folds)]
    for name in NAMES:
        write_tape_json(tmp_path, name, records)
    assert _data(tmp_path).trivial_baselines() == {"commonest class": (3 / 5, 3 / 5)}
    # the last two are too long
    guess = _data(tmp_path, limit=14, too_long="skip_and_scale").trivial_baselines()["commonest class"]
    assert guess == pytest.approx((2 / 5, 2 / 5))
