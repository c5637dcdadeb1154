"""A table that is kept as one folder: `fpt report --archive`, and what reads it."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from run_folders import EXPERIMENTS, finish, grid_of

from fpt_lightning.experiments.grid import Grid
from fpt_lightning.main import main
from fpt_lightning.runs.archive import open_runs, write_archive
from fpt_lightning.runs.folder import RunFolder
from fpt_lightning.runs.outcome import Outcome, State, write_failure

REPORT = ["report", "table2", "--experiments", "declared.yaml", "--folder", "tables"]


def _made(**how: object) -> Grid:
    """A table with failures, a run that was not tested, a damaged result and attention maps."""
    grid = grid_of(**how)
    for number, run in enumerate(grid.all_runs()):
        finish(run, 0.5 + number / 100, test_accuracy=None if number == 4 else 0.5)
        if number == 1:
            (run.folder / "result.json").unlink()
            write_failure(run.folder, "out of memory")
        if number == 2:
            (run.folder / "result.json").write_text("{")
        if number in (3, 7):
            (run.folder / "attention.png").write_bytes(b"\x89PNG" + bytes([number]))
    return grid


@pytest.mark.parametrize("protocol", ["paper", "fair"])
@pytest.mark.parametrize("kind", ["markdown", "latex", "html"])
def test_an_archived_table_is_the_table(protocol: str, kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    grid = _made(protocol=protocol)
    options = ["--protocol", protocol, "--format", kind, "--out", "page"]
    assert main([*REPORT, *options]) == 0
    live = Path("page").read_text()
    assert main([*REPORT, "--protocol", protocol, "--archive", "kept"]) == 0
    assert capsys.readouterr().out.splitlines()[1:] == ["kept/README.md", "kept/table.tex", "kept/page.html"]
    shutil.rmtree("tables")
    assert main([*REPORT[:-1], "kept", *options]) == 0
    for run in grid.all_runs():
        live = live.replace(f'<a href="tables/{run.folder.name}/">{run.folder.name}</a>', run.folder.name)
    # causes were written when the runs still had their folders
    live = live.replace("--run_folder=tables/", "--run_folder=kept/")
    assert Path("page").read_text() == live


def test_the_pages_of_an_archive_can_be_made_anew() -> None:
    _made()
    assert main([*REPORT, "--archive", "kept"]) == 0
    before = {file.name: file.read_bytes() for file in Path("kept").iterdir() if file.is_file()}
    (Path("kept") / "README.md").unlink()
    assert main([*REPORT[:-1], "kept", "--archive", "kept"]) == 0
    assert {file.name: file.read_bytes() for file in Path("kept").iterdir() if file.is_file()} == before
    assert set(before) == {"README.md", "table.tex", "page.html", "runs.jsonl", "curves.csv"}


def test_an_archive_is_completed_from_itself_where_the_run_folders_are_lost(
    capsys: pytest.CaptureFixture[str],
) -> None:
    _made()
    assert main([*REPORT, "--archive", "kept"]) == 0
    shutil.rmtree("tables")
    before = _finished("kept")
    assert main([*REPORT, "--archived", "kept", "--archive", "kept"]) == 0
    assert _finished("kept") == before
    capsys.readouterr()
    assert main([*REPORT[:-1], "kept", "--archived", "kept"]) == 2
    assert "kept is an archive, beside which --archived kept has no place" in capsys.readouterr().err
    assert main([*REPORT, "--archived", "kept", "--archive", "kept", "--arms", "FPT"]) == 2
    assert "that these options leave out" in capsys.readouterr().err
    assert _finished("kept") == before


@pytest.mark.parametrize(
    "left", [{}, {"log.txt": ""}, {"failure.json": '{"cause": "out of memory"}'}, {"result.json": "{"}]
)
def test_a_run_that_is_begun_again_takes_no_finished_one_out_of_an_archive(
    left: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    grid = _made()
    assert main([*REPORT, "--archive", "kept"]) == 0
    before = Path("kept/runs.jsonl").read_bytes()
    run = grid.all_runs()[0]
    shutil.rmtree(run.folder)
    run.folder.mkdir()
    for name, text in left.items():
        (run.folder / name).write_text(text)
    assert main([*REPORT, "--archive", "kept"]) == 2
    assert f"1 runs, such as {run.folder.name}, that these" in capsys.readouterr().err
    assert Path("kept/runs.jsonl").read_bytes() == before
    begun = set(left) <= {"log.txt"}  # and the archive's stands for it
    assert main([*REPORT, "--archived", "kept", "--archive", "kept"]) == (0 if begun else 2)
    assert Path("kept/runs.jsonl").read_bytes() == before


def test_a_run_that_pauses_takes_no_finished_one_out_of_an_archive() -> None:
    grid = _made()
    run = grid.all_runs()[0]
    assert main([*REPORT, "--archive", "kept"]) == 0
    before = Path("kept/runs.jsonl").read_bytes()
    (run.folder / "result.json").unlink()
    RunFolder(run.folder).pause.write_text('{"step": 100}')
    assert grid.outcomes()[run.id].state is State.PAUSED
    assert main([*REPORT, "--archive", "kept"]) == 2
    assert Path("kept/runs.jsonl").read_bytes() == before


def test_an_attempt_that_failed_takes_nothing_from_what_is_archived() -> None:
    """Which is finished, and was begun anew for its test."""
    grid = _made()
    run = grid.all_runs()[0]
    assert main([*REPORT, "--archive", "kept"]) == 0
    (run.folder / "result.json").unlink()
    write_failure(run.folder, "the disk is full")
    outcome = replace(grid, archived=Path("kept")).outcomes()[run.id]
    assert outcome.state is State.FAILED
    assert outcome.result is not None


def test_what_ends_beside_an_archive_is_archived_as_it_was_seen() -> None:
    grid = _made()
    run = grid.all_runs()[0]
    runs = open_runs(Path("tables"))
    write_archive(runs, {run.folder.name: Outcome(State.RUNNING)}, Path("kept"))
    (line,) = [json.loads(line) for line in Path("kept/runs.jsonl").read_text().splitlines()]
    assert (line["state"], line["result"]) == ("stopped", None)


def test_a_column_without_a_row_is_no_reason_to_fail(capsys: pytest.CaptureFixture[str]) -> None:
    _made()
    assert main([*REPORT, "--arms", "ViT"]) == 0
    assert "no ViT weights in this profile" in capsys.readouterr().out


def _finished(folder: str) -> set[str]:
    lines = map(json.loads, Path(folder, "runs.jsonl").read_text().splitlines())
    return {line["folder"] for line in lines if line["state"] == "finished"}


def test_what_the_other_commands_say_of_an_archive(capsys: pytest.CaptureFixture[str]) -> None:
    _made()
    assert main([*REPORT, "--archive", "kept"]) == 0
    capsys.readouterr()
    assert main(["status", *REPORT[1:-1], "kept"]) == 0
    assert "out of memory" in capsys.readouterr().out
    assert main(["sweep", *REPORT[1:-1], "kept", "--dry-run"]) == 2
    assert "kept is the archive of a table: its sweep needs another --folder" in capsys.readouterr().err
    assert main([*REPORT[:-1], "kept", "--trainer.max_steps", "7"]) == 0
    said = capsys.readouterr()
    assert f"kept has {len(Path('kept/runs.jsonl').read_text().splitlines())} runs, but none of table2" in said.err
    assert "0 of 3 runs so far; 3 missing" in said.out


def test_a_table_without_runs_has_nothing_to_archive(capsys: pytest.CaptureFixture[str]) -> None:
    Path("declared.yaml").write_text(EXPERIMENTS)
    assert main([*REPORT, "--archive", "kept"]) == 1
    assert "there is nothing to archive" in capsys.readouterr().err
    assert main([*REPORT, "--archive", "kept", "--out", "page"]) == 2
    assert "leave out --out" in capsys.readouterr().err
    assert main([*REPORT, "--out", "."]) == 2
    assert "--out . is a folder: name the file" in capsys.readouterr().err
    assert not Path("kept").exists()


def test_an_archive_keeps_attention_maps() -> None:
    declared = EXPERIMENTS.replace("title: Pretraining modality", "title: Pretraining modality\n    attention: true")
    grid = grid_of(declared=declared, arms=["FPT"], tasks=["bit_xor"])
    runs = grid.all_runs()
    for run in runs:
        finish(run)
    (runs[0].folder / "attention.png").write_bytes(b"\x89PNG")
    assert [run.is_done(grid.outcomes()[run.id]) for run in runs] == [True, False, False]
    assert main([*REPORT, "--archive", "kept"]) == 0
    assert "data:image/png;base64,iVBORw==" in Path("kept/page.html").read_text()
    lines = [json.loads(line) for line in Path("kept/runs.jsonl").read_text().splitlines()]
    assert {line["state"] for line in lines} == {"finished"}
    assert [picture.name for picture in Path("kept/attention").iterdir()] == [f"{runs[0].folder.name}.png"]
