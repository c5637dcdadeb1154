"""A sweep killed at any moment, or beside another, ends with the runs and figures of one that was left in peace."""

import json
import os
import random
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
from sweeps import PATIENCE, children, is_alive, measured, sweep, sweep_words, write_experiments

from fpt_lightning.runs.outcome import read_outcome

SEEDS = 3


def _experiments(steps: int = 60, seeds: int = SEEDS) -> Path:
    """Two tasks, two learning rates; every seed runs the grid, so half of the runs are tested."""
    rates = (1e-3, 3e-3)
    tasks = ("bit_xor", "bit_memory")
    small = {"data.n": 20, "data.patch_size": 5}
    return write_experiments(Path("experiments.yaml"), steps, 20, seeds, rates, tasks, small)


def _results(folder: str) -> dict[str, int]:
    """When each finished run last wrote a figure of its training."""
    return {
        path.parent.name: (path.parent / "metrics.csv").stat().st_mtime_ns
        for path in Path(folder).glob("*/result.json")
    }


def _tested(folder: str) -> int:
    return sum("test_accuracy" in json.loads(path.read_text()) for path in Path(folder).glob("*/result.json"))


@pytest.mark.slow
def test_a_sweep_killed_again_and_again_ends_as_one_that_never_was() -> None:
    runs, kills, apart = 40, 10, 5
    experiments = _experiments(seeds=runs // 4)
    whole = sweep(experiments, "whole", "--jobs", "2")
    assert whole.returncode == 0, whole.stderr
    assert (len(_results("whole")), _tested("whole")) == (runs, runs // 2)
    moments = random.Random(0)
    finished: dict[str, int] = {}
    for kill in range(1, kills + 1):
        with Path("log.txt").open("w") as log:
            process = subprocess.Popen(sweep_words(experiments, "killed", "--jobs", "2"), stdout=log, stderr=log)
            end = time.monotonic() + PATIENCE
            # a few more runs or tests, and then some way into the next
            while len(_results("killed")) + _tested("killed") < kill * apart:
                assert process.poll() is None, Path("log.txt").read_text()
                assert time.monotonic() < end
                time.sleep(0.01)
            time.sleep(moments.uniform(0, 0.4))
            tree = [process.pid, *children(process.pid)]
            for one in tree:
                os.kill(one, signal.SIGKILL)
            assert process.wait() == -signal.SIGKILL
        while any(map(is_alive, tree)):
            time.sleep(0.01)
        now = _results("killed")
        assert finished.items() <= now.items()  # what was finished was left alone
        finished = now
        if kill == 1:
            assert len(now) < runs
    assert _tested("killed") < runs // 2
    done = sweep(experiments, "killed", "--jobs", "2")
    assert done.returncode == 0, done.stderr
    assert f"{runs} of {runs} runs are finished" in done.stdout
    assert finished.items() <= _results("killed").items()
    assert measured("killed") == measured("whole")
    again = sweep(experiments, "killed", "--jobs", "2")
    assert again.returncode == 0
    assert measured("killed") == measured("whole")
    assert not list(Path("killed").glob("**/*.part"))


@pytest.mark.slow
def test_workers_end_when_their_sweep_is_killed() -> None:
    words = sweep_words(_experiments(100_000), "runs", "--jobs", "1")
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    end = time.monotonic() + PATIENCE
    while not list(Path("runs").glob("*/metrics.csv")):
        assert time.monotonic() < end
        time.sleep(0.05)
    workers = children(process.pid)
    process.kill()
    process.wait()
    while any(map(is_alive, workers)):
        assert time.monotonic() < end
        time.sleep(0.05)


@pytest.mark.slow
def test_two_sweeps_at_once_make_every_run_once() -> None:
    experiments, runs = _experiments(), 4 * SEEDS
    words = sweep_words(experiments, "runs", "--jobs", "1")
    both = [subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    said = [process.communicate(timeout=PATIENCE) for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    assert all(f"{runs} of {runs} runs are finished" in out for out, _ in said)
    assert len(_results("runs")) == runs
    # a log is begun for every run that is made or tested, and the one before kept
    assert len(list(Path("runs").glob("*/log.txt"))) == runs
    assert len(list(Path("runs").glob("*/log.1.txt"))) == _tested("runs") == runs // 2


@pytest.mark.slow
def test_a_failing_run_does_not_stop_the_others(mnist_root: Path) -> None:
    # the data of one arm is not where it says, which shows only when the run begins
    here = {"backbone": "body", "settings": {"data.root": str(mnist_root)}}
    away = {"backbone": "body", "settings": {"data.root": "away", "data.validation_examples": 16}}
    small = {"data.download": False, "data.eval_batch_size": 8, "data.validation_examples": 20}
    experiments = write_experiments(
        Path("experiments.yaml"), tasks=("mnist",), settings=small, arms={"away": away, "here": here}
    )
    done = sweep(experiments, "runs", "--jobs", "1")
    assert done.returncode == 1
    assert "2 of 4 runs are finished" in done.stdout
    assert done.stderr.startswith("fpt: error: 2 failed; the same command tries them again:")
    assert done.stderr.count("not found in away/MNIST/raw") == 2
    shutil.copytree(mnist_root, "away")
    again = sweep(experiments, "runs", "--jobs", "1")
    assert again.returncode == 0, again.stderr
    assert "4 of 4 runs are finished" in again.stdout


@pytest.fixture
def full_disk(tmp_path: Path) -> Path:
    """A disk of 256 KiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("only root may mount a small disk")
    return folder


@pytest.mark.slow
def test_a_full_disk_is_named(full_disk: Path) -> None:
    experiments = write_experiments(Path("experiments.yaml"), seeds=3)
    try:
        done = sweep(experiments, full_disk, "--jobs", "1")
        assert done.returncode == 1
        assert "No space left on device" in done.stderr
        for result in full_disk.glob("*/result.json"):  # whole, or not there
            assert json.loads(result.read_text())["status"] == "finished"
            assert read_outcome(result.parent).result is not None
    finally:
        subprocess.run(["umount", str(full_disk)], check=True)
