"""An output layer on features that a frozen body computed once: samples a second, of one run and of 27 at once.

Every row is runs of `fpt run` on short generated expressions (ListOps, 10 to 100 tokens), where the output layer
alone trains and nothing is random: one on tokens, one on features (`--cache_features true`), and 27 learning rates on
features in one pass (`--pack`). The samples a second are those that `result.json` says of a run: training alone, behind
its first step. Features are made before it, once for all runs.

    python benchmarks/features.py --out benchmarks/results/features-MACHINE.json
"""

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

from fpt_lightning.machine import begin_again, huge_pages, machine
from fpt_lightning.main import main as fpt


def words(backbone: str, folder: Path, arguments: argparse.Namespace) -> list[str]:
    """A run of an output layer that trains and validates once."""
    data = {
        "train_examples": arguments.examples, "validation_examples": 64, "test_examples": 64, "min_length": 10,
        "max_length": 100, "limit": 100, "batch_size": arguments.batch_size, "cache_folder": folder / "cache",
    }  # fmt: skip
    trainer = {
        "max_steps": arguments.steps, "val_check_interval": arguments.steps, "enable_progress_bar": "false",
        "precision": arguments.precision, "log_every_n_steps": 50, "logger": "false",
    }  # fmt: skip
    return [
        "run", "--config=listops.yaml", f"--config=backbones/{backbone}.yaml", "--config=train/output_only.yaml",
        "--model.dropout=0", "--model.backbone_seed=0", "--test=never", "--baselines=false",
        *(f"--data.{name}={value}" for name, value in data.items()),
        *(f"--trainer.{name}={value}" for name, value in trainer.items()),
    ]  # fmt: skip


def measure(command: list[str], folder: Path) -> dict[str, Any]:
    """Runs a command: how many runs it made, samples a second of each in the mean, and the most memory in MiB."""
    if fpt([*command, f"--run_folder={folder}"]) != 0:
        raise SystemExit("fpt run failed")
    results = [json.loads(file.read_text()) for file in folder.rglob("result.json")]
    rate = sum(result["samples_per_second"] for result in results) / len(results)
    return {"runs": len(results), "samples_per_second": rate, "memory_mb": max(r["peak_memory_mb"] for r in results)}


def compare(backbone: str, arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """The ways to train an output layer; ``ratio`` is how many times the samples of a run on tokens each run does."""
    few, on_features = f"--trainer.max_steps={arguments.tokens_steps}", "--cache_features=true"
    rates = [round(1e-4 * 1.2**power, 7) for power in range(arguments.heads)]
    ways = {
        "tokens": [few],
        "features": [on_features],
        f"{arguments.heads} at once": [on_features, f"--pack=model.lr={json.dumps(rates)}"],
    }
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as place:
        command = words(backbone, Path(place), arguments)
        for way, more in ways.items():
            row = {"backbone": backbone, "way": way, **measure([*command, *more], Path(place, way))}
            row["ratio"] = row["samples_per_second"] / (rows or [row])[0]["samples_per_second"]
            rows.append(row)
            print(
                f"{backbone:<14}{way:<12}{row['samples_per_second']:>10,.0f}{row['ratio']:>8.1f}{row['memory_mb']:>7}",
                flush=True,
            )
    return rows


def main() -> None:
    begin_again(huge_pages())  # as fpt does
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbones", nargs="+", default=["pocket", "gpt2_random"], help="files of configs/backbones")
    parser.add_argument("--examples", type=int, default=512)
    parser.add_argument("--batch_size", type=int, default=16)
    parser.add_argument("--steps", type=int, default=2000, help="of a run on features")
    parser.add_argument("--tokens_steps", type=int, default=40, help="of a run on tokens")
    parser.add_argument("--heads", type=int, default=27, help="runs at once, each at a learning rate of its own")
    parser.add_argument("--precision", default="32-true", help="the Trainer's")
    parser.add_argument("--out", type=Path, help="the JSON to write")
    arguments = parser.parse_args()
    print(f"{'backbone':<14}{'way':<12}{'samples/s':>10}{'ratio':>8}{'MiB':>7}")
    rows = [row for backbone in arguments.backbones for row in compare(backbone, arguments)]
    if arguments.out:
        about = {"machine": machine("cpu"), "batch_size": arguments.batch_size, "precision": arguments.precision}
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(json.dumps({**about, "rows": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
