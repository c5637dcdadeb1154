"""An exception that nobody foresaw: exit status 1, the traceback in a file, or with --debug on the screen."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

TASK = """
from fpt_lightning import BitXOR

class Broken(BitXOR):
    def facts(self):
        return {}["what is not there"]
"""


def _fpt(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "fpt_lightning", "prepare", "--config", "broken.yaml", *words]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)


@pytest.fixture(autouse=True)
def _broken(warm: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "broken.py").write_text(TASK)
    (tmp_path / "broken.yaml").write_text("data: {class_path: broken.Broken}\n")
    (tmp_path / "kept").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "kept"))


def test_a_bug_is_said_in_two_lines(tmp_path: Path) -> None:
    done = _fpt()
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    first, second = done.stderr[done.stderr.index("fpt: error: ") :].splitlines()
    assert "KeyError: 'what is not there'" in first
    match = re.fullmatch(r"the traceback is in (\S+)", second)
    assert match is not None
    kept = Path(match[1]).read_text()
    assert "prepare --config broken.yaml" in kept
    assert 'return {}["what is not there"]' in kept
    assert Path(match[1]).parent == tmp_path / "kept"


def test_debug_shows_it(tmp_path: Path) -> None:
    done = _fpt("--debug")
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    assert not list((tmp_path / "kept").glob("fpt-*"))
