"""A run that is killed at any moment goes on to where it would have come without."""

import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from conftest import read_rows
from fpt_lightning.training.artifacts.checkpoint import read_checkpoint

STEPS = 240
LAST = Path("run/checkpoints/last.ckpt")
PATIENCE = 300  # seconds for a start; machines are shared
# stops for good in the middle of the checkpoint whose number is the first word, and says so
HALFWAY = """
import io, pathlib, sys, time, torch
from fpt_lightning.main import main
save, left = torch.save, [int(sys.argv[1])]
def half(content, file):
    left[0] -= 1
    if left[0]:
        return save(content, file)
    whole = io.BytesIO()
    save(content, whole)
    file.write(whole.getvalue()[:whole.tell() // 2])
    file.flush()
    pathlib.Path("halfway").touch()
    time.sleep(3600)
torch.save = half
sys.exit(main(sys.argv[2:]))
"""


def _words(small_language: list[str], run: str) -> list[str]:
    more = [
        f"--trainer.max_steps={STEPS}",
        "--trainer.val_check_interval=40",
        "--last_checkpoint.every_n_train_steps=3",
    ]
    return ["fit", *small_language, *more, "--data.repeat_share=0.5", f"--run_folder={run}", "--ckpt_path=last"]


def _killed(command: list[str], moment: Callable[[], bool], delay: float = 0.0) -> None:
    """Starts a run and kills it once the moment has come, and a little later."""
    with Path("log.txt").open("w") as log:
        process = subprocess.Popen([sys.executable, *command], stdout=log, stderr=log)
        end = time.monotonic() + PATIENCE
        while not moment() and process.poll() is None and time.monotonic() < end:
            time.sleep(0.002)
        time.sleep(delay)
        process.kill()
        assert process.wait() == -signal.SIGKILL, Path("log.txt").read_text()[-3000:]


def _step() -> int:
    """Where the last checkpoint stands, which must be readable like every other that is there."""
    for path in Path("run/checkpoints").glob("*.ckpt"):
        read_checkpoint(path)
    return int(torch.load(LAST, weights_only=True)["global_step"]) if LAST.exists() else 0


@pytest.mark.slow
def test_a_run_killed_again_and_again_ends_as_one_that_never_was(small_language: list[str]) -> None:
    whole = [sys.executable, "-m", "fpt_lightning", *_words(small_language, "whole")]
    subprocess.run(whole, check=True, capture_output=True, timeout=PATIENCE)
    words = _words(small_language, "run")
    moments = random.Random(0)

    # before its first step, and in the middle of its first checkpoint: there is none to go on from
    _killed(["-m", "fpt_lightning", *words], lambda: Path("run").exists())
    assert _step() == 0
    reached = [0]
    for number in (1, 2, moments.randint(3, 12)):
        _killed(["-c", HALFWAY, str(number), *words], Path("halfway").exists)
        Path("halfway").unlink()
        reached.append(_step())
    for _ in range(3):
        before = LAST.stat().st_mtime_ns

        def goes_on(before: int = before) -> bool:
            return LAST.stat().st_mtime_ns != before

        _killed(["-m", "fpt_lightning", *words], goes_on, moments.uniform(0, 0.3))
        reached.append(_step())
    assert reached[0] == reached[1] == 0 < reached[2]
    assert reached == sorted(reached)
    assert reached[-1] < STEPS

    subprocess.run([sys.executable, "-m", "fpt_lightning", *words], check=True, capture_output=True, timeout=PATIENCE)
    ours, theirs = (torch.load(f"{run}/checkpoints/last.ckpt", weights_only=True) for run in ("run", "whole"))
    assert ours["global_step"] == theirs["global_step"] == STEPS
    assert _same(ours["state_dict"], theirs["state_dict"])
    assert _same(ours["optimizer_states"], theirs["optimizer_states"])
    figures = [
        [(row["step"], row["train_loss"], row["val_loss"]) for row in read_rows(Path(run, "metrics.csv"))]
        for run in ("run", "whole")
    ]
    assert figures[0] == figures[1]
    assert not list(Path("run/checkpoints").glob("*.part"))


def _same(ours: Any, theirs: Any) -> bool:
    """Whether two nested containers of tensors and plain values are equal bit for bit."""
    if isinstance(ours, torch.Tensor):
        return torch.equal(ours, theirs)
    if isinstance(ours, dict):
        return ours.keys() == theirs.keys() and all(_same(ours[key], theirs[key]) for key in ours)
    if isinstance(ours, list | tuple):
        return len(ours) == len(theirs) and all(map(_same, ours, theirs))
    return bool(ours == theirs)
