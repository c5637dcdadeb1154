"""What docs/add-a-task.md shows is what happens."""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from conftest import Fpt

PAGE = (Path(__file__).parents[1] / "docs" / "add-a-task.md").read_text()
FILES = dict(re.findall(r"^`([\w.]+)`:\n\n```\w+\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL))
COMMANDS = re.findall(r"^fpt (.*)$", PAGE, re.MULTILINE)


@pytest.fixture(autouse=True)
def _files_of_the_page(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, content in FILES.items():
        Path(name).write_text(content)
    monkeypatch.setattr(sys, "path", [*sys.path])  # `fpt` adds the folder it is called in
    monkeypatch.delitem(sys.modules, "majority", raising=False)


def test_the_page_has_a_class_a_config_and_a_test() -> None:
    assert set(FILES) == {"sensors.csv", "majority.py", "majority.yaml", "test_majority.py"}
    assert len(COMMANDS) == 6


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_of_the_page_runs(fpt: Fpt, tiny: list[str], command: str, hub_folder: Path) -> None:
    for name, here in (("stanfordnlp/imdb", str(hub_folder)), ("backbones/gpt2.yaml", "backbones/tiny.yaml")):
        command = command.replace(name, here)  # no network
    words = shlex.split(command)
    assert fpt(*words, *tiny) == 0
    if words[0] == "run":
        (result,) = Path("runs").rglob("result.json")
        measured = json.loads(result.read_text())
        assert measured["status"] == "finished"
        assert ("test_r2" if "majority.ShareOfOnes" in words else "test_accuracy") in measured


@pytest.mark.usefixtures("warm")
def test_the_test_of_the_page_passes() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_majority.py"],
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-2000:]
    assert "2 passed" in done.stdout


def test_a_module_that_is_not_found_is_named(fpt: Fpt, capsys: pytest.CaptureFixture[str]) -> None:
    assert fpt("run", "--data=minority.MinorityOfBits") == 2
    error = capsys.readouterr().err
    assert "minority.MinorityOfBits cannot be imported: No module named 'minority'" in error
    assert fpt("run", "--data=majority.MinorityOfBits") == 2
    assert "has no attribute 'MinorityOfBits'" in capsys.readouterr().err
