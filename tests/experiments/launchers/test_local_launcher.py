"""Processes of this machine: every order gets its verdict, whatever becomes of its process."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from sweeps import children, grid_of, is_alive, measured, orders_of, sweep, write_experiments

from fpt_lightning.errors import UsageError
from fpt_lightning.experiments.cells import Run
from fpt_lightning.experiments.commands import sweep as sweep_command
from fpt_lightning.experiments.launchers.local import LocalLauncher, visible_gpus
from fpt_lightning.experiments.launchers.process import OUT_OF_MEMORY, WorkerProcess
from fpt_lightning.experiments.launchers.verdict import Verdict, _is_begun_here, fail
from fpt_lightning.runs.folder import RunFolder
from fpt_lightning.runs.lock import lock_of
from fpt_lightning.runs.outcome import Outcome, State, read_outcome

LONG = 100_000  # steps: nobody waits for the end of these runs


def _run(folder: str, *words: str, steps: int = 2) -> Run:
    """A run of bit-xor on the backbone tiny."""
    own = ["--config=bit_xor.yaml", "--model.backbone=tiny", f"--trainer.max_steps={steps}", *words]
    small = ["--trainer.limit_val_batches=1", "--trainer.limit_test_batches=1", "--trainer.accelerator=cpu"]
    words = ("run", *own, *small, "--trainer.enable_progress_bar=false")
    return Run(folder, Path(folder), words, "bit_xor", 1e-3, 0)


def _until(done: Callable[[], bool], seconds: float = 120.0) -> None:
    end = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < end, "it did not come"
        time.sleep(0.05)


def _verdicts(launcher: LocalLauncher, count: int) -> dict[str, Verdict]:
    found: dict[str, Verdict] = {}
    _until(lambda: len(found) == count or found.update({v.id: v for v in launcher.wait(1.0)}) or len(found) == count)
    return found


@pytest.mark.skipif(not Path("/proc/self/autogroup").exists(), reason="processes are not grouped here")
def test_a_worker_is_as_nice_as_its_sweep_though_of_another_session() -> None:
    start = "from fpt_lightning.experiments.launchers.process import WorkerProcess as Worker; worker = Worker(1)"
    sweep = [sys.executable, "-c", f"{start}; print(worker._process.pid, flush=True); input()"]
    with subprocess.Popen(["nice", "-n", "7", *sweep], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        group = Path("/proc", process.stdout.readline().decode().strip(), "autogroup")
        _until(lambda: group.read_text().endswith(f"nice {min(19, os.nice(0) + 7)}\n"))


@pytest.mark.usefixtures("warm")
def test_every_order_gets_its_verdict_and_a_failure_its_cause() -> None:
    orders = [
        replace(_run("good"), attention=True),
        # known only once the data is looked for
        _run("bad", "--config=mnist.yaml", "--data.root=nowhere", "--data.download=false"),
        _run("crash", "--trainer.callbacks+=crashing.Crash"),
        _run("gone", "--trainer.callbacks+=crashing.Gone"),
        _run("after"),
    ]
    Path("crashing.py").write_text(
        "import os, lightning as L\n"
        "class Gone(L.Callback):\n"
        "    def on_train_start(self, trainer, module):\n"
        "        print('it had enough', flush=True)\n"
        "        os._exit(255)\n"
        "class Crash(L.Callback):\n"
        "    def on_train_start(self, trainer, module):\n"
        "        raise ZeroDivisionError('of its own')\n"
    )
    with LocalLauncher(jobs=1, threads=1) as launcher:
        launcher.submit(orders)
        assert launcher.running() == ["good"]
        verdicts = _verdicts(launcher, 5)
        assert launcher.running() == []
    states = {name: verdict.state for name, verdict in verdicts.items()}
    assert states == {
        **dict.fromkeys(("good", "after"), "finished"),
        **dict.fromkeys(("bad", "crash", "gone"), "failed"),
    }
    assert verdicts["gone"].cause == "it had enough"
    assert verdicts["crash"].cause == "ZeroDivisionError: of its own"
    assert "nowhere" in str(verdicts["bad"].cause)
    assert f"fpt: error: {verdicts['bad'].cause}" in Path("bad/log.txt").read_text().splitlines()
    for name in ("bad", "crash"):
        outcome = read_outcome(Path(name))
        assert (outcome.state, outcome.cause) == (State.FAILED, verdicts[name].cause)
    assert read_outcome(Path("good")).state is State.FINISHED
    assert RunFolder(Path("good")).attention.is_file()
    assert "good/attention.png" in Path("good/log.txt").read_text()
    assert "Traceback" in Path("crash/log.txt").read_text()


@pytest.mark.usefixtures("warm")
def test_a_killed_worker_is_named_and_replaced() -> None:
    with LocalLauncher(jobs=1, threads=1) as launcher:
        launcher.submit([_run("killed", steps=LONG), _run("next")])
        _until(Path("killed/metrics.csv").exists)
        (worker,) = children(os.getpid())
        os.kill(worker, signal.SIGKILL)
        verdicts = _verdicts(launcher, 2)
    assert (verdicts["killed"].state, verdicts["killed"].cause) == (State.FAILED, OUT_OF_MEMORY)
    assert verdicts["next"].state is State.FINISHED


def test_a_process_that_dies_before_its_run_begins_says_nothing_of_an_earlier_attempt() -> None:
    Path("run").mkdir()
    Path("run/log.txt").write_text("fpt: error: no such file, the day before\n")
    Path("sitecustomize.py").write_text("import sys\nsys.exit('torch is not installed on this node')\n")
    worker = WorkerProcess(1, {"PYTHONPATH": os.getcwd()})  # noqa: PTH109
    try:
        worker.give(_run("run"))
        verdict, alive = worker.verdict()
    finally:
        worker.kill()
    assert not alive
    assert verdict.state is State.FAILED
    assert "the day before" not in str(verdict.cause)
    assert "torch is not installed on this node" in str(verdict.cause)


@pytest.mark.usefixtures("warm")
def test_a_run_that_somebody_else_is_at_is_left_alone() -> None:
    Path("taken").mkdir()
    with LocalLauncher(jobs=1, threads=1) as launcher, lock_of(Path("taken")):
        launcher.submit([_run("taken")])
        assert _verdicts(launcher, 1) == {"taken": Verdict("taken", State.RUNNING)}
    assert [path.name for path in Path("taken").iterdir()] == [".lock"]


@pytest.mark.usefixtures("warm")
def test_wrong_options_are_known_before_anything_runs() -> None:
    with LocalLauncher(jobs=1) as launcher:
        good, bad = launcher.check([_run("good").command, _run("bad", "--data.nn=3").command])
    assert good is None
    assert "has no option 'nn'" in str(bad)
    assert not Path("good").exists()


def test_close_leaves_no_process_and_no_lock() -> None:
    launcher = LocalLauncher(jobs=1, threads=1)
    launcher.submit([_run("run", steps=LONG), _run("never")])
    _until(Path("run/metrics.csv").exists)
    workers = children(os.getpid())
    assert workers
    launcher.close()
    assert not any(map(is_alive, workers))
    assert read_outcome(Path("run")).state in (State.STOPPED, State.MISSING)
    assert not Path("never").exists()


def test_cores_and_gpus_are_shared_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,GPU-5")
    assert visible_gpus() == ["3", "GPU-5"]
    assert LocalLauncher().slots == 2
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    cores = len(os.sched_getaffinity(0))
    assert (LocalLauncher().slots, LocalLauncher().threads) == (cores, 1)
    assert LocalLauncher(jobs=1).threads == cores


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--jobs", "0"], "--jobs must be at least 1, got 0"),
        (["--address", "auto"], "--address is an option of --launcher ray, not of --launcher local"),
        (["--gpus", "1", "--launcher", "slurm"], "--gpus is an option of --launcher ray, not of --launcher slurm"),
        (["--slurm", "time=5", "--launcher", "ray"], "--slurm is an option of --launcher slurm, not of"),
    ],
)
def test_an_option_of_another_launcher_is_refused(words: list[str], said: str) -> None:
    experiments = write_experiments(Path("experiments.yaml"))
    with pytest.raises(UsageError, match=said):
        sweep_command(["small", "--experiments", str(experiments), "--profile", "smoke", *words])


@pytest.mark.usefixtures("warm")
def test_a_sweep_makes_its_runs_once_and_picks_up_what_failed() -> None:
    experiments = write_experiments(Path("experiments.yaml"))
    done = sweep(experiments, "runs", "--jobs", "2")
    assert done.returncode == 0, done.stderr
    assert "2 of 2 runs are finished" in done.stdout
    before = {path: path.stat().st_mtime_ns for path in Path("runs").glob("*/result.json")}
    damaged, other = sorted(before)
    damaged.write_text(damaged.read_text()[:100])
    outcome = read_outcome(damaged.parent)
    assert outcome.state is State.FAILED
    assert f"{damaged} cannot be read" in str(outcome.cause)
    done = sweep(experiments, "runs", "--jobs", "1")
    assert done.returncode == 0, done.stderr
    assert read_outcome(damaged.parent).state is State.FINISHED
    assert other.stat().st_mtime_ns == before[other]


@pytest.mark.usefixtures("warm")
def test_orders_of_a_grid_are_its_commands() -> None:
    grid = grid_of(write_experiments(Path("experiments.yaml"), seeds=3))
    orders = orders_of(grid)
    assert len({run.id for run in orders}) == 3
    printed = subprocess.run(
        [sys.executable, "-m", "fpt_lightning", "sweep", "small", "--experiments", "experiments.yaml", "--profile",
         "smoke", "--folder", "runs", "--dry-run"], capture_output=True, text=True, check=True,
    ).stdout.splitlines()  # fmt: skip
    assert [line.split()[1:] for line in printed] == [run.command for run in orders]


@pytest.mark.usefixtures("warm")
def test_a_test_that_fails_leaves_the_choice_as_it_is() -> None:
    experiments = write_experiments(Path("experiments.yaml"), rates=(1e-3, 1e-2), seeds=1)
    grid = grid_of(experiments)
    (cell,) = grid.cells
    with LocalLauncher(jobs=1, threads=1) as launcher:
        launcher.submit(orders_of(grid))
        _verdicts(launcher, 2)
    outcomes = grid.outcomes()
    assert not any(outcome.is_tested for outcome in outcomes.values())
    lr = cell.chosen(outcomes)
    (run,) = (run for run in cell.due(outcomes) if run.test)
    assert run.lr == lr
    best = RunFolder(run.folder).best
    whole = best.read_bytes()
    foreign = torch.load(best, weights_only=True)
    foreign["fpt_lightning"]["frozen"] = "0" * 16
    torch.save(foreign, best)
    done = sweep(experiments, "runs", "--jobs", "1")
    assert done.returncode == 1
    assert "this checkpoint was trained on the frozen weights 0000000000000000" in done.stderr
    assert cell.chosen(grid.outcomes()) == lr
    assert "frozen weights" in str(grid.outcomes()[run.id].cause)
    best.write_bytes(whole)
    assert sweep(experiments, "runs", "--jobs", "1").returncode == 0
    outcomes = grid.outcomes()
    assert [name for name, outcome in outcomes.items() if outcome.is_tested] == [run.id]
    assert outcomes[run.id].cause is None


def test_a_pack_that_dies_leaves_no_word_on_runs_that_another_process_is_at() -> None:
    """None that outlasts what becomes of them there."""
    Path("held").mkdir()
    held = "from fpt_lightning.runs.lock import *\nwith hold(Path('held')): print(flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", held], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        other.stdout.readline()
        verdict = fail(replace(_run("held"), members=(_run("held"), _run("free"))), "killed")
        assert read_outcome(Path("held")).state is State.RUNNING
        RunFolder(Path("held")).write_pause(200)  # as the other does at a rung
        other.communicate(b"\n")
    assert read_outcome(Path("held")) == Outcome(State.PAUSED, paused_at=200)
    assert [member.state for member in verdict.members] == [State.FAILED] * 2
    assert read_outcome(Path("free")).cause == "killed"


def test_a_pack_leaves_a_damaged_checkpoint_to_the_run_alone_which_says_so() -> None:
    last = RunFolder(Path("run")).last
    last.parent.mkdir(parents=True)
    last.write_bytes(b"damaged")
    with ExitStack() as held:
        assert not _is_begun_here(_run("run"), held)
    assert last.is_file()


def _unfinished(folder: str, *words: str) -> Run:
    """A run of six steps that was stopped after four."""
    with LocalLauncher(jobs=1, threads=1) as launcher:
        launcher.submit([_run(folder, "--trainer.val_check_interval=2", "--test=never", *words, steps=4)])
        assert _verdicts(launcher, 1)[folder].state is State.FINISHED
    RunFolder(Path(folder)).result.unlink()
    return _run(folder, "--trainer.val_check_interval=2", *words, steps=6)


@pytest.mark.parametrize(
    ("damaged", "left"),
    [
        (["last"], "best.ckpt last.ckpt last.ckpt.aside"),
        (["best"], "best.ckpt best.ckpt.aside last.ckpt last.ckpt.aside"),
        (["best", "last"], "best.ckpt best.ckpt.aside last.ckpt last.ckpt.aside"),
    ],
)
@pytest.mark.usefixtures("warm")
def test_a_damaged_checkpoint_is_set_aside_and_the_run_comes_to_the_same(damaged: list[str], left: str) -> None:
    run, whole = _unfinished("run"), _run("whole", "--trainer.val_check_interval=2", steps=6)
    for name in damaged:
        file = Path(f"run/checkpoints/{name}.ckpt")
        file.write_bytes(file.read_bytes()[:-2000])
    with LocalLauncher(jobs=1, threads=1) as launcher:
        launcher.submit([run, whole])
        verdicts = _verdicts(launcher, 2)
    assert verdicts["run"].state is State.FINISHED
    said = f"run/checkpoints/{damaged[0]}.ckpt is not a checkpoint of fpt-lightning, or not whole ("
    assert str(verdicts["run"].cause).startswith(said)
    assert str(verdicts["run"].cause).endswith("); it was set aside")
    assert f"{verdicts['run'].cause}\n" in Path("run/log.txt").read_text()
    assert sorted(path.name for path in Path("run/checkpoints").iterdir()) == left.split()
    found = measured(".")
    assert found["run"] == found["whole"]


@pytest.mark.usefixtures("warm")
def test_checkpoints_of_other_names_are_tested_and_set_aside() -> None:
    names = ["--checkpoint.filename=chosen", "--last_checkpoint.filename=newest"]
    run = _unfinished("run", *names)
    last = Path("run/checkpoints/newest.ckpt")
    last.write_bytes(last.read_bytes()[:-2000])
    with LocalLauncher(jobs=1, threads=1) as launcher:
        launcher.submit([replace(run, test=False)])
        made = _verdicts(launcher, 1)["run"]
        assert not read_outcome(run.folder).is_tested
        launcher.submit([run])
        tested = _verdicts(launcher, 1)["run"]
    assert str(made.cause).endswith("; it was set aside")
    assert tested == Verdict("run", State.FINISHED)
    assert read_outcome(run.folder).is_tested


@pytest.mark.usefixtures("warm")
def test_a_sweep_says_what_it_sets_aside() -> None:
    experiments = write_experiments(Path("experiments.yaml"), seeds=1)
    assert sweep(experiments, "runs", "--jobs", "1").returncode == 0
    whole = measured("runs")
    (result,) = Path("runs").glob("*/result.json")
    result.unlink()
    last = RunFolder(result.parent).last
    last.write_bytes(last.read_bytes()[:-2000])
    done = sweep(experiments, "runs", "--jobs", "1")
    assert done.returncode == 0, done.stderr
    assert f"{result.parent.name}  {last} is not a checkpoint" in done.stdout
    assert "it was set aside\n" in done.stdout
    assert measured("runs") == whole


@pytest.mark.usefixtures("warm")
def test_a_damaged_best_of_a_run_that_is_only_to_be_tested_is_made_again() -> None:
    run = _run("run")
    with LocalLauncher(jobs=1, threads=1) as launcher:
        launcher.submit([replace(run, test=False)])
        assert _verdicts(launcher, 1)["run"].state is State.FINISHED
        assert not read_outcome(Path("run")).is_tested
        RunFolder(Path("run")).best.write_bytes(b"")
        launcher.submit([run])
        verdict = _verdicts(launcher, 1)["run"]
    assert (verdict.state, read_outcome(Path("run")).is_tested) == (State.FINISHED, True)
    assert "best.ckpt is not a checkpoint" in str(verdict.cause)


@pytest.mark.usefixtures("warm")
def test_a_worker_that_is_told_to_end_ends_and_says_so() -> None:
    with LocalLauncher(jobs=1, threads=1) as launcher:
        launcher.submit([_run("told", steps=LONG)])
        _until(Path("told/metrics.csv").exists)
        (worker,) = children(os.getpid())
        os.kill(worker, signal.SIGTERM)
        verdict = _verdicts(launcher, 1)["told"]
    assert (verdict.state, verdict.cause) == (State.FAILED, "killed by SIGTERM")
