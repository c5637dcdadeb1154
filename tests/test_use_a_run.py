"""What docs/use-a-run.md shows is what happens."""

import re
import shlex
import sys
from pathlib import Path

import pytest
import yaml

from conftest import Fpt

PAGE = (Path(__file__).parents[1] / "docs" / "use-a-run.md").read_text()
RUNS = re.findall(r"^fpt run (.*)$", PAGE, re.MULTILINE)
(LOSS,) = re.findall(r"`losses.py`:\n\n```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
(OPTIONS,) = re.findall(r"^```yaml\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("command", [*RUNS, "--config bit_xor.yaml --config page.yaml"])
def test_a_run_of_the_page_runs(fpt: Fpt, tiny: list[str], monkeypatch: pytest.MonkeyPatch, command: str) -> None:
    assert len(RUNS) == 4
    Path("losses.py").write_text(LOSS)
    Path("page.yaml").write_text(OPTIONS)
    monkeypatch.setattr(sys, "path", [*sys.path, str(Path.cwd())])
    monkeypatch.delitem(sys.modules, "losses", raising=False)
    assert fpt("run", *shlex.split(command), *tiny, "--run_folder=run") == 0
    config = yaml.safe_load(Path("run/config.yaml").read_text())
    if "page.yaml" in command:
        assert config["optimizer"]["class_path"] == "torch.optim.SGD"
        assert config["model"]["init_args"]["label_smoothing"] == 0.1
    if "losses" in command:
        from fpt_lightning import load

        assert type(load("run")).__name__ == "Focal"
