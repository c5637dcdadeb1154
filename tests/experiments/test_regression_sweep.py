"""A table of the user's own regression, from a CSV file to its page, through the commands."""

import csv
import json
import random
from pathlib import Path

import pytest

from fpt_lightning.main import main

EXPERIMENTS = """
tasks:
  weight: {title: weight, config: table.yaml, lr: 1.0e-2, metric: r2}
protocols:
  paper: {}
  fair: {lr: [1.0e-8, 1.0e-2], seeds: [0, 1], grid_seeds: 1}
profiles:
  smoke:
    backbones:
      body: {configs: [backbones/tiny.yaml]}
      none: {configs: [controls/none.yaml]}
    settings:
      data.train_file: weights.csv
      data.target_column: weight
      data.regression: true
      trainer.max_steps: 60
      trainer.val_check_interval: 20
      trainer.accelerator: cpu
      trainer.enable_progress_bar: false
tables:
  mine:
    title: My own numbers
    source: this test
    tasks: [weight]
    protocol: fair
    arms: {frozen: {backbone: body}}
baselines:
  linear: {backbone: none, configs: [train/paper.yaml]}
"""


@pytest.mark.usefixtures("warm")
def test_a_regression_from_a_file_to_a_page(capsys: pytest.CaptureFixture[str]) -> None:
    Path("experiments.yaml").write_text(EXPERIMENTS)
    draw = random.Random(0)
    with Path("weights.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["a", "b", "c", "weight"])
        for _ in range(400):
            row = [draw.gauss(0, 1) for _ in range(3)]
            writer.writerow([*row, 3 * row[0] - 2 * row[1] + row[2] + 7])
    words = ["mine", "--profile", "smoke"]
    assert main(["sweep", *words, "--jobs", "1"]) == 0
    assert "8 of 8 runs are finished: " in capsys.readouterr().out
    results = [json.loads(file.read_text()) for file in Path("runs/tables").glob("*/result.json")]
    tested = [result for result in results if "test_r2" in result]
    assert [len(results), len(tested), {result["lr"] for result in tested}] == [8, 4, {1e-2}]
    linear = [result["test_r2"] for result in tested if result["backbone"] == "none"]
    assert len(linear) == 2
    assert min(linear) > 0.5  # what is linear in the input, a linear layer learns
    for kind, said in (
        ("markdown", "weight, test R²"),
        ("latex", "weight, test R$^2$"),
        ("html", "R² against learning"),
    ):
        assert main(["report", *words, "--format", kind, "--out", f"page.{kind}"]) == 0
        page = Path(f"page.{kind}").read_text()
        assert said in page
        assert "linear" in page
        assert "of the two that are best with one seed by mean validation R² over 2 seeds" in page.replace(
            "R$^2$", "R²"
        )
    Path("elsewhere").mkdir()
    assert main(["status", *words, "--data.root", "elsewhere"]) == 0  # other data, other runs
    assert "has 8 runs, but none of mine" in capsys.readouterr().err
