"""The notebook runs as it stands, cell by cell, and what it shows is true."""

import json
from pathlib import Path
from typing import Any

import pytest

NOTEBOOK = json.loads((Path(__file__).parents[1] / "docs" / "after-a-run.ipynb").read_text())
CELLS = ["".join(cell["source"]) for cell in NOTEBOOK["cells"] if cell["cell_type"] == "code"]


def test_no_outputs_are_kept() -> None:
    """They would tell of another version."""
    for cell in NOTEBOOK["cells"]:
        assert cell["cell_type"] == "markdown" or (cell["outputs"], cell["execution_count"]) == ([], None)


def test_the_notebook_runs(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("MPLBACKEND", "agg")
    names: dict[str, Any] = {}
    for number, cell in enumerate(CELLS):
        exec(compile(cell, f"cell {number}", "exec"), names)
    assert names["result"]["test_accuracy"] > 0.95
    assert names["answers"].tolist() == (names["strings"][:, :2] ^ names["strings"][:, 2:]).tolist()
    assert "[0, 1] xor [1, 1] = [1, 0]" in capsys.readouterr().out
    assert names["measured"]["test_accuracy"] > 0.8  # of the machines of a CSV file
    assert names["machines"].task.classes == 2
