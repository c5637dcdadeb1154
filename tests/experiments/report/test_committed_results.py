"""The tables in results/ are what their runs say, by the commands of docs/results.md."""

import re
import shlex
import shutil
from pathlib import Path

import pytest

from fpt_lightning.experiments.report import ARCHIVED, checks, html
from fpt_lightning.main import main

ROOT = Path(__file__).parents[3]
COMMANDS = re.findall(r"^ +fpt (report .*)$", (ROOT / "docs" / "results.md").read_text(), re.MULTILINE)


def test_every_table_has_its_command() -> None:
    folders = {folder.relative_to(ROOT).as_posix() for folder in (ROOT / "results").glob("*/*/")}
    assert {shlex.split(command)[3] for command in COMMANDS} == folders


@pytest.mark.parametrize("command", COMMANDS)
def test_a_committed_table_is_what_its_runs_say(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    words = shlex.split(command)
    here = Path(words[3])
    shutil.copytree(ROOT / here, here)
    written_by = re.search(r"<footer><p>fpt-lightning (.+?)</p>", (here / "page.html").read_text())
    assert written_by is not None
    for module in (checks, html):  # a page says which version wrote it, and which others made its runs
        monkeypatch.setattr(module, "__version__", written_by[1])
    for name in ARCHIVED.values():
        (here / name).unlink()
    assert main([*words, "--archive", str(here)]) == 0
    for file in (ROOT / here).iterdir():
        assert (here / file.name).read_bytes() == file.read_bytes(), file
