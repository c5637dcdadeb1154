"""An archive says what the folders say, figure by figure."""

import csv
import json
import math
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml

from fpt_lightning.errors import FPTError, UsageError
from fpt_lightning.runs.archive import Archive, RunFolders, open_runs, write_archive
from fpt_lightning.runs.folder import RunFolder
from fpt_lightning.runs.lock import lock_of
from fpt_lightning.runs.outcome import Outcome, State, write_failure
from fpt_lightning.runs.result import Probe

RESULT = {"steps": 20, "best_step": 10, "lr": 1e-3, "seed": 0, "versions": {"torch": "3"}, "val_accuracy": 0.5}
CONFIG = {"seed_everything": 0, "model": {"lr": 1e-3, "part_lr": None, "trainable": ["input"], "name": "größer\n2"}}
CURVE = "step,train_loss,val_accuracy\n9,0.48750001192092896,\n19,,0.75\n"


def _run(name: str, result: dict[str, Any] | None = None, curve: str | None = CURVE) -> Path:
    folder = Path("runs") / name
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(CONFIG))
    if curve is not None:
        (folder / "metrics.csv").write_text(curve)
    if result is not None:
        (folder / "result.json").write_text(json.dumps(RESULT | result))
    return folder


def _archived(*names: str, folder: str = "kept") -> Archive:
    runs = open_runs(Path("runs"))
    write_archive(runs, {name: runs.outcome(name) for name in names}, Path(folder))
    archive = open_runs(Path(folder))
    assert isinstance(archive, Archive)
    return archive


def test_an_archive_answers_as_the_folders_do() -> None:
    _run("b", {"test_accuracy": 0.4, "trainable": ["input"], "architecture": None, "val_loss": float("nan")})
    (_run("a", {"test_accuracy": 0.3}, "step,val_r2,other\n9,-0.1,1e-05\n") / "attention.png").write_bytes(b"\x89PNG")
    (Path("runs/b") / "analysis.json").write_text(
        '{"examples": 16, "runs": [{"probe": [0.1, 0.75]}, {"probe": [0.2, 0.3]}]}'
    )
    (Path("runs/a") / "analysis.json").write_text('{"runs": [{"probe": [0.1, NaN')
    write_failure(_run("c", curve=None), "out of memory: größer\u2028als 2 GB")
    runs, archive = RunFolders(Path("runs")), _archived("a", "b", "c", "never made")
    for name in ("a", "b", "c"):
        before, after = runs.outcome(name), archive.outcome(name)
        assert (before.state, before.cause, repr(before.result)) == (after.state, after.cause, repr(after.result))
        assert repr(archive.result(name)) == repr(runs.result(name))
        assert archive.config(name) == runs.config(name) == CONFIG
        for row, kept in zip(runs.rows(name), archive.rows(name), strict=True):
            assert row == {column: figure for column, figure in kept.items() if column in row}
    assert [archive.probe(name) for name in "abc"] == [Probe(), Probe((0.1, 0.75), 16), Probe()]
    assert archive.curve("b", "accuracy") == runs.curve("b", "accuracy")
    assert archive.curve("a", "r2") == runs.curve("a", "r2")
    assert archive.curve("c", "accuracy").problem == "kept/curves.csv has no row of c"
    assert len(archive) == 3
    picture = archive.outcome("a").attention
    assert picture is not None
    assert picture.read_bytes() == b"\x89PNG"
    assert archive.outcome("never made") == Outcome(State.MISSING)
    assert archive.config("never made") is archive.result("never made") is None


def test_a_figure_that_is_not_finite_is_null_in_the_file_and_nan_to_who_reads_it() -> None:
    figures = {"val_r2": math.nan, "test_r2": -math.inf, "baselines": {"linear": {"val": math.inf}}}
    result = {name: value for name, value in RESULT.items() if name != "val_accuracy"} | figures
    folder = RunFolder(_run("new"))
    folder.write_result(result)
    (_run("old") / "result.json").write_text(json.dumps(result))  # as up to 0.5
    _archived("new", "old")
    for text in (folder.result.read_text(), *Path("kept/runs.jsonl").read_text().splitlines()):
        json.loads(text, parse_constant=pytest.fail)
    for runs in (RunFolders(Path("runs")), open_runs(Path("kept"))):
        new = runs.outcome("new").result
        assert new is not None
        assert runs.outcome("new").is_tested
        assert all(map(math.isnan, (new.validation, new.test or 0, new.baselines["linear"]["val"])))
        old = runs.outcome("old").result
        assert old is not None
        assert math.isnan(old.validation)


def test_the_files_can_be_joined() -> None:
    _run("a", {"seed": 0})
    _run("b", {"seed": 1})
    _archived("a", "b")
    lines = [json.loads(line) for line in Path("kept/runs.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [(line["run"], line["folder"], line["result"]["seed"]) for line in lines] == [(1, "a", 0), (2, "b", 1)]
    rows = list(csv.DictReader(Path("kept/curves.csv").read_text().splitlines()))
    assert [(row["run"], row["step"], row["val_accuracy"]) for row in rows] == [
        ("1", "9", ""), ("1", "19", "0.75"), ("2", "9", ""), ("2", "19", "0.75"),
    ]  # fmt: skip


def test_an_archive_of_an_archive_is_the_same() -> None:
    _run("a", {"test_accuracy": 0.3}, "step,val_r2\n9,0.1\n")
    _run("b", {})
    archive = _archived("a", "b")
    write_archive(archive, {name: archive.outcome(name) for name in "ab"}, Path("again"))
    for name in ("runs.jsonl", "curves.csv"):
        assert Path("again", name).read_bytes() == Path("kept", name).read_bytes()


def test_a_kill_between_the_files_gives_no_run_the_curve_of_another(monkeypatch: pytest.MonkeyPatch) -> None:
    _run("b", {})
    _run("c", {}, "step,val_accuracy\n9,0.9\n")
    assert _archived("b", "c").curve("c", "accuracy").validation == [(10, 0.9)]
    _run("a", {}, "step,val_accuracy\n9,0.1\n")

    def killed(path: Path, place: Path) -> Path:
        if path.name == "runs.jsonl":
            raise KeyboardInterrupt
        return replace(path, place)

    replace = Path.replace
    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", killed)
        with pytest.raises(KeyboardInterrupt):
            _archived("a", "b", "c")
    archive = Archive(Path("kept"))
    for read in (partial(archive.curve, "c", "accuracy"), partial(archive.rows, "c")):
        with pytest.raises(
            FPTError, match=r"curves\.csv has another curve of c than .*runs\.jsonl.* archive the run folders again"
        ):
            read()
    assert _archived("a", "b", "c").curve("c", "accuracy").validation == [(10, 0.9)]


def test_a_kill_before_the_files_are_whole_leaves_the_archive_that_was_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """Which may be the only place of its runs: they are archived anew from itself."""
    _run("b", {})
    before = {name: Path(_archived("b").folder, name).read_bytes() for name in ("curves.csv", "runs.jsonl")}
    _run("a", {}, "step,val_accuracy\n9,0.1\n")

    def killed(path: Path, content: bytes) -> int:
        if path.name == "runs.jsonl":
            raise KeyboardInterrupt
        return write_bytes(path, content)

    write_bytes = Path.write_bytes
    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", killed)
        with pytest.raises(KeyboardInterrupt):
            _archived("a", "b")
    assert {name: Path("kept", name).read_bytes() for name in before} == before


def test_runs_that_are_nowhere_else_are_not_thrown_away() -> None:
    _run("b", {})
    write_failure(_run("c"), "out of memory")
    _run("a", {})
    _archived("a", "b", "c")
    _archived("a")  # the others have their folders
    _archived("a", "b", "c")
    for name in "bc":
        shutil.rmtree(f"runs/{name}")
    with pytest.raises(UsageError, match="kept alone holds 1 runs, such as b, that these options leave out"):
        _archived("a")
    continued = open_runs(Path("runs"), Path("kept"))
    write_archive(continued, {name: continued.outcome(name) for name in "ab"}, Path("kept"))
    Path("kept/runs.jsonl").write_text("<<<<<<< HEAD\n" + Path("kept/runs.jsonl").read_text())
    with pytest.raises(FPTError, match=r"line 1, is no run: .*; bring it back from where it is kept"):
        _archived("a")


def test_figures_of_the_test_split_are_not_thrown_away() -> None:
    _run("a", {"test_accuracy": 0.4})
    _archived("a")
    (Path("runs/a") / "result.json").write_text(json.dumps(RESULT))
    with pytest.raises(UsageError, match=r"kept alone holds 1 runs, such as a, .* that came less far"):
        _archived("a")


@pytest.mark.parametrize("name", ["README.md", "b/result.json"])
def test_a_folder_of_other_things_is_no_place_for_an_archive(name: str) -> None:
    _run("a", {})
    for other in (name, "attention/mine.png"):
        Path("kept", other).parent.mkdir(parents=True, exist_ok=True)
        Path("kept", other).write_text("mine")
    with pytest.raises(UsageError, match=rf"kept holds {name.split('/')[0]} and no runs\.jsonl"):
        _archived("a")
    assert Path("kept", name).read_text() == "mine"
    shutil.rmtree(Path("kept", name).parent) if "/" in name else Path("kept", name).unlink()
    _archived("a")
    assert Path("kept/attention/mine.png").exists()


def test_a_run_that_was_stopped_is_known_by_its_archive() -> None:
    (_run("a") / "checkpoints").mkdir()
    Path("runs/a/checkpoints/last.ckpt").touch()
    _archived("a")
    continued = open_runs(Path("empty"), Path("kept"))
    assert continued.outcome("a").state is State.STOPPED
    assert continued.curve("a", "accuracy").validation == open_runs(Path("runs")).curve("a", "accuracy").validation


def test_pictures_of_what_is_archived_no_more_go() -> None:
    (_run("a", {}) / "attention.png").write_bytes(b"\x89PNG")
    assert _archived("a").outcome("a").attention is not None
    Path("runs/a/attention.png").unlink()
    assert _archived("a").outcome("a").attention is None


def test_a_row_that_a_kill_cut_off_is_kept_as_far_as_it_is_there() -> None:
    _run("a", {}, CURVE + "29")
    assert _archived("a").rows("a")[-1] == {"step": "29", "train_loss": "", "val_accuracy": ""}


def test_nothing_runs_in_an_archive() -> None:
    with lock_of(_run("a")):
        assert open_runs(Path("runs")).outcome("a").state is State.RUNNING
        assert _archived("a").outcome("a").state is State.STOPPED


def test_a_result_that_is_none_leaves_its_cause() -> None:
    (_run("a", {}) / "result.json").write_text('{"steps": "many"}')
    outcome = _archived("a").outcome("a")
    assert outcome.state is State.FAILED
    assert outcome.cause is not None
    assert "is no usable result" in outcome.cause


def test_what_cannot_be_archived_is_told() -> None:
    with pytest.raises(FPTError, match="nothing to archive"):
        _archived("never made")
    _run("a", {})
    with pytest.raises(UsageError, match="holds the runs themselves"):
        _archived("a", folder="runs")
    _run("b", {}, "step,val_accuracy\n9,0.5,0.5\n")
    with pytest.raises(FPTError, match=r"b/metrics\.csv cannot be read"):
        _archived("b")
    Path("file").touch()
    with pytest.raises(FPTError, match="choose another with --archive"):
        _archived("a", folder="file/kept")


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("runs.jsonl", '{"run": 1}\n', r"runs\.jsonl, line 1, is no run"),
        ("runs.jsonl", "[" * 10**5 + "\n", r"runs\.jsonl, line 1, is no run"),
        ("runs.jsonl", "\n", r"runs\.jsonl, line 1, is no run"),
        ("curves.csv", "run,step,val_accuracy\n1,9\n", r"curves\.csv, line 2, has 2 of 3 figures"),
        ("curves.csv", b"\xff", r"curves\.csv cannot be read"),
        ("curves.csv", None, r"curves\.csv cannot be read"),
    ],
)
def test_a_damaged_archive_says_where(name: str, content: str | bytes | None, problem: str) -> None:
    _run("a", {})
    archive = _archived("a")
    file = Path("kept") / name
    file.unlink()
    if content is not None:
        file.write_bytes(content if isinstance(content, bytes) else content.encode())
    read = archive.outcome if name == "runs.jsonl" else partial(archive.curve, metric="accuracy")
    with pytest.raises(FPTError, match=problem):
        read("a")


def test_figures_that_are_none_are_a_problem_of_the_curve() -> None:
    _run("a", {})
    archive = _archived("a")
    line = json.loads(Path("kept/runs.jsonl").read_text())
    del line["curve"]  # as archives before 0.5 have none
    Path("kept/runs.jsonl").write_text(json.dumps(line) + "\n")
    Path("kept/curves.csv").write_text("run,step,val_accuracy\n1,9,half\n")
    problem = archive.curve("a", "accuracy").problem
    assert problem is not None
    assert problem.startswith("kept/curves.csv cannot be read")
