"""A run as a picture."""

import csv
from pathlib import Path

import matplotlib
from matplotlib.figure import Figure

from fpt_lightning.files import whole_file


def plot_learning_curve(metrics: Path, picture: Path, title: str = "", metric: str = "accuracy") -> None:
    """Draws loss and metric against training steps, training and validation, from a ``metrics.csv``.

    Args:
        metrics: The run's metrics.
        picture: The file to write; its ending names the format.
        title: A line above the picture.
        metric: The figure beside the loss: ``accuracy`` or ``r2``.
    """
    with metrics.open(newline="") as file:
        rows = list(csv.DictReader(file))
    with matplotlib.rc_context({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False}):
        figure = Figure(figsize=(8, 3))
        # margins by hand: to work them out matplotlib draws everything twice, a fifth of a warm short run
        figure.subplots_adjust(left=0.09, right=0.98, bottom=0.16, top=0.88, wspace=0.22)
        for axes, quantity in zip(figure.subplots(1, 2, sharex=True), ("loss", metric), strict=True):
            for split, colour, width in (("train", "#9db4c8", 1.0), ("val", "#c44e52", 1.8)):
                points = [(int(row["step"]), float(row[key])) for row in rows if row.get(key := f"{split}_{quantity}")]
                label = "validation" if split == "val" else "training batch"
                axes.plot(
                    *zip(*points, strict=True) if points else ([], []),
                    color=colour,
                    linewidth=width,
                    label=label,
                )
            axes.set_xlabel("training steps")
            axes.set_ylabel(quantity)
            axes.grid(alpha=0.25)
        axes.legend(frameon=False)
        figure.suptitle(title, fontsize=10)
        with whole_file(picture) as part:
            figure.savefig(part, format=picture.suffix[1:], dpi=150)
