"""docs/first-hour.md, from its top to its end, as it stands."""

import csv
import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from conftest import Fpt

PAGE = (Path(__file__).parents[1] / "docs" / "first-hour.md").read_text()
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


@pytest.mark.slow
def test_a_newcomers_first_hour(fpt: Fpt, capfd: pytest.CaptureFixture[str]) -> None:
    names: dict[str, Any] = {}
    for language, text in BLOCKS:
        if language == "python":
            exec(text, names)
        elif language == "yaml":
            Path("mine.yaml").write_text(text)
        else:
            for line in text.splitlines():
                command, *words = shlex.split(line)
                assert command == "fpt"
                assert fpt(*words) == 0, line
    said = capfd.readouterr()
    assert "Traceback" not in said.out + said.err
    assert "| language |" in said.out
    assert json.loads(Path("runs/first/result.json").read_text())["status"] == "finished"
    assert Path("runs/pocket/attention.png").stat().st_size > 1000
    with Path("runs/pumps/predictions.csv").open() as file:
        assert [row["prediction"] for row in csv.DictReader(file)] == ["idle", "pump"]
    assert "language" in Path("mine.html").read_text()
    assert fpt("run", "bit_xor.yaml", "--run_folder", "runs/first") == 2
    assert "holds a finished run" in capfd.readouterr().err
