import json
from pathlib import Path

import pytest

from fpt_lightning.errors import UsageError
from fpt_lightning.runs.folder import RunFolder, open_run_folder


def test_runs_are_numbered_under_their_task() -> None:
    assert open_run_folder("mnist", None, None).path == Path("runs/mnist/000")
    Path("runs/mnist/000").mkdir(parents=True)
    Path("runs/mnist/007").mkdir()
    Path("runs/mnist/notes").mkdir()
    assert open_run_folder("mnist", None, None).path == Path("runs/mnist/008")


def test_a_finished_run_is_never_overwritten(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    run = RunFolder(tmp_path / "run")
    run.write_result({"task": "mnist"})
    with pytest.raises(UsageError, match="holds a finished run"):
        open_run_folder("mnist", str(run.path), None)


def test_an_unfinished_run_says_how_to_go_on(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run")
    run.checkpoints.mkdir(parents=True)
    (run.checkpoints / "last.ckpt").touch()
    with pytest.raises(UsageError, match=r"add --ckpt_path .*last\.ckpt"):
        open_run_folder("mnist", str(run.path), None)
    assert open_run_folder("mnist", None, str(run.checkpoints / "last.ckpt")).path == run.path


def test_a_result_is_there_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = RunFolder(tmp_path)
    monkeypatch.setattr(Path, "replace", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        run.write_result({"task": "mnist"})
    assert not run.result.exists()
    monkeypatch.undo()
    run.write_result({"task": "mnist"})
    result = json.loads(run.result.read_text())
    assert (result["task"], result["status"]) == ("mnist", "finished")


def test_processes_started_from_outside_need_a_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    with pytest.raises(UsageError, match="--run_folder"):
        open_run_folder("mnist", None, None)
    assert open_run_folder("mnist", "mine", None).path == Path("mine")


def test_the_second_process_takes_the_folder_of_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    first = open_run_folder("mnist", None, None)
    first.path.mkdir(parents=True)
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert open_run_folder("mnist", None, None).path == first.path.absolute()
