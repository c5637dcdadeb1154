"""How often successive halving takes the learning rate that the whole grid takes, of runs that were made.

The runs of whole grids, in folders or archives, are read as they are: halving sees of each the validations up to the
rung that leaves it behind. Its choice is the product's own (`Cell.finalists`), by the grid's seeds. What it loses where
it takes another rate is validation, all that either rule sees; its steps are a share of the whole grid's.

    python benchmarks/halving.py --out benchmarks/results/halving.json --picture docs/gallery/halving.png
    python benchmarks/halving.py FOLDER_OF_RUNS
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from statistics import fmean
from typing import Any

from fpt_lightning.experiments.cells import Cell, Run
from fpt_lightning.experiments.composition import PLACES
from fpt_lightning.experiments.halving import Rung, rungs_of, shares_of
from fpt_lightning.experiments.tables import Arm
from fpt_lightning.files import whole_file
from fpt_lightning.runs.archive import RUNS, open_runs
from fpt_lightning.runs.outcome import Outcome

SHIPPED = [Path("results/laptop") / name for name in ("fair", "pocket", "minilm")]

WITHIN = ("model.lr", "seed_everything", "model.seed", "data.seed")
"""What differs within a grid, besides what a run's id does not depend on."""


@dataclass(frozen=True)
class MadeGrid:
    """Runs of one arm and task at every learning rate, as far as seeds have them all."""

    cell: Cell
    outcomes: dict[str, Outcome]
    steps: int
    interval: int

    def choice(self, rungs: tuple[Rung, ...] = ()) -> tuple[float | None, int]:
        """The rate that is taken, and the steps that this needed."""
        cell = replace(self.cell, rungs=rungs)
        reach = cell.reach(self.outcomes)
        spent = 0
        for (lr, _), run in cell.runs.items():
            outcome, until = self.outcomes[run.id], reach[lr]
            assert outcome.result is not None
            spent += outcome.result.steps if until is None else min(until, outcome.result.steps)
        return next(iter(cell.finalists(self.outcomes)), None), spent


def read_grids(folders: Sequence[Path]) -> list[MadeGrid]:
    """The grids of three rates or more; runs that several folders hold count once."""
    found: list[tuple[dict[str, Any], dict[Run, Outcome]]] = []
    for folder in folders:
        records = open_runs(folder)
        for name in _names(folder):
            outcome, config = records.outcome(name), records.config(name)
            if outcome.result is None or config is None:
                continue
            options, result = _options(config), outcome.result
            curve = records.curve(name, result.metric)
            run = Run(name, folder / name, (), name.rpartition("-")[0], result.lr, result.seed)
            runs = next((runs for other, runs in found if _agree(options, other)), None)
            if runs is None:
                found.append((options, runs := {}))
            if not any(run.id == other.id for other in runs):
                runs[run] = replace(outcome, validations=tuple(curve.validation))
    return [grid for options, runs in found if (grid := _grid(options, runs)) is not None]


def _grid(options: dict[str, Any], runs: dict[Run, Outcome]) -> MadeGrid | None:
    """A grid of those seeds that have every rate; None where there are none, or few rates."""
    places = {(run.lr, run.seed): run for run in runs if run.lr is not None}
    rates, seeds = {lr for lr, _ in places}, {seed for _, seed in places}
    whole = tuple(sorted(seed for seed in seeds if all((lr, seed) in places for lr in rates)))
    if len(rates) < 3 or not whole:
        return None
    kept = {place: run for place, run in places.items() if place[1] in whole}
    cell = Cell(Arm("arm", "body"), next(iter(kept.values())).task, kept, whole, whole)
    outcomes = {run.id: runs[run] for run in kept.values()}
    return MadeGrid(cell, outcomes, options["trainer.max_steps"], options["trainer.val_check_interval"])


def _names(folder: Path) -> list[str]:
    if (folder / RUNS).is_file():
        return [json.loads(line)["folder"] for line in (folder / RUNS).read_text().splitlines()]
    return sorted(path.parent.name for path in folder.glob("*/result.json"))


def _options(config: dict[str, Any]) -> dict[str, Any]:
    """What makes a run, by dotted name, without what differs within a grid."""
    flat: dict[str, Any] = {}
    for section, value in config.items():
        for name, item in value.items() if isinstance(value, dict) else [("", value)]:
            inner = item.items() if name == "init_args" else [(name, item)]
            flat |= {f"{section}.{key}".rstrip("."): option for key, option in inner}
    return {name: value for name, value in flat.items() if name not in WITHIN and not _is_place(name)}


def _is_place(name: str) -> bool:
    return any(name == place or name.startswith(f"{place}.") for place in PLACES)


def _agree(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether two runs have the same options; one that only a later version has says nothing."""
    return all(one[name] == other[name] for name in one.keys() & other.keys())


def halved(grid: MadeGrid, reduction: int, least: int) -> dict[str, Any]:
    """What halving takes of a grid beside what the whole grid does; ``lost`` is validation, in percent.

    ``lost_by_chance`` is what would be lost in the mean if those who go to the end were drawn.
    """
    rungs, rates = _rungs(grid, reduction, least), grid.cell.rates
    (whole, all_steps), (taken, spent) = grid.choice(), grid.choice(rungs)
    values = grid.cell.validation(grid.outcomes)
    if whole is None or taken is None:
        raise SystemExit(f"every learning rate of a grid on {grid.cell.task} diverged: nothing is chosen of it")
    left = min(rungs[-1].keeps if rungs else len(rates), len(values))
    drawn = fmean(max(kept) for kept in combinations(values.values(), left))
    return {
        "task": grid.cell.task,
        "run": next(iter(grid.outcomes)),
        "rates": len(rates),
        "rungs": ", ".join(f"{rung.keeps} from {rung.step}" for rung in rungs),
        "whole": whole,
        "halving": taken,
        "lost": 100 * (values[whole] - values[taken]),
        "lost_by_chance": 100 * (values[whole] - drawn),
        "steps": spent / all_steps,
    }


def _rungs(grid: MadeGrid, reduction: int, least: int) -> tuple[Rung, ...]:
    rates = len(grid.cell.rates)
    return rungs_of(rates, reduction, shares_of(rates, reduction), least, grid.steps, grid.interval)


def sum_up(reduction: int, least: int, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """One rule over all grids: how often it takes the same rate, what it loses, its share of the steps."""
    return {
        "reduction": reduction,
        "least": least,
        "grids": len(rows),
        "same": sum(row["whole"] == row["halving"] for row in rows),
        "as_good": sum(row["lost"] < 1e-7 for row in rows),  # equal ones, of which another is the middle
        "lost": fmean(row["lost"] for row in rows),
        "most_lost": max(row["lost"] for row in rows),
        "lost_by_chance": fmean(row["lost_by_chance"] for row in rows),
        "steps": fmean(row["steps"] for row in rows),
        "others": [row for row in rows if row["whole"] != row["halving"]],
    }


def draw(grids: Sequence[MadeGrid], reductions: Sequence[int], picture: Path) -> None:
    """The runs of the grid that loses most, bold as far as halving makes them, and what every grid loses."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False}):
        figure = Figure(figsize=(9, 3.4), layout="constrained")
        left, right = figure.subplots(1, 2)
        shown = 3 if 3 in reductions else reductions[0]
        _draw_grid(left, max(grids, key=lambda grid: float(halved(grid, shown, 1)["lost"])), shown)
        for number, reduction in enumerate(reductions):
            rows = [halved(grid, reduction, 1) for grid in grids]
            lost = sorted((row["lost"] for row in rows), reverse=True)
            label = f"reduction {reduction}: {fmean(row['steps'] for row in rows):.0%} of the steps"
            right.plot(range(1, len(lost) + 1), lost, "osD^v"[number % 5], markersize=4, alpha=0.7, label=label)
        right.set_xlabel("grids, from the one that loses most")
        right.set_ylabel("validation lost, percent")
        right.legend(frameon=False)
        with whole_file(picture) as part:
            figure.savefig(part, format=picture.suffix[1:], dpi=150)


def _draw_grid(axes: Any, grid: MadeGrid, reduction: int) -> None:
    from matplotlib import colormaps

    rungs, rates = _rungs(grid, reduction, 1), grid.cell.rates
    reach = replace(grid.cell, rungs=rungs).reach(grid.outcomes)
    for number, lr in enumerate(rates):
        points = grid.outcomes[grid.cell.runs[lr, grid.cell.grid_seeds[0]].id].validations
        made = [(step, value) for step, value in points if step <= (reach[lr] or grid.steps)]
        colour = colormaps["viridis"](number / len(rates))
        axes.plot(*zip(*points, strict=True), color=colour, linewidth=0.8, alpha=0.4)
        axes.plot(*zip(*made, strict=True), color=colour, linewidth=2, label=f"{lr:g}")
    for rung in rungs:
        axes.axvline(rung.step, color="#888888", linewidth=0.8, linestyle=":")
    axes.set_xlabel("gradient steps")
    axes.set_ylabel("accuracy on validation")
    axes.set_title(f"{grid.cell.task}, reduction {reduction}: bold is what halving runs", fontsize=9)
    axes.legend(title="learning rate", frameon=False, fontsize=7, title_fontsize=7)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", type=Path, nargs="*", default=SHIPPED, help="folders of runs, or archives")
    parser.add_argument("--reductions", type=int, nargs="+", default=[2, 3, 4], help="times fewer that a rung leaves")
    parser.add_argument("--least", type=int, nargs="+", default=[1, 2], help="fewest learning rates that a rung leaves")
    parser.add_argument("--out", type=Path, help="the JSON to write")
    parser.add_argument("--picture", type=Path, help="the picture to draw, for the first of --least")
    arguments = parser.parse_args()
    grids = read_grids(arguments.folders)
    if not grids:
        raise SystemExit("no grid of three learning rates or more lies there")
    print(f"{len(grids)} grids of {' and '.join(str(n) for n in sorted({len(one.cell.rates) for one in grids}))} rates")
    print(f"{'reduction':>9}{'least':>6}{'same':>6}{'as good':>9}{'lost':>7}{'most':>7}{'by chance':>11}{'steps':>8}")
    rules = []
    for least in arguments.least:
        for reduction in arguments.reductions:
            rules.append(one := sum_up(reduction, least, [halved(grid, reduction, least) for grid in grids]))
            print(
                f"{reduction:>9}{least:>6}{one['same']:>6}{one['as_good']:>9}{one['lost']:>7.2f}{one['most_lost']:>7.2f}"
                f"{one['lost_by_chance']:>11.2f}{one['steps']:>8.0%}"
            )
    if arguments.out:
        read = [path.as_posix() for path in arguments.folders]
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(json.dumps({"read": read, "rules": rules}, indent=1) + "\n")
    if arguments.picture:
        draw(grids, arguments.reductions, arguments.picture)


if __name__ == "__main__":
    main()
