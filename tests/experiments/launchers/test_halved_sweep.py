"""``fpt sweep --protocol halving`` through the command line, on runs of seconds."""

import json
import os
import re
import shlex
import signal
import subprocess
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from sweeps import PATIENCE, children, grid_of, is_alive, measured, sweep, sweep_words, write_experiments

from conftest import read_rows
from fpt_lightning.experiments.launchers.verdict import carry_out
from fpt_lightning.main import main
from fpt_lightning.runs.folder import RunFolder
from fpt_lightning.runs.outcome import State, read_outcome, write_failure

RATES = (1e-3, 3e-3, 1e-2, 3e-2)
STEPS, EVERY = 12, 2
HALVING: dict[str, Any] = {"lr": list(RATES), "seeds": [0, 1], "grid_seeds": 1, "finalists": 1, "reduction": 2}


def _experiments(steps: int = STEPS, **changes: Any) -> Path:
    """Four rates on one seed: two pause at step 4, one at 6, and one runs its other seed."""
    path = write_experiments(Path("experiments.yaml"), steps, EVERY, rates=RATES, settings={"model.backbone_seed": 0})
    content = yaml.safe_load(path.read_text())
    fair = {name: value for name, value in HALVING.items() if name != "reduction"}
    content["protocols"] |= {"fair": fair, "halving": {**HALVING, **changes}}
    path.write_text(yaml.safe_dump(content))
    return path


def _words(command: str, protocol: str = "halving", folder: str = "runs", *more: str) -> list[str]:
    own = ["--jobs", "1", "--threads", "1"] if command == "sweep" else []
    return [command, "small", "--profile", "smoke", "--protocol", protocol, "--folder", folder, *own, *more]


def _steps(folder: str = "runs") -> dict[str, int]:
    """How far every run came."""
    last = {path.parent: read_rows(path)[-1] for path in Path(folder).glob("*/metrics.csv")}
    untested = {run: row for run, row in last.items() if not row.get("test_accuracy")}
    return {run.name: STEPS if run not in untested else int(untested[run]["step"]) + 1 for run in last}


@pytest.mark.slow
@pytest.mark.usefixtures("warm")
def test_a_halved_sweep_leaves_rates_behind_and_goes_on_as_the_whole_grid(capsys: pytest.CaptureFixture[str]) -> None:
    """Whose ids, figures and curves its runs have in the end."""
    _experiments()
    assert main(_words("sweep", "halving", "runs", "--dry-run")) == 0
    planned = [shlex.split(line) for line in capsys.readouterr().out.splitlines()]
    assert len(planned) == 4
    assert all("--pause_at=4" in words and "--test=never" in words for words in planned)

    assert main(_words("sweep", "halving", "runs", "--pack", "off")) == 0
    said = capsys.readouterr().out
    assert "5 of 5 runs are finished, 3 pause at a rung: `fpt report" in said
    # nothing of how long they took: whoever hears of their end cannot tell it from their turn in the queue
    pauses = re.findall(r"pauses at step (\d), validation 0\.\d{4}$", said, re.MULTILINE)
    assert pauses == ["4", "4", "4", "4", "6", "6"]
    assert sorted(_steps().values()) == [4, 4, 6, STEPS, STEPS]
    made = [json.loads(path.read_text()) for path in Path("runs").glob("*/result.json")]
    assert {(result["protocol"], "test_accuracy" in result) for result in made} == {("halving", True)}
    assert len({result["lr"] for result in made}) == 1

    assert main(_words("status", "halving", "runs", "--all")) == 0
    said = capsys.readouterr().out
    assert "5/5 3 paused" in said
    assert said.count("paused    ") == 3
    assert main(_words("report")) == 0
    report = capsys.readouterr().out
    assert (
        "of 4 learning rates from 1e-3 to 3e-2 every arm by successive halving keeps 2 from 33% of the steps on and 1 "
        "from 50% of the steps on, by mean best validation accuracy so far over one seed, and of those takes the best"
    ) in report.replace("\\", "")
    # archived, it says the same
    assert main(_words("report", "halving", "runs", "--archive", "kept")) == 0
    capsys.readouterr()
    assert main(_words("report", "halving", "kept")) == 0
    assert capsys.readouterr().out == report

    halved = set(_steps())
    for folder in ("runs", "whole"):
        assert main(_words("sweep", "fair", folder, "--pack", "off")) == 0
    assert set(_steps()) == set(_steps("whole")) | halved
    of_whole = measured("whole")
    assert {name: figures for name, figures in _sorted(measured("runs")).items() if name in of_whole} == _sorted(
        of_whole
    )
    assert not list(Path("runs").glob("*/paused.json"))


def _sorted(runs: dict[str, Any]) -> dict[str, Any]:
    """Figures whose columns stand in one order: a run that goes on sorts those that it finds."""
    return {name: (figures, [dict(sorted(row.items())) for row in rows]) for name, (figures, rows) in runs.items()}


@pytest.mark.usefixtures("warm")
def test_a_halved_sweep_in_packs_pauses_and_goes_on_likewise(capfd: pytest.CaptureFixture[str]) -> None:
    _experiments()
    assert main(_words("sweep", "halving", "runs", "--pack", "4")) == 0
    assert "5 of 5 runs are finished, 3 pause at a rung" in capfd.readouterr().out
    assert sorted(_steps().values()) == [4, 4, 6, STEPS, STEPS]
    paused = sorted(json.loads(path.read_text())["step"] for path in Path("runs").glob("*/paused.json"))
    assert paused == [4, 4, 6]
    logs = [path.read_text() for path in Path("runs").glob("*/log*.txt")]
    assert any("4 runs, " in log for log in logs)
    assert any("2 runs, " in log for log in logs)


@pytest.mark.usefixtures("warm")
def test_a_rate_that_diverges_is_left_behind_at_its_rung(capsys: pytest.CaptureFixture[str]) -> None:
    _experiments(lr=[1e-3, 3e-3, 1e-2, 1e30], grid_seeds=None, seeds=[0])
    assert main(_words("sweep")) == 0
    said = capsys.readouterr().out
    assert "4 of 4 runs are finished, 1 of which diverged, 2 pause at a rung" in said
    assert main(_words("report")) == 0
    assert "1e30 diverged" in capsys.readouterr().out


@pytest.mark.slow
def test_a_halved_sweep_killed_again_and_again_ends_as_one_that_never_was() -> None:
    experiments = _experiments()
    options = ("--protocol", "halving", "--jobs", "2", "--pack", "off")
    whole = sweep(experiments, "whole", *options)
    assert whole.returncode == 0, whole.stderr
    for kill in range(1, 5):
        with Path("log.txt").open("w") as log:
            process = subprocess.Popen(sweep_words(experiments, "killed", *options), stdout=log, stderr=log)
            end = time.monotonic() + PATIENCE
            while len(list(Path("killed").glob("*/checkpoints/last.ckpt"))) < kill and process.poll() is None:
                assert time.monotonic() < end
                time.sleep(0.01)
            time.sleep(0.2 * kill)
            tree = [process.pid, *children(process.pid)]
            for one in tree:
                os.kill(one, signal.SIGKILL)
            assert process.wait() == -signal.SIGKILL, Path("log.txt").read_text()
        while any(map(is_alive, tree)):
            time.sleep(0.01)
    done = sweep(experiments, "killed", *options)
    assert done.returncode == 0, done.stderr
    assert _steps("killed") == _steps("whole")
    assert _sorted(measured("killed")) == _sorted(measured("whole"))


@pytest.mark.slow
def test_two_halved_sweeps_at_once_make_every_run_once() -> None:
    words = sweep_words(_experiments(), "runs", "--protocol", "halving", "--jobs", "1", "--pack", "off")
    both = [subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    said = [process.communicate(timeout=PATIENCE) for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    assert all("5 of 5 runs are finished, 3 pause at a rung" in out for out, _ in said)
    assert sorted(_steps().values()) == [4, 4, 6, STEPS, STEPS]


def test_a_run_that_stands_at_its_rung_is_not_built_again() -> None:
    """By none of the launchers, which all have it carried out here."""
    run = replace(grid_of(_experiments()).all_runs()[0], until=4)
    run.folder.mkdir(parents=True)
    RunFolder(run.folder).write_pause(4)
    write_failure(run.folder, "on the way to the next rung")
    assert carry_out(run).state is State.FINISHED
    assert read_outcome(run.folder).state is State.PAUSED
    assert not (run.folder / "log.txt").exists()
    (run.folder / "paused.json").write_text('{"step": "fo')
    assert read_outcome(run.folder).state is State.MISSING


def test_a_rate_is_not_left_behind_for_a_course_that_cannot_be_read(capsys: pytest.CaptureFixture[str]) -> None:
    runs = [run for run in grid_of(_experiments()).all_runs() if run.seed == 0]
    for run in runs:
        run.folder.mkdir(parents=True)
        RunFolder(run.folder).write_pause(4)
        RunFolder(run.folder).metrics.write_text("step,val_accuracy\n3,0.5\n")
    lost = runs[2].folder
    (lost / "metrics.csv").write_bytes(b"\xff")
    assert main(_words("status")) == 0
    said = capsys.readouterr().out
    assert f"failed    {lost}  " in said
    assert f"{lost}/metrics.csv cannot be read" in said
    assert f"without {lost} it is made again" in said


@pytest.mark.parametrize(
    ("changes", "words", "said"),
    [
        ({"reduction": 1}, [], "protocols.halving.reduction: expected int >= 2"),
        ({"rungs": [0.5, 1.0]}, [], "protocols.halving.rungs[1]: expected float < 1"),
        ({"rungs": [0.5, 0.25]}, [], "protocols.halving.rungs: expected shares in rising order, got [0.5, 0.25]"),
        (
            {"reduction": None, "rungs": [0.5]},
            [],
            "protocols.halving.rungs: expected a reduction beside them, got none",
        ),
        ({}, ["--rates", "1e-3"], "protocol halving on bit_xor: it chooses among learning rates and the grid has one"),
        ({"lr": None}, [], "protocol halving on bit_xor: it chooses among learning rates and the grid has one"),
        (
            {"rungs": [0.9]},
            [],
            "protocol halving on bit_xor: its rung at 90% of 12 steps has no validation before the end, they come every 2",
        ),
        ({}, ["--trainer.val_check_interval=0.5"], "it goes by steps: set trainer.max_steps, and trainer.val_check"),
        ({}, ["--trainer.max_steps=-1"], "it goes by steps: set trainer.max_steps"),
        ({}, ["--trainer.max_steps=abc"], "it goes by steps: set trainer.max_steps"),
        ({}, ["--pause_at=4"], "there is no option '--pause_at'"),
    ],
)
def test_what_cannot_be_halved_is_refused_in_a_line(
    changes: dict[str, Any], words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    _experiments(**changes)
    assert main(_words("sweep", "halving", "runs", *words)) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") <= 2
    assert not Path("runs").exists()
