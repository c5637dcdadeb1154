"""Names out of files are shown as they stand: neither markup nor a terminal's commands."""

import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from fpt_lightning.experiments.grid import Grid, Selection, make_grid
from fpt_lightning.experiments.screen import Screen
from fpt_lightning.experiments.tables import read_experiments
from fpt_lightning.main import main
from fpt_lightning.runs.outcome import write_failure

NAME = "[red]a[/red] [link=x] \\x1b[31m \\x1b]0;title\\x07 \\r \\n ["

ARM = "[red]a[/red] [link=x] ["  # a name has no control characters

EXPERIMENTS = f"""
tasks:
  bit_xor: {{title: "{NAME}", config: bit_xor.yaml, lr: 1.0e-3, chance: 50}}
protocols:
  paper: {{seeds: [0]}}
profiles:
  smoke:
    backbones:
      language: {{configs: [backbones/tiny.yaml]}}
tables:
  one:
    title: "{NAME}"
    source: here
    tasks: [bit_xor]
    arms: {{"{ARM}": {{backbone: language}}}}
"""


@pytest.fixture
def grid() -> Grid:
    Path("experiments.yaml").write_text(EXPERIMENTS)
    grid = make_grid(read_experiments(None), Selection("one", "smoke", "paper"), Path("runs"))
    for run in grid.all_runs():
        run.folder.mkdir(parents=True)
        write_failure(run.folder, json.loads(f'"{NAME}"'.replace("\\x1b", "\\u001b").replace("\\x07", "\\u0007")))
    return grid


def _is_shown_as_it_stands(page: str) -> None:
    assert "[red]a[/red] [link=x]" in page
    assert "\\x1b[31m" in page
    assert "\\r \\n [" in page
    assert not {"\x1b", "\x07", "\r"} & set(page)


def test_status_shows_them(grid: Grid, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    assert main(["status", "one", "--profile=smoke", "--folder=runs"]) == 0
    page = capsys.readouterr().out
    assert "failed" in page
    assert page.count("[red]a[/red] [link=x]") == 5  # title, column, row, a run and its cause
    _is_shown_as_it_stands(page)


def test_a_sweep_shows_them(grid: Grid) -> None:
    console = Console(file=io.StringIO(), width=200)
    screen = Screen(grid, 1, console)
    (run,) = grid.all_runs()
    screen.ended(run, grid.outcomes()[run.id])
    assert isinstance(console.file, io.StringIO)
    _is_shown_as_it_stands(console.file.getvalue())
