"""A run as a picture."""

from pathlib import Path

from fpt_lightning.files import whole_file
from fpt_lightning.runs.metrics import read_curve


def plot_learning_curve(metrics: Path, picture: Path, title: str = "", metric: str = "accuracy") -> None:
    """Draws loss and metric (``accuracy`` or ``r2``) against training steps, from a ``metrics.csv``.

    The ending of the picture's name is its format.

    Raises:
        OSError: If it cannot be written.
        ValueError: If matplotlib cannot draw it, or does not know what MPLBACKEND names.
    """
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False}):
        figure = Figure(figsize=(8, 3))
        # margins by hand: to work them out matplotlib draws everything twice, a fifth of a warm short run
        figure.subplots_adjust(left=0.09, right=0.98, bottom=0.16, top=0.88, wspace=0.22)
        for axes, quantity in zip(figure.subplots(1, 2, sharex=True), ("loss", metric), strict=True):
            curve = read_curve(metrics, quantity)
            for points, label, colour, width in (
                (curve.training, "training batch", "#9db4c8", 1.0),
                (curve.validation, "validation", "#c44e52", 1.8),
            ):
                steps, values = zip(*points, strict=True) if points else ((), ())
                alone = "o" if len(steps) == 1 else None  # of which there is no line
                axes.plot(steps, values, color=colour, linewidth=width, label=label, marker=alone)
            axes.set_xlabel("training steps")
            axes.set_ylabel(quantity)
            axes.grid(alpha=0.25)
        axes.legend(frameon=False)
        figure.suptitle(title, fontsize=10, parse_math=False)  # an arm may be called $x^$
        with whole_file(picture) as part:
            figure.savefig(part, format=picture.suffix[1:], dpi=150)
