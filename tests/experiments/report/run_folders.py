"""A table of four arms and two tasks, and run folders as `fpt run` leaves them, without training."""

import csv
import json
import math
from pathlib import Path
from typing import Any

import yaml

from fpt_lightning import __version__
from fpt_lightning.experiments.cells import Run
from fpt_lightning.experiments.grid import Grid, Selection, make_grid
from fpt_lightning.experiments.tables import read_experiments
from fpt_lightning.runs.folder import RunFolder

EXPERIMENTS = """
tasks:
  bit_xor: {title: bit-xor, config: bit_xor.yaml, lr: 1.0e-3, chance: 50}
  mnist: {title: MNIST, config: mnist.yaml, lr: 1.0e-3, chance: 10}
  weight: {title: weight, config: table.yaml, lr: 1.0e-3, chance: 0, metric: r2}
protocols:
  paper: {seeds: [0, 1, 2]}
  fair: {lr: [1.0e-4, 1.0e-3, 1.0e-2], seeds: [0, 1, 2], settings: {early_stopping.patience: 10}}
  frugal: {lr: [1.0e-4, 1.0e-3, 1.0e-2], seeds: [0, 1, 2], grid_seeds: 1}
profiles:
  laptop:
    about: minutes a run
    backbones:
      language: {configs: [backbones/small.yaml]}
      vision: {missing: no ViT weights in this profile}
tables:
  table2:
    title: Pretraining modality
    source: FPT section 3.2, table 2
    tasks: [bit_xor, mnist]
    note: Read as released.
    arms:
      FPT: {backbone: language, reference: [100, 98.0]}
      Random: {backbone: language, configs: [initialization/random.yaml], reference: [75.8, [91.7, 0.4]]}
      LSTM*: {backbone: language, settings: {model.layers: 1}, reference: [50, null]}
      ViT: {backbone: vision, reference: [100, 97.8]}
  table6:
    title: Steps
    source: FPT section 3.4, table 6
    tasks: [bit_xor]
    measures: [steps_to_convergence]
    arms:
      FPT: {backbone: language, reference: [500]}
      Random: {backbone: language, configs: [initialization/random.yaml], reference: [20000]}
  table7:
    title: Fit and size
    source: FPT section 3.6, table 7
    tasks: [mnist]
    measures: [accuracy, train_accuracy, trained_parameters]
    arms:
      FPT: {backbone: language, reference: [98.0, 97.0, 106000]}
      Random: {backbone: language, configs: [initialization/random.yaml]}
  regressions:
    title: Numbers
    source: ours
    tasks: [bit_xor, weight]
    arms:
      FPT: {backbone: language, reference: [100, [0.9, 0.02]]}
      Random: {backbone: language, configs: [initialization/random.yaml]}
  regressions_in_full:
    title: Numbers in full
    source: ours
    tasks: [weight]
    measures: [accuracy, train_accuracy, steps_to_convergence, trained_parameters]
    arms:
      FPT: {backbone: language}
      Random: {backbone: language, configs: [initialization/random.yaml]}
"""

CONFIG: dict[str, Any] = {
    "trainer": {"max_steps": 1000, "accumulate_grad_batches": 1, "val_check_interval": 100, "logger": None},
    "early_stopping": {"monitor": "val_accuracy", "mode": "max", "patience": None, "min_delta": 0.0},
    "model": {"class_path": "fpt_lightning.FPTClassifier", "init_args": {"trainable": ["input", "output"]}},
}


def finish(
    run: Run,
    test: float = 0.9,
    validation: float | None = None,
    *,
    curve: list[float] | None = None,
    training: list[float] | None = None,
    config: dict[str, dict[str, Any]] | None = None,
    metric: str = "accuracy",
    **result: Any,
) -> None:
    """Leaves the folder of a finished run: config.yaml, metrics.csv and result.json, as ``fpt run`` does.

    Args:
        run: The run.
        test: Test accuracy, or what else ``metric`` is.
        validation: That on validation; that of the test by default.
        curve: Validations every 100 steps; a rise to ``validation`` by default.
        training: Accuracies of the training batches logged every 10 steps; a regression logs none.
        config: Options that differ, by section.
        metric: What judges the run: ``r2`` of a regression.
        result: Entries of result.json that differ.
    """
    validation = test if validation is None else validation
    curve = curve or [validation * (1 - math.exp(-step / 2)) for step in range(1, 10)] + [validation]
    steps = 100 * len(curve)
    training = training or [0.5] * (steps // 10)
    run.folder.mkdir(parents=True)
    config = config or {}
    options = {name: {**CONFIG.get(name, {}), **config.get(name, {})} for name in CONFIG | config}
    (run.folder / "config.yaml").write_text(yaml.safe_dump({"seed_everything": run.seed, **options}))
    rows = [{"step": 10 * index + 9, "train_accuracy": accuracy} for index, accuracy in enumerate(training)]
    rows = [] if metric == "r2" else rows
    rows += [{"step": 100 * index + 99, f"val_{metric}": accuracy} for index, accuracy in enumerate(curve)]
    with (run.folder / "metrics.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, ["step", "train_loss", "train_accuracy", "val_loss", f"val_{metric}"])
        writer.writeheader()
        writer.writerows(sorted(rows, key=lambda row: row["step"]))
    content = {
        "task": run.task,
        "lr": run.lr,
        "batch_size": 16,
        "seed": run.seed,
        "trained_parameters": 1000,
        "data_fingerprint": f"data of {run.task}",
        "steps": steps,
        "best_step": steps,
        f"val_{metric}": validation,
        f"test_{metric}": test,
        "versions": {"fpt-lightning": __version__},
    }
    RunFolder(run.folder).result.write_text(json.dumps({**content, **result}))


def diverge(run: Run, step: int, **result: Any) -> None:
    """Leaves the folder of a run that diverged: its result has the step, and no figures."""
    finish(run, **result)
    file = RunFolder(run.folder).result
    content = {key: value for key, value in json.loads(file.read_text()).items() if "_accuracy" not in key}
    file.write_text(json.dumps({**content, "status": "diverged", "diverged_step": step, "best_step": None}))


def grid_of(table: str = "table2", declared: str = EXPERIMENTS, **how: Any) -> Grid:
    """A table of a file with three, its runs below ``tables``."""
    Path("declared.yaml").write_text(declared, encoding="utf-8")
    return make_grid(read_experiments("declared.yaml"), Selection(table, **how), Path("tables"))
