import json
from pathlib import Path

import pytest

from fpt_lightning.runs.folder import RunFolder, kept


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


def test_what_kills_left_is_taken_away_when_a_run_begins(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    run.checkpoints.mkdir()
    names = ("metrics.csv", "result.json", "trained.safetensors", "checkpoints/last.ckpt")
    for name in names:
        (tmp_path / name).with_name(f".{Path(name).name}.0123abcd.part").touch()
    run.metrics.touch()
    run.begin()
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["checkpoints", "metrics.csv"]


def test_what_was_made_of_the_last_checkpoint_goes_when_the_run_goes_on(tmp_path: Path) -> None:
    run = RunFolder(tmp_path, kept({"last_checkpoint": {"filename": "newest"}}))
    for name in ("attention.png", "attention-newest.json", "analysis-newest.png", "attention-step4.png", "mine.png"):
        (tmp_path / name).touch()
    run.begin()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["attention-step4.png", "mine.png"]
