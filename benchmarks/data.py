"""How fast the data comes, beside a GPT-2 base training step that eats it, on this machine.

For every task: samples a second of the training loader up to the tokens on the device, at the task's batch size;
samples a second of a training step of GPT-2 base (frozen, random, fp32) on batches of that task; the ratio of the two,
and the share of a training step that the data takes.

    python benchmarks/data.py --root mnist=FOLDER --root remote_homology=FOLDER --out FILE.json

Bit tasks and ListOps need no folder; other tasks are left out where none is given.
"""

import argparse
import json
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
import yaml

import fpt_lightning
from fpt_lightning.config_files import find_config
from fpt_lightning.data.datamodule import FPTDataModule
from fpt_lightning.data.spec import Batch
from fpt_lightning.machine import machine
from fpt_lightning.models.backbones.choice import BackboneChoice
from fpt_lightning.models.fpt import FrozenPretrainedTransformer

TASKS = ("bit_memory", "bit_xor", "listops", "mnist", "cifar", "cifar_lra", "remote_homology", "image_folder")
GENERATED = ("bit_memory", "bit_xor", "listops")


def build(task: str, root: str | None, options: dict[str, Any]) -> FPTDataModule:
    """The datamodule of a shipped config."""
    config = yaml.safe_load(Path(find_config(f"{task}.yaml")).read_text())["data"]
    arguments = {**config.get("init_args", {}), **({"root": root} if root else {}), **options}
    data: FPTDataModule = getattr(fpt_lightning, config["class_path"])(**arguments)
    data.prepare_data()
    return data


def batches(data: FPTDataModule, device: torch.device) -> Iterator[Batch]:
    """Training batches on the device, epoch after epoch."""
    loader = data.train_dataloader()
    epoch = 0
    while True:
        loader.sampler.set_epoch(epoch)  # type: ignore[attr-defined]
        for batch in loader:
            moved = data.transfer_batch_to_device(batch, device, 0)
            yield data.on_after_batch_transfer(moved, 0)
        epoch += 1


def seconds_a_batch(source: Iterator[Batch], seconds: float) -> float:
    """The mean over at least so many seconds and 20 batches, the first left out."""
    next(source)
    count, start = 0, time.perf_counter()
    while count < 20 or time.perf_counter() - start < seconds:
        next(source)
        count += 1
    return (time.perf_counter() - start) / count


def seconds_a_step(
    source: Iterator[Batch], data: FPTDataModule, backbone: str, device: torch.device, steps: int
) -> float:
    """The median training step on batches that are already there."""
    choice = BackboneChoice(backbone, "random", positions="new")
    model = FrozenPretrainedTransformer(data.task, choice).to(device)
    optimizer = torch.optim.Adam(model.trained_parameters().values(), foreach=True)
    times = []
    for batch in [next(source) for _ in range(steps + 1)]:
        start = time.perf_counter()
        optimizer.zero_grad()
        logits = model(batch.tokens, batch.mask)
        F.cross_entropy(logits.flatten(0, 1), batch.target.flatten()).backward()
        optimizer.step()
        if device.type == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return statistics.median(times[1:])


def measure(task: str, data: FPTDataModule, arguments: argparse.Namespace) -> dict[str, Any]:
    """One row of the table."""
    device = torch.device(arguments.device)
    loading = seconds_a_batch(batches(data, device), arguments.seconds)
    step = seconds_a_step(batches(data, device), data, arguments.backbone, device, arguments.steps)
    return {
        "task": task,
        "batch_size": data.batch_size,
        "data_samples_per_second": data.batch_size / loading,
        "step_samples_per_second": data.batch_size / step,
        "ratio": step / loading,
        "share_of_step": loading / (loading + step),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="*", default=TASKS, choices=TASKS)
    parser.add_argument("--root", action="append", default=[], metavar="TASK=FOLDER", help="where a task's data lies")
    parser.add_argument("--set", action="append", default=[], metavar="TASK.OPTION=VALUE", help="an option of a task")
    parser.add_argument("--backbone", default="gpt2")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--seconds", type=float, default=3.0, help="of loading a task")
    parser.add_argument("--steps", type=int, default=3, help="training steps a task")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    roots = dict(pair.split("=", 1) for pair in arguments.root)
    options: dict[str, dict[str, Any]] = {}
    for pair in arguments.set:
        key, value = pair.split("=", 1)
        options.setdefault(key.partition(".")[0], {})[key.partition(".")[2]] = yaml.safe_load(value)
    rows = []
    print(f"{'task':<16}{'batch':>6}{'data/s':>12}{'step/s':>10}{'ratio':>10}{'share of step':>15}")
    for task in arguments.tasks:
        if task not in GENERATED and task not in roots:
            print(f"{task:<16}  left out: no --root {task}=FOLDER")
            continue
        row = measure(task, build(task, roots.get(task), options.get(task, {})), arguments)
        rows.append(row)
        print(
            f"{task:<16}{row['batch_size']:>6}{row['data_samples_per_second']:>12,.0f}"
            f"{row['step_samples_per_second']:>10.2f}{row['ratio']:>10,.0f}{row['share_of_step']:>15.2%}",
            flush=True,
        )
    if arguments.out:
        content = {"machine": machine(arguments.device), "backbone": arguments.backbone, "tasks": rows}
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(json.dumps(content, indent=2) + "\n")


if __name__ == "__main__":
    main()
