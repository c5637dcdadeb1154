import os
import threading
from contextlib import suppress
from pathlib import Path

import pytest

from fpt_lightning.files import STALE, clear_parts, whole_file, whole_folder, write_whole


def test_a_file_is_replaced_once_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "result [1].json"
    write_whole(path, "old ü")
    with whole_file(path) as part:
        part.write_text("new")
        assert path.read_text(encoding="utf-8") == "old ü"
    assert path.read_text() == "new"
    assert list(path.parent.iterdir()) == [path]


def test_what_raises_leaves_the_old_content_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    write_whole(path, b"old")
    with suppress(ZeroDivisionError), whole_file(path) as part:
        part.write_text(f"ne{1 / 0}")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_leaves_the_old_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "result.json"
    write_whole(path, "old")
    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
        with pytest.raises(OSError, match="disk full"):
            write_whole(path, "new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_writers_of_one_file_do_not_mix(tmp_path: Path) -> None:
    path = tmp_path / "cache"
    contents = {letter * 200_000 for letter in "abcdefgh"}
    writers = [threading.Thread(target=write_whole, args=(path, content)) for content in contents]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert path.read_text() in contents
    assert list(tmp_path.iterdir()) == [path]


def test_parts_of_the_dead_are_cleared_those_of_the_living_are_not(tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    dead, alive, another = (tmp_path / f".{name}.part" for name in ("last.ckpt.00", "last.ckpt.01", "best.ckpt.00"))
    for part in (dead, alive, another):
        part.touch()
    for part in (dead, another):
        os.utime(part, (part.stat().st_atime, part.stat().st_mtime - STALE - 60))
    write_whole(path, b"whole")
    assert {child.name for child in tmp_path.iterdir()} == {path.name, alive.name, another.name}
    clear_parts(tmp_path)  # nobody else writes there
    assert {child.name for child in tmp_path.iterdir()} == {path.name}


def test_files_of_a_folder_move_to_their_places_together(tmp_path: Path) -> None:
    folder = tmp_path / "backbone"
    write_whole(folder / "config.json", "old")
    write_whole(folder / "tokenizer.json", "kept")
    with suppress(ZeroDivisionError), whole_folder(folder) as part:
        (part / "config.json").write_text("half")
        (part / "model.bin").write_text(f"{1 / 0}")
    assert (folder / "config.json").read_text() == "old"
    with whole_folder(folder) as part:
        (part / "deep").mkdir()
        (part / "config.json").write_text("new")
        (part / "deep" / "model.bin").write_text("values")
        (part / "link").symlink_to("/etc/passwd")
        assert (folder / "config.json").read_text() == "old"
    found = {path.relative_to(folder).as_posix(): path.read_text() for path in folder.rglob("*") if path.is_file()}
    assert found == {"config.json": "new", "tokenizer.json": "kept", "deep/model.bin": "values"}


def test_what_a_kill_left_of_a_folder_is_taken_away(tmp_path: Path) -> None:
    folder = tmp_path / "backbone"
    for name in (".dead.part", ".alive.part"):
        write_whole(folder / name / "model.bin", "half")
    os.utime(folder / ".dead.part", (0, 0))
    with whole_folder(folder) as part:
        (part / "config.json").touch()
    assert {path.name for path in folder.iterdir()} == {"config.json", ".alive.part"}
    clear_parts(folder)  # nobody else writes there
    assert {path.name for path in folder.iterdir()} == {"config.json"}
