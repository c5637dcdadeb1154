"""What a training step of a frozen body costs against runs in a pack, batch, length, depth and width, on this machine.

From a random GPT-2 of the size of `pocket` (6 layers, width 256) on images of 64 tokens, 16 at a time, one size at a
time is made smaller and larger. Beside the milliseconds of a step stands its share of the fp32 matrix rate, the median
of one reading a point, as readings wander: where a curve of milliseconds is straight and the share is flat, only the
products of the frozen matrices are left to save.

    python benchmarks/cost.py --out benchmarks/results/cost-MACHINE.json --picture docs/gallery/cost.png
"""

import argparse
import json
import statistics
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from fpt_lightning.data.spec import TaskSpec
from fpt_lightning.files import whole_file
from fpt_lightning.machine import machine
from fpt_lightning.models.arithmetic import flops_of_step
from fpt_lightning.models.backbones.choice import BackboneChoice
from fpt_lightning.models.fpt import FrozenPretrainedTransformer
from fpt_lightning.models.packed import PackedTransformer, share_frozen
from train_step import matrix_rate

USUAL = {"runs": 1, "batch": 16, "length": 64, "layers": 6, "width": 256}
TOKEN_WIDTH = 16
SIZES: Mapping[str, Sequence[int]] = {
    "runs": (1, 3, 9, 27),
    "batch": (1, 4, 16, 64),
    "length": (16, 64, 256, 1024),
    "layers": (1, 3, 6, 12),
    "width": (64, 128, 256, 512),
}
"""Of each size the values that are measured, all others as usual."""


def measure(sizes: Mapping[str, int], device: str, seconds: float) -> dict[str, Any]:
    """The median milliseconds of a step, forward and backward, and its arithmetic, of all runs together."""
    task = TaskSpec("image", sizes["length"], 10, token_width=TOKEN_WIDTH)
    architecture = {
        "n_layer": sizes["layers"], "n_embd": sizes["width"], "n_head": max(1, sizes["width"] // 32),
        "n_positions": max(1024, sizes["length"]),
    }  # fmt: skip
    models: list[FrozenPretrainedTransformer] = []
    for seed in range(sizes["runs"]):
        choice = BackboneChoice("gpt2", "random", architecture, seed=seed, backbone_seed=0)
        models.append(FrozenPretrainedTransformer(task, choice).to(device))
        share_frozen(models[0], models[-1])
    tokens = torch.randn(sizes["batch"], sizes["length"], TOKEN_WIDTH, device=device)
    packed = PackedTransformer(models).to(device) if len(models) > 1 else None

    def step() -> None:
        logits = (
            models[0](tokens) if packed is None else torch.cat(packed([tokens] * len(models), [None] * len(models)))
        )
        logits.square().mean().backward()
        if device == "cuda":
            torch.cuda.synchronize()

    times: list[float] = []
    step()
    end = time.perf_counter() + seconds
    while len(times) < 3 or time.perf_counter() < end:
        begun = time.perf_counter()
        step()
        times.append(time.perf_counter() - begun)
    return {"milliseconds": statistics.median(times) * 1e3, "flops": len(models) * flops_of_step(models[0], tokens)}


def with_shares(rows: Sequence[Mapping[str, Any]]) -> tuple[float, list[dict[str, Any]]]:
    """The median of the readings of the matrix rate, in GFLOP/s, and the points with their share of it."""
    rate = statistics.median(row["matrix_rate_gflops"] for row in rows)
    return rate, [{**row, "share": row["flops"] / row["milliseconds"] / 1e6 / rate} for row in rows]


def draw(rows: Sequence[Mapping[str, Any]], about: str, picture: Path) -> None:
    """Milliseconds above, the share of the matrix rate below, a column a size."""
    import matplotlib
    from matplotlib.figure import Figure

    kinds = list(dict.fromkeys(row["size"] for row in rows))
    with matplotlib.rc_context({"font.size": 8, "axes.spines.top": False, "axes.spines.right": False}):
        figure = Figure(figsize=(2 * len(kinds) + 1, 3.8), layout="constrained")
        figure.suptitle(about, fontsize=9)
        axes = figure.subplots(2, len(kinds), sharex="col", sharey="row", squeeze=False)
        for column, kind in enumerate(kinds):
            own = [row for row in rows if row["size"] == kind]
            x = [row["value"] for row in own]
            axes[0, column].loglog(x, [row["milliseconds"] for row in own], "o-", markersize=3, base=10)
            axes[1, column].plot(x, [100 * row["share"] for row in own], "o-", markersize=3, color="#c44e52")
            axes[1, column].set(xlabel="runs in a pack" if kind == "runs" else kind, ylim=(0, 100), xscale="log")
            axes[1, column].set_xticks(x, [str(value) for value in x], minor=False)
            axes[1, column].minorticks_off()
        axes[0, 0].set_ylabel("milliseconds a step")
        axes[1, 0].set_ylabel("share of the matrix rate, %")
        with whole_file(picture) as part:
            figure.savefig(part, format=picture.suffix[1:], dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", default=list(SIZES), choices=SIZES, help="only these")
    parser.add_argument("--most", type=int, default=2**20, help="leave out larger values")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--seconds", type=float, default=3.0, help="how long each point is measured")
    parser.add_argument("--out", type=Path, help="the JSON to write")
    parser.add_argument("--picture", type=Path, help="the picture to draw")
    arguments = parser.parse_args()
    rows: list[dict[str, Any]] = []
    print(f"{'size':<8}{'value':>6}{'ms a step':>11}{'GFLOP/s':>9}{'of a matrix':>13}")
    for kind in arguments.sizes:
        for value in (value for value in SIZES[kind] if value <= arguments.most):
            row = measure({**USUAL, kind: value}, arguments.device, arguments.seconds) | {"size": kind, "value": value}
            row["matrix_rate_gflops"] = matrix_rate(arguments.device) / 1e9
            rows.append(row)
            achieved = row["flops"] / row["milliseconds"] / 1e6
            shown = f"{row['milliseconds']:>11.1f}{achieved:>9.1f}{row['matrix_rate_gflops']:>13.1f}"
            print(f"{kind:<8}{value:>6}{shown}", flush=True)
    rate, rows = with_shares(rows)
    print(f"shares of the median matrix rate, {rate:.1f} GFLOP/s:")
    for kind in arguments.sizes:
        print(f"{kind:<8}", *(f"{row['value']}: {row['share']:.0%} " for row in rows if row["size"] == kind))
    here = machine(arguments.device)
    if arguments.out:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        result = {"machine": here, "usual": USUAL, "matrix_rate_gflops": rate, "points": rows}
        arguments.out.write_text(json.dumps(result, indent=1) + "\n")
    if arguments.picture:
        usual = ", ".join(f"{name} {value}" for name, value in USUAL.items() if name != "runs")
        draw(rows, f"{here['device']}, {here['threads']} threads; the others at {usual}", arguments.picture)


if __name__ == "__main__":
    main()
