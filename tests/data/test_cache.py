"""What is kept for the next start: once made, never damaged in silence, never beside the data."""

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fpt_lightning.data.cache import Tensors, cache_file, default_folder, kept
from fpt_lightning.data.datamodule import FPTDataModule
from fpt_lightning.data.images.folder import ImageFolder
from fpt_lightning.data.listops.datamodule import ListOps
from fpt_lightning.data.proteins.datamodule import RemoteHomology
from fpt_lightning.data.text.datamodule import TextFolder

MADE = {
    "bytes": torch.arange(9, dtype=torch.uint8).view(3, 3),
    "ids": torch.tensor([0, 65535, 7], dtype=torch.uint16),
    "lengths": torch.tensor([2, -3]),
    "nothing": torch.empty(0, 4),
}


class Maker:
    """Counts how often it is asked."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self) -> Tensors:
        self.calls += 1
        return MADE


def _as_made(tensors: Tensors) -> bool:
    return tensors.keys() == MADE.keys() and all(
        tensors[name].dtype == made.dtype and tensors[name].shape == made.shape and torch.equal(tensors[name], made)
        for name, made in MADE.items()
    )


def test_the_folder_is_the_users(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", "/elsewhere")
    assert default_folder() == Path("/elsewhere/fpt-lightning")
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    assert default_folder() == tmp_path / ".cache" / "fpt-lightning"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert default_folder() == tmp_path / ".cache" / "fpt-lightning"


def test_what_is_kept_is_made_once_for_every_key(tmp_path: Path) -> None:
    make, file = Maker(), cache_file(tmp_path / "new" / "folder", "kind", "what", 3)
    for key in (["first", 1], ["first", 1], ["second", 2], ["second", 2], ["first", 1]):
        assert _as_made(kept(file, key, make))
    assert make.calls == 3
    assert [path.name for path in file.parent.iterdir()] == [file.name]
    assert re.fullmatch(r"kind-[0-9a-f]{16}\.safetensors", file.name)
    assert file != cache_file(file.parent, "kind", "what", 4)
    assert file.stat().st_mode & 0o777 == 0o644  # a folder may be shared


@given(length=st.floats(0, 1, exclude_max=True))
def test_a_cut_file_is_made_anew(length: float, tmp_path_factory: pytest.TempPathFactory) -> None:
    file, make = tmp_path_factory.mktemp("cache") / "kept", Maker()
    kept(file, "key", make)
    whole = file.read_bytes()
    file.write_bytes(whole[: int(length * len(whole))])
    for _ in range(2):
        assert _as_made(kept(file, "key", make))
    assert make.calls == 2
    assert len(file.read_bytes()) == len(whole)


def test_no_flipped_bit_of_a_file_gives_other_tensors(tmp_path: Path) -> None:
    make, file = Maker(), tmp_path / "kept"
    kept(file, "key", make)
    whole = file.read_bytes()
    for place in range(len(whole)):
        file.write_bytes(whole[:place] + bytes([whole[place] ^ 1 << place % 8]) + whole[place + 1 :])
        assert _as_made(kept(file, "key", make))
    assert make.calls > len(whole) * 0.9  # some bits of a header say nothing


def test_where_nothing_can_be_written_a_warning_says_so_and_every_start_makes(tmp_path: Path) -> None:
    make = Maker()
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    for _ in range(2):
        with pytest.warns(UserWarning, match=r"file cannot be written \(.+\), so every start makes anew"):
            assert _as_made(kept(tmp_path / "file" / "kept", "key", make))
    with pytest.warns(UserWarning, match=r"data\.cache_folder names another"):
        assert _as_made(kept(tmp_path / "folder", "key", make))  # a folder where the file would be
    assert make.calls == 3
    assert {path.name for path in tmp_path.iterdir()} == {"file", "folder"}


Read = Callable[[], FPTDataModule]

TASKS: dict[str, Callable[[Path], FPTDataModule]] = {
    "image_root": lambda root: ImageFolder(root=str(root), batch_size=4),
    "listops_root": lambda root: ListOps(root=str(root), source=str(root), batch_size=4),
    "tape_root": lambda root: RemoteHomology(root=str(root), download=False),
    "text_root": lambda root: TextFolder(str(root), vocabulary=300, context=32, validation_books=2, test_books=2),
}


@pytest.fixture
def listops_root(tmp_path: Path) -> Path:
    """Long Range Arena's three files, with ten expressions each."""
    (tmp_path / "listops").mkdir()
    for split in ("train", "val", "test"):
        lines = ["Source\tTarget", *(f"( ( ( [MAX {digit} ) 3 ) ] )\t{max(digit, 3)}" for digit in range(10))]
        (tmp_path / "listops" / f"basic_{split}.tsv").write_text("\n".join(lines) + "\n")
    return tmp_path / "listops"


@pytest.fixture(params=TASKS)
def task(request: pytest.FixtureRequest) -> tuple[Path, Read]:
    """The folder of a task's data, and what reads it as a new process would."""
    root: Path = request.getfixturevalue(request.param)

    def read() -> FPTDataModule:
        data = TASKS[request.param](root)
        data.prepare_data()
        return data

    return root, read


def test_reading_leaves_nothing_beside_the_data(task: tuple[Path, Read]) -> None:
    root, read = task
    places = sorted([root, *root.rglob("*")])
    for place in places:
        place.chmod(0o555 if place.is_dir() else 0o444)
    try:
        assert read().fingerprint() == read().fingerprint()
    finally:
        for place in places:
            place.chmod(0o755 if place.is_dir() else 0o644)
    assert sorted([root, *root.rglob("*")]) == places
    assert list(default_folder().iterdir())


def test_what_is_kept_of_a_task_is_never_believed_unseen(task: tuple[Path, Read]) -> None:
    """Of 40 flipped bits in what was kept of proteins, 24 once gave other proteins or folds in silence."""
    _, read = task
    data = read()
    before, batch = data.fingerprint(), data.sample(8, torch.device("cpu"))
    whole = {file: file.read_bytes() for file in default_folder().iterdir()}
    for flip in range(12):
        for file, content in whole.items():
            place = flip * len(content) // 12 + 9
            file.write_bytes(content[:place] + bytes([content[place] ^ 1 << flip % 8]) + content[place + 1 :])
        damaged = read()
        assert damaged.fingerprint() == before
        assert torch.equal(damaged.sample(8, torch.device("cpu")).tokens, batch.tokens)
    assert set(default_folder().iterdir()) == whole.keys()


def test_a_task_whose_cache_cannot_be_written_is_read_all_the_same(task: tuple[Path, Read]) -> None:
    _, read = task
    before = read().fingerprint()
    shutil.rmtree(default_folder())
    default_folder().touch()
    with pytest.warns(UserWarning, match="cannot be written"):
        assert read().fingerprint() == before


def test_another_folder_can_be_named(image_root: Path) -> None:
    ImageFolder(root=str(image_root), cache_folder="mine").prepare_data()
    assert len(list(Path("mine").iterdir())) == 1
    assert not default_folder().exists()
