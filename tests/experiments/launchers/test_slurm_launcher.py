"""SLURM, really started on this machine by tools/slurm_here.sh: the same runs, preempted ones too."""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from sweeps import PATIENCE, grid_of, measured, orders_of, sweep, write_experiments

from fpt_lightning.errors import FPTError, UsageError
from fpt_lightning.experiments.cells import Run
from fpt_lightning.experiments.launchers.local import LocalLauncher
from fpt_lightning.experiments.launchers.slurm import SlurmLauncher, read_options, states_of_jobs
from fpt_lightning.experiments.launchers.verdict import Verdict
from fpt_lightning.runs.outcome import State

TOOL = Path(__file__).parents[3] / "tools" / "slurm_here.sh"
PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch")


@pytest.fixture(scope="module")
def _cluster() -> Iterator[str]:
    """A SLURM of one node; what names its configuration."""
    pytest.importorskip("submitit", reason="submitit is not installed")
    if missing := [name for name in PROGRAMS if shutil.which(name) is None]:
        pytest.skip(f"{', '.join(missing)} not found: apt-get install slurmctld slurmd slurm-client munge")
    if os.geteuid() != 0:
        pytest.skip("slurmd must be started by root")
    folder = tempfile.mkdtemp(prefix="slurm")
    environment = {**os.environ, "PORT": "26817"}
    subprocess.run([str(TOOL), "start", folder], check=True, capture_output=True, env=environment, timeout=60)
    yield f"{folder}/slurm.conf"
    subprocess.run([str(TOOL), "stop", folder], check=True, capture_output=True, env=environment, timeout=60)
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def cluster(_cluster: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_CONF", _cluster)


def _until(done: Callable[[], object], seconds: float = PATIENCE) -> None:
    end = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < end, "it did not come"
        time.sleep(0.05)


def _wait(launcher: SlurmLauncher) -> Verdict:
    found: list[Verdict] = []
    _until(lambda: found or found.extend(launcher.wait(1.0)) or found)
    (verdict,) = found
    return verdict


def _job(folder: str) -> str:
    """The only job that is submitted from a folder."""
    (submitted,) = Path(folder, "slurm").glob("*_submitted.pkl")
    return submitted.name.removesuffix("_submitted.pkl")


def _run_now(job: str) -> None:
    """A requeued job waits for minutes by SLURM's own rule, lest a broken node eats jobs; not in this test."""
    _until(lambda: (states_of_jobs() or {}).get(job) in ("PENDING", "RUNNING"))
    subprocess.run(["scontrol", "update", f"JobId={job}", "StartTime=now"], check=False, capture_output=True)


def test_without_submitit_the_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "submitit", None)
    with pytest.raises(UsageError, match=r'pip install "fpt-lightning\[slurm\]"'):
        SlurmLauncher()


def test_without_slurm_its_commands_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("submitit", reason="submitit is not installed")
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(FPTError, match="sbatch, srun, squeue, scancel"):
        SlurmLauncher()


def test_options_are_those_of_submitit() -> None:
    pytest.importorskip("submitit", reason="submitit is not installed")
    options = ["partition=gpu", "time=90", "mem=16GB", "gpus-per-node=1", "exclusive=true", "account=7x"]
    assert read_options([*options, "setup=module load cuda", "setup=ulimit -n 4096"]) == {
        "partition": "gpu",
        "time": 90,
        "mem": "16GB",
        "gpus_per_node": 1,
        "exclusive": True,
        "account": "7x",
        "setup": ["module load cuda", "ulimit -n 4096"],
    }


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("partitoin=gpu", "there is no option 'partitoin'; did you mean 'partition'?"),
        ("partition", "write KEY=VALUE"),
        ("time=1:30:00", "time is a whole number of minutes"),
        ("folder=x", "there is no option 'folder'"),
    ],
)
def test_a_wrong_option_is_named(option: str, said: str) -> None:
    pytest.importorskip("submitit", reason="submitit is not installed")
    with pytest.raises(UsageError) as error:
        read_options([option])
    assert said in str(error.value)


def test_a_run_has_no_more_threads_than_its_job_has_cores() -> None:
    pytest.importorskip("submitit", reason="submitit is not installed")
    with pytest.raises(UsageError, match="--threads 4 on --slurm cpus_per_task=2"):
        SlurmLauncher(threads=4, options=["cpus_per_task=2"])


@pytest.mark.slow
@pytest.mark.usefixtures("cluster")
def test_slurm_makes_the_runs_of_the_local_launcher_bit_for_bit() -> None:
    experiments = write_experiments(Path("experiments.yaml"), steps=20, every=10, seeds=3)
    for launcher, more in (("local", []), ("slurm", ["--slurm", "time=10", "--slurm", "partition=here"])):
        done = sweep(experiments, launcher, "--launcher", launcher, "--jobs", "2", *more)
        assert done.returncode == 0, done.stderr
        assert "3 of 3 runs are finished" in done.stdout
        assert done.stderr == ""
    assert len(measured("local")) == 3
    assert measured("slurm") == measured("local")
    (script,) = Path("slurm/slurm").glob("*_submission.sh")  # one array for all
    assert "--array=0-2%2" in script.read_text()


@pytest.mark.slow
@pytest.mark.usefixtures("cluster")
def test_what_slurm_refuses_is_said_in_a_line() -> None:
    experiments = write_experiments(Path("experiments.yaml"))
    done = sweep(experiments, "runs", "--launcher", "slurm", "--slurm", "partition=there")
    assert done.returncode == 1
    assert done.stderr.startswith("fpt: error: SLURM does not take the jobs: ")
    assert "Invalid partition" in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.slow
@pytest.mark.usefixtures("cluster")
def test_a_preempted_run_ends_as_one_that_was_not() -> None:
    experiments = write_experiments(Path("experiments.yaml"), steps=1500, every=25, seeds=1)
    with LocalLauncher(jobs=1, threads=1) as local:
        local.submit(orders_of(grid_of(experiments, "whole")))
        while not local.wait(1.0):
            pass
    (order,) = orders_of(grid_of(experiments, "cut"))
    last = order.folder / "checkpoints" / "last.ckpt"
    with SlurmLauncher(jobs=1, threads=1, folder=Path("cut")) as launcher:
        launcher.submit([order])
        for interruption in (["scancel", "--signal=USR2"], ["scontrol", "requeue"]):
            before = last.stat().st_mtime_ns if last.exists() else 0
            _until(lambda before=before: last.exists() and last.stat().st_mtime_ns != before)  # type: ignore[misc]
            job = _job("cut")
            subprocess.run([*interruption, job], check=True)
            _until(lambda job=job: (states_of_jobs() or {}).get(job) == "PENDING")  # type: ignore[misc]
            assert not (order.folder / "result.json").exists()
            _run_now(job)
        assert _wait(launcher) == Verdict(order.id, State.FINISHED)
    assert "this job is preempted" in Path("cut", "slurm", f"{job}_0_log.err").read_text()
    assert measured("cut") == measured("whole")


@pytest.mark.slow
@pytest.mark.usefixtures("cluster")
def test_a_cancelled_job_is_named_and_close_cancels_the_others() -> None:
    grid = grid_of(write_experiments(Path("experiments.yaml"), steps=100_000, seeds=2), "runs")
    orders: list[Run] = orders_of(grid)
    with SlurmLauncher(jobs=1, threads=1, folder=Path("runs")) as launcher:
        launcher.submit(orders)
        first, second = sorted(launcher._jobs)
        _until((Path(orders[0].folder) / "metrics.csv").exists)
        subprocess.run(["scancel", first], check=True)
        verdict = _wait(launcher)
        assert (verdict.id, verdict.state) == (orders[0].id, State.FAILED)
        assert str(verdict.cause).startswith(f"SLURM job {first} ended as CANCELLED")
    _until(lambda: (states_of_jobs() or {}).get(second) == "CANCELLED", 60)
