"""Ray, really started: the same runs as the local launcher makes, and those of a dead worker once more."""

import math
import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from sweeps import PATIENCE, children, grid_of, is_alive, measured, orders_of, sweep, write_experiments

from fpt_lightning.errors import FPTError, UsageError
from fpt_lightning.experiments.cells import Run
from fpt_lightning.experiments.launchers.local import LocalLauncher
from fpt_lightning.experiments.launchers.process import OUT_OF_MEMORY
from fpt_lightning.experiments.launchers.ray import RayLauncher
from fpt_lightning.experiments.launchers.verdict import Verdict
from fpt_lightning.runs.outcome import State, read_outcome


def _warm_processes() -> list[int]:
    """The warm processes below this one."""
    found = []
    for process in children(os.getpid()):
        command = Path(f"/proc/{process}/cmdline")
        if command.exists() and b"fpt_lightning.experiments.launchers.worker" in command.read_bytes():
            found.append(process)
    return found


def test_without_ray_the_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UsageError, match=r'pip install "fpt-lightning\[ray\]"'):
        RayLauncher()


def test_an_address_that_nobody_answers_at_is_named_at_once() -> None:
    pytest.importorskip("ray", reason="ray is not installed")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    with pytest.raises(FPTError, match=f"--address {address}: no Ray cluster answers there"):
        RayLauncher(address=address)
    with pytest.raises(UsageError, match="HOST:PORT"):
        RayLauncher(address="somewhere")


@pytest.mark.parametrize("gpus", [-1.0, 1.5, math.nan, math.inf])
def test_a_share_that_no_gpu_has_is_refused(gpus: float) -> None:
    with pytest.raises(UsageError, match="share of one GPU"):
        RayLauncher(gpus=gpus)


@pytest.mark.slow
def test_ray_makes_the_runs_of_the_local_launcher_bit_for_bit() -> None:
    pytest.importorskip("ray", reason="ray is not installed")
    experiments = write_experiments(Path("experiments.yaml"), steps=20, every=10, seeds=3)
    for launcher in ("local", "ray"):
        done = sweep(experiments, launcher, "--launcher", launcher, "--jobs", "2")
        assert done.returncode == 0, done.stderr
        assert "3 of 3 runs are finished" in done.stdout
        assert done.stderr == ""
    assert len(measured("local")) == 3
    assert measured("ray") == measured("local")


@pytest.mark.slow
def test_ray_on_a_cluster_that_is_there_already(monkeypatch: pytest.MonkeyPatch) -> None:
    # head and sweep agree on a token, which Ray asks for by default from 2.61 on
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN", "of-this-test-alone-0123456789abcdef")
    ray = pytest.importorskip("ray", reason="ray is not installed")
    experiments = write_experiments(Path("experiments.yaml"))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    binary = str(Path(sys.executable).with_name("ray"))
    options = ["--head", f"--port={port}", "--num-cpus=1", "--num-gpus=1", "--include-dashboard=false"]
    environment = {**os.environ, "RAY_USAGE_STATS_ENABLED": "0"}
    head = [binary, "start", *options, "--object-store-memory=100000000", "--block"]
    with Path("head.txt").open("w") as log:
        cluster = subprocess.Popen(head, stdout=log, stderr=log, env=environment)
        try:
            end = time.monotonic() + 60
            while "Ray runtime started" not in Path("head.txt").read_text():
                assert time.monotonic() < end, Path("head.txt").read_text()
                time.sleep(0.2)
            done = sweep(experiments, "runs", "--launcher", "ray", "--address", f"127.0.0.1:{port}", "--gpus", "0.25")
            assert done.returncode == 0, done.stderr
            assert "2 of 2 runs are finished" in done.stdout
            many = sweep(experiments, "more", "--launcher", "ray", "--address", f"127.0.0.1:{port}", "--gpus", "4")
            assert (many.returncode, many.stderr) == (2, "fpt: error: --gpus 4: this Ray cluster has 1 GPUs in all\n")
        finally:
            cluster.terminate()
            cluster.wait(60)
    assert not ray.is_initialized()


def _until_checkpointed(order: Run) -> int:
    """Waits for another checkpoint of a run; gives the worker of Ray's that makes it."""
    last = order.folder / "checkpoints" / "last.ckpt"
    before = last.stat().st_mtime_ns if last.exists() else 0
    end = time.monotonic() + PATIENCE
    while not last.exists() or last.stat().st_mtime_ns == before:
        assert time.monotonic() < end
        time.sleep(0.02)
    (process,) = _warm_processes()
    return int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1])


def _verdicts(launcher: RayLauncher, count: int) -> list[Verdict]:
    verdicts: list[Verdict] = []
    while len(verdicts) < count:
        verdicts += launcher.wait(1.0)
    return verdicts


@pytest.mark.slow
def test_the_run_of_a_worker_that_is_killed_ends_as_one_that_was_not() -> None:
    pytest.importorskip("ray", reason="ray is not installed")
    experiments = write_experiments(Path("experiments.yaml"), steps=1500, every=25, seeds=1)
    with LocalLauncher(jobs=1, threads=1) as local:
        local.submit(orders_of(grid_of(experiments, "whole")))
        while not local.wait(1.0):
            pass
    (order,) = orders_of(grid_of(experiments, "killed"))
    with RayLauncher(jobs=1, threads=1) as launcher:
        launcher.submit([order])
        for _ in range(2):
            worker = _until_checkpointed(order)
            (process,) = _warm_processes()
            os.kill(worker, signal.SIGKILL)
            while process in _warm_processes():  # it notices that nobody is left to answer to
                time.sleep(0.02)
            assert not (order.folder / "result.json").exists()
        (verdict,) = _verdicts(launcher, 1)
    assert verdict == Verdict(order.id, State.FINISHED)
    assert measured("killed") == measured("whole")
    assert _warm_processes() == []


@pytest.mark.slow
def test_what_kills_its_worker_or_its_process_or_cannot_begin_is_named() -> None:
    pytest.importorskip("ray", reason="ray is not installed")
    Path("killing.py").write_text(
        "import os, signal, lightning as L\n"
        "class Kill(L.Callback):\n"
        "    def __init__(self, who: str):\n"
        "        self.process = os.getpid() if who == 'self' else os.getppid()\n"
        "    def on_train_start(self, trainer, module):\n"
        "        os.kill(self.process, signal.SIGKILL)\n"
        "        signal.pause()\n"
    )
    (order,) = orders_of(grid_of(write_experiments(Path("experiments.yaml"), seeds=1)))
    kill = [
        replace(order, id=who, folder=Path(who), words=(*order.words, "--trainer.callbacks+=killing.Kill",
                f"--trainer.callbacks.who={who}"))
        for who in ("self", "worker")
    ]  # fmt: skip
    with RayLauncher(jobs=1, threads=1) as launcher:
        launcher.submit([*kill, order])
        verdicts = {verdict.id: verdict for verdict in _verdicts(launcher, 3)}
        assert (verdicts["self"].state, verdicts["self"].cause) == (State.FAILED, OUT_OF_MEMORY)
        assert verdicts["worker"].state is State.FAILED
        assert "its Ray worker died 3 times" in str(verdicts["worker"].cause)
        assert verdicts[order.id].state is State.FINISHED
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("fpt_lightning.experiments.launchers.ray.os.getcwd", lambda: "/no/such/folder")
            launcher.submit([order])
        (verdict,) = _verdicts(launcher, 1)
    assert verdict.state is State.FAILED
    assert "/no/such/folder" in str(verdict.cause)


@pytest.mark.slow
def test_runs_are_made_one_after_the_other_in_one_warm_process() -> None:
    pytest.importorskip("ray", reason="ray is not installed")
    orders = orders_of(grid_of(write_experiments(Path("experiments.yaml"), seeds=6)))
    seen: set[int] = set()
    with RayLauncher(jobs=1, threads=1) as launcher:
        launcher.submit(orders)
        left = len(orders)
        while left:
            assert len(launcher.running()) == 1
            left -= len(launcher.wait(0.05))
            seen |= set(_warm_processes())
    assert len(seen) == 1


@pytest.mark.slow
def test_close_stops_what_runs() -> None:
    pytest.importorskip("ray", reason="ray is not installed")
    (order,) = orders_of(grid_of(write_experiments(Path("experiments.yaml"), steps=100_000, every=25, seeds=1)))
    launcher = RayLauncher(jobs=1, threads=1)
    launcher.submit([order])
    _until_checkpointed(order)
    workers = _warm_processes()
    launcher.close()
    end = time.monotonic() + PATIENCE
    while any(map(is_alive, workers)):
        assert time.monotonic() < end
        time.sleep(0.05)
    assert read_outcome(Path(order.folder)).state is State.STOPPED
