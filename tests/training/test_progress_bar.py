"""What a run shows of itself: one bar in a terminal, none elsewhere, and four lines at its end."""

import os
import pty
import re
import subprocess
import sys

import pytest

WORDS = ["run", "bit_xor.yaml", "--model.backbone=tiny", "--trainer.max_steps=40", "--trainer.val_check_interval=20"]


def _in_a_terminal(*words: str) -> str:
    ours, theirs = pty.openpty()
    environment = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "120", "LINES": "30"}
    command = [sys.executable, "-m", "fpt_lightning", *words]
    with subprocess.Popen(command, stdout=theirs, stderr=theirs, stdin=theirs, env=environment) as process:
        os.close(theirs)
        shown = b""
        while True:
            try:
                piece = os.read(ours, 65536)
            except OSError:  # Linux says so when the other side is closed
                break
            if not piece:
                break
            shown += piece
    os.close(ours)
    assert process.returncode == 0
    return shown.decode()


def _left_on_screen(shown: str) -> list[str]:
    """The lines that remain: a bar's are erased, upwards line by line, and written anew."""
    lines, row = [""], 0
    for piece in re.findall(r"\x1b\[[0-9;?]*[a-zA-Z]|\r|\n|[^\r\n\x1b]+", shown):
        if piece == "\n":
            row += 1
            lines += [""] * (row + 1 - len(lines))
        elif piece.startswith("\x1b[") and piece.endswith("A"):
            row = max(0, row - int(piece[2:-1] or 1))
        elif piece.startswith("\x1b[") and piece.endswith("K"):
            lines[row] = ""
        elif not piece.startswith("\x1b") and piece != "\r":
            lines[row] += piece
    return [line.strip() for line in lines if line.strip()]


def _of_every_machine(lines: list[str]) -> list[str]:
    """The lines without the one that processors with products of bf16 add."""
    return [line for line in lines if " multiplies bf16 faster than fp32 " not in line]


@pytest.mark.skipif(sys.platform == "win32", reason="pseudo terminals are POSIX")
@pytest.mark.usefixtures("warm")
def test_a_terminal_shows_one_bar_that_goes_when_the_run_ends() -> None:
    shown = _in_a_terminal(*WORDS, "--run_folder=run")
    assert re.search(r"Training .*40/40", shown)
    assert "Testing" in shown
    assert "Validation" not in shown
    assert "train_loss" in shown
    lines = _of_every_machine(_left_on_screen(shown))
    assert lines[0] == "run folder: run"
    assert lines[1].startswith("bit_xor on tiny")
    assert re.fullmatch(r"all .* trains", lines[-5])
    assert [line.split()[0] for line in lines[-4:-1]] == ["test", "test", lines[-2].split()[0]]
    assert lines[-1].startswith("run: result.json, ")


def test_elsewhere_there_is_no_bar_and_no_noise(request: pytest.FixtureRequest) -> None:
    command = [sys.executable, "-m", "fpt_lightning"]  # whose imports are silent too
    done = subprocess.run([*command, *WORDS, "--run_folder=run"], capture_output=True, text=True, check=True)
    assert len(done.stdout.splitlines()) == 4
    lines = _of_every_machine(done.stderr.splitlines())
    assert lines[:2] == ["run folder: run", "bit_xor on tiny (random, seed 0)"]
    assert re.fullmatch(r"all .* trains", lines[-1])
    assert len(lines) == 10
    request.getfixturevalue("warm")
    command[0] = sys.executable
    done = subprocess.run([*command, "test", "run"], capture_output=True, text=True, check=True)
    assert "test_accuracy" in done.stdout
    assert done.stderr == ""
