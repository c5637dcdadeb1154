"""What a signal ends says so, and ends with 130 or 143, whenever it comes and however often."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

PATIENCE = 300.0  # seconds; machines are shared
ENDLESS = [
    "run", "--config=bit_memory.yaml", "--data.n=20", "--data.patch_size=5", "--model.backbone=tiny",
    "--trainer.max_steps=1000000", "--trainer.val_check_interval=20", "--trainer.limit_val_batches=1",
    "--trainer.log_every_n_steps=1", "--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false",
    "--run_folder=run",
]  # fmt: skip
LAST = "run/checkpoints/last.ckpt"


def _once(moment: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    end = time.monotonic() + PATIENCE
    while not moment() and process.poll() is None:
        assert time.monotonic() < end
        time.sleep(0.01)


def _told(words: list[str], moment: Callable[[], bool], number: int, again: float | None = None) -> tuple[int, str]:
    """Exit status and standard error of a command that gets a signal, and another so many seconds later."""
    command = [sys.executable, "-m", "fpt_lightning", *words]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        _once(moment, process)
        process.send_signal(number)
        if again is not None:
            time.sleep(again)
            if process.poll() is None:
                process.send_signal(number)
        said = process.communicate(timeout=PATIENCE)[1]
    return process.returncode, said


SIGNALS = [(signal.SIGINT, 130, "fpt: stopped by Ctrl-C"), (signal.SIGTERM, 143, "fpt: stopped by SIGTERM")]


def _never_a_traceback(text: str) -> None:
    assert "Traceback" not in text
    assert "Exception ignored" not in text


@pytest.mark.slow
@pytest.mark.parametrize("again", [None, 0.05, 0.4])
@pytest.mark.parametrize(("number", "status", "word"), SIGNALS)
def test_a_start_is_stopped(number: int, status: int, word: str, again: float | None) -> None:
    for delay in (0.3, 0.8, 1.6, 2.4):  # while torch and lightning are imported, mostly
        start = time.monotonic()
        code, said = _told(ENDLESS, lambda end=start + delay: time.monotonic() > end, number, again)  # type: ignore[misc]
        assert code == status, said
        assert word in said
        _never_a_traceback(said)


@pytest.mark.slow
@pytest.mark.parametrize("again", [None, 0.05, 0.4])
@pytest.mark.parametrize(("number", "status", "word"), SIGNALS)
def test_a_training_is_stopped_and_says_how_to_go_on(number: int, status: int, word: str, again: float | None) -> None:
    code, said = _told(ENDLESS, Path(LAST).exists, number, again)
    assert code == status, said
    assert said.splitlines()[-2:] == [word, f"{LAST} is whole: --run_folder run --ckpt_path {LAST} goes on from it"]
    _never_a_traceback(said)
    assert not Path("run/result.json").exists()
    assert not Path("run/.holder").exists()
    more = [*ENDLESS, f"--ckpt_path={LAST}", "--trainer.max_steps=60", "--trainer.limit_test_batches=1"]
    before = json.loads(subprocess.run(
        [sys.executable, "-c", f"import torch; print(torch.load('{LAST}', weights_only=True)['global_step'])"],
        capture_output=True, text=True, check=True).stdout)  # fmt: skip
    more = [word.replace("=60", f"={before + 20}") for word in more]
    subprocess.run([sys.executable, "-m", "fpt_lightning", *more], check=True, capture_output=True, timeout=PATIENCE)
    assert json.loads(Path("run/result.json").read_text())["steps"] == before + 20


@pytest.mark.slow
@pytest.mark.parametrize("again", [None, 0.1])
@pytest.mark.parametrize(("number", "status", "word"), SIGNALS)
def test_a_sweep_is_stopped_with_its_workers(
    number: int, status: int, word: str, again: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(Path(__file__).parent / "experiments" / "launchers")
    from sweeps import children, is_alive, sweep_words, write_experiments

    words = sweep_words(write_experiments(Path("experiments.yaml"), steps=100_000, every=50), "runs", "--jobs", "2")[3:]
    workers: list[int] = []

    def running() -> bool:
        there = len(list(Path("runs").glob("*/metrics.csv"))) == 2
        if there:
            workers.extend(children(os.getpid()))
        return there

    code, said = _told(words, running, number, again)
    assert code == status, said
    assert said.splitlines()[-2:] == [word, "the same command goes on where the runs are"]
    _never_a_traceback(said)
    assert len(workers) > 2
    assert not any(map(is_alive, workers))


def test_a_program_that_calls_it_keeps_its_own_handlers(monkeypatch: pytest.MonkeyPatch) -> None:
    from fpt_lightning import main

    told = signal.signal(signal.SIGINT, signal.default_int_handler)  # tests in the background are told to ignore it
    try:
        before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
        monkeypatch.setattr(main, "_run", lambda *_: signal.raise_signal(signal.SIGINT))
        assert main.main(["run"]) == 130
        assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before
    finally:
        signal.signal(signal.SIGINT, told)


@pytest.mark.slow
def test_slurm_puts_a_job_in_line_again_and_it_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("bin").mkdir()
    Path("bin/scontrol").write_text('#!/bin/sh\necho "$@" >> asked\n')
    Path("bin/scontrol").chmod(0o755)
    monkeypatch.setenv("PATH", f"{Path.cwd()}/bin:{os.environ['PATH']}")
    job = {"NTASKS": "1", "JOB_ID": "17", "JOB_NAME": "mine", "PROCID": "0", "LOCALID": "0", "NODEID": "0"}
    for name, value in job.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    command = [sys.executable, "-m", "fpt_lightning", *ENDLESS, "--last_checkpoint.every_n_train_steps=1000000"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        _once(Path("run/checkpoints/best.ckpt").exists, process)
        process.send_signal(signal.SIGUSR1)
        process.send_signal(signal.SIGTERM)
        said = process.communicate(timeout=PATIENCE)[1]
    assert process.returncode == 143, said
    assert Path("asked").read_text() == "requeue 17\n"
    _never_a_traceback(said)
    (left,) = Path("run").glob("hpc_ckpt_*.ckpt")
    assert f"{left} is whole: --run_folder run --ckpt_path {left} goes on from it" in said
    more = ["--ckpt_path=last", "--trainer.max_steps=1", "--trainer.limit_test_batches=1"]
    done = subprocess.run([*command, *more], capture_output=True, text=True, check=False, timeout=PATIENCE)
    assert done.returncode == 0, done.stderr
    # begun anew it would have ended at step 1; the checkpoint is from behind the first validation
    assert json.loads(Path("run/result.json").read_text())["steps"] >= 20
