"""A sweep that goes on from an archive: what it holds is not made again."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest
from rich.console import Console

from conftest import Fpt
from fpt_lightning.experiments.cells import Run
from fpt_lightning.experiments.grid import Selection, make_grid
from fpt_lightning.experiments.launchers.base import Launcher
from fpt_lightning.experiments.launchers.verdict import Verdict
from fpt_lightning.experiments.screen import Screen
from fpt_lightning.experiments.sweep import Sweep
from fpt_lightning.experiments.tables import read_experiments
from fpt_lightning.runs.folder import RunFolder
from fpt_lightning.runs.outcome import State

EXPERIMENTS = """
tasks:
  bit_xor: {title: bit-xor, config: bit_xor.yaml, lr: 1.0e-3, chance: 50}
protocols:
  halving: {lr: [1.0e-4, 1.0e-3, 1.0e-2], seeds: [0], reduction: 3}
  paper: {seeds: [1, 2]}
profiles:
  smoke:
    backbones:
      tiny: {configs: [backbones/tiny.yaml]}
      made: {made_by: {configs: [pretrain/bit_memory.yaml, backbones/tiny.yaml], settings: {data.n: 20, data.patch_size: 5, trainer.max_steps: 2, trainer.limit_val_batches: 1, trainer.limit_test_batches: 1}}}
    settings:
      trainer.max_steps: 6
      trainer.val_check_interval: 2
      trainer.limit_val_batches: 1
      trainer.limit_test_batches: 1
      trainer.accelerator: cpu
tables:
  lost:
    title: Lost and kept
    source: here
    protocol: halving
    tasks: [bit_xor]
    arms:
      drawn: {backbone: tiny}
      made: {backbone: made}
"""


@pytest.fixture
def table() -> list[str]:
    Path("experiments.yaml").write_text(EXPERIMENTS)
    return ["lost", "--profile", "smoke", "--folder"]


def _runs(folder: str) -> set[str]:
    return {path.parent.name for path in Path(folder).glob("*/config.yaml")}


@pytest.mark.usefixtures("warm")
def test_what_is_archived_is_not_made_again(fpt: Fpt, table: list[str], capfd: pytest.CaptureFixture[str]) -> None:
    alone = ["--jobs", "1", "--pack", "off"]
    assert fpt("sweep", *table, "runs", *alone) == 0
    assert fpt("report", *table, "runs", "--archive", "kept") == 0
    made = _runs("runs")
    whole = Path("kept", "README.md").read_text()
    shutil.rmtree("runs")
    capfd.readouterr()

    assert fpt("sweep", *table, "runs", *alone, "--archived", "kept") == 0
    out = capfd.readouterr().out
    assert "6 of 6 runs are finished, 4 pause at a rung" in out
    assert not _runs("runs")
    assert fpt("status", *table, "runs", "--archived", "kept") == 0
    assert fpt("report", *table, "runs", "--archived", "kept", "--archive", "kept") == 0
    assert Path("kept", "README.md").read_text() == whole

    # a seed more asks for the body again, and for runs of its own; of the archive for none but such as pause there
    states = {
        line["folder"]: line["state"] for line in map(json.loads, Path("kept", "runs.jsonl").read_text().splitlines())
    }
    assert fpt("sweep", *table, "more", *alone, "--archived", "kept", "--seeds", "0,1") == 0
    more = _runs("more")
    assert all(name.startswith("backbone-") or states[name] == "paused" for name in more & made)
    assert len(more - made) >= 6
    assert fpt("report", *table, "more", "--archived", "kept", "--seeds", "0,1", "--archive", "both") == 0
    lines = [json.loads(line) for line in Path("both", "runs.jsonl").read_text().splitlines()]
    assert {line["folder"] for line in lines} == made | more


@pytest.mark.usefixtures("warm")
def test_a_body_that_comes_out_otherwise_is_not_mixed_with_the_archives(
    fpt: Fpt, table: list[str], capfd: pytest.CaptureFixture[str]
) -> None:
    """As on another processor: the archive is given another loss than the one that comes out here."""
    alone = ["--jobs", "1", "--pack", "off", "--arms", "made"]
    assert fpt("sweep", *table, "runs", *alone) == 0
    assert fpt("report", *table, "runs", "--arms", "made", "--archive", "kept") == 0
    lines = [json.loads(line) for line in Path("kept", "runs.jsonl").read_text().splitlines()]
    body = next(line for line in lines if line["folder"].startswith("backbone-"))
    body["result"]["val_loss"] += 1e-6
    Path("kept", "runs.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    for _ in range(2):  # not when the sweep is started again, either
        capfd.readouterr()
        assert fpt("sweep", *table, "more", *alone, "--archived", "kept", "--seeds", "0,1") == 1
        assert f"more/{body['folder']}: it came out otherwise than that of kept" in capfd.readouterr().err
    assert _runs("more") == {body["folder"]}
    assert fpt("sweep", *table, "more", *alone, "--seeds", "0,1") == 0


class Exporting(Launcher):
    """Makes a body in three looks, whose folder is there from the first validation on, and all other runs at once."""

    slots = 2

    def __init__(self, result: dict[str, object], *, elsewhere: bool) -> None:
        self.result, self.elsewhere = result, elsewhere
        self.looks, self.waiting, self.early = 0, list[Run](), list[str]()

    def submit(self, runs: Sequence[Run]) -> None:
        for run in runs:
            (run.folder / "backbone").mkdir(parents=True, exist_ok=True)
            if not run.makes_backbone and self.looks < 3:
                self.early.append(run.id)
        self.waiting += runs

    def wait(self, seconds: float) -> list[Verdict]:
        self.looks += 1
        if self.looks < 3 and not self.elsewhere:
            return []
        runs, self.waiting = self.waiting, []
        return [self._verdict(run) for run in runs]

    def _verdict(self, run: Run) -> Verdict:
        if run.makes_backbone and self.looks < 3:
            return Verdict(run.id, State.RUNNING)
        RunFolder(run.folder).result.write_text(json.dumps(self.result | {"seed": run.seed}))
        return Verdict(run.id, State.FINISHED)

    def running(self) -> list[str]:
        return []

    def close(self) -> None:
        self.waiting.clear()


@pytest.mark.usefixtures("warm")
@pytest.mark.parametrize("elsewhere", [False, True])
def test_no_run_begins_on_an_archived_body_before_it_is_made_again(
    fpt: Fpt, table: list[str], elsewhere: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is exported at every validation that is better: whoever begins sooner has other frozen weights."""
    monkeypatch.setattr("fpt_lightning.experiments.sweep.BUSY", 0.0)
    monkeypatch.setattr("fpt_lightning.experiments.sweep.LOOK", 0.01)
    assert fpt("sweep", *table, "runs", "--jobs", "1", "--pack", "off", "--arms", "made") == 0
    assert fpt("report", *table, "runs", "--arms", "made", "--archive", "kept") == 0
    lines = [json.loads(line) for line in Path("kept", "runs.jsonl").read_text().splitlines()]
    result = next(line["result"] for line in lines if line["folder"].startswith("backbone-"))
    chosen = Selection("lost", "smoke", "paper", arms=["made"])
    grid = make_grid(read_experiments("experiments.yaml"), chosen, Path("more"), Path("kept"))
    with Exporting(result, elsewhere=elsewhere) as launcher, Screen(grid, 1, Console(quiet=True)) as screen:
        outcomes = Sweep(grid, launcher, screen).run()
    assert not launcher.early
    assert [outcome.state for outcome in outcomes.values()] == [State.FINISHED] * 3


def test_what_is_no_archive_is_refused(fpt: Fpt, table: list[str], capfd: pytest.CaptureFixture[str]) -> None:
    assert fpt("sweep", *table, "runs", "--archived", "nowhere") == 2
    assert "--archived nowhere: it holds no runs.jsonl" in capfd.readouterr().err
    assert not Path("runs").exists()
