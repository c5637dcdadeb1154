import json
from pathlib import Path

import pytest

from fpt_lightning.runs.folder import RunFolder


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
