"""``fpt sweep``, ``fpt status`` and ``fpt report``: the commands of a table."""

import argparse
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from fpt_lightning.errors import FPTError, UsageError, at_least, did_you_mean
from fpt_lightning.experiments.arms import DECIDED, SHARED, Rates, Seeds
from fpt_lightning.experiments.composition import as_settings
from fpt_lightning.experiments.grid import DEFAULT_FOLDER, Grid, Selection, make_grid
from fpt_lightning.experiments.launchers.base import Launcher
from fpt_lightning.experiments.packing import LARGEST, in_words, packed
from fpt_lightning.experiments.tables import read_experiments
from fpt_lightning.experiments.typed_yaml import convert, expect_different
from fpt_lightning.machine import visible_cores, visible_gpus
from fpt_lightning.options import OptionParser
from fpt_lightning.runs.archive import Archive, write_archive
from fpt_lightning.runs.outcome import Outcome, State


def sweep(words: Sequence[str]) -> None:
    """``fpt sweep TABLE``: makes every run of a table that is missing, stopped or failed.

    Raises:
        UsageError: If the command line, the table or an option of its runs is wrong.
        FPTError: If runs failed.
    """
    launching = _launching()
    options, grid = _read(
        _parser("sweep", "make every run of a table that is missing, stopped or failed", launching), words
    )
    if isinstance(grid.records, Archive):
        raise UsageError(f"{grid.folder} is the archive of a table: its sweep needs another --folder")
    outcomes = grid.outcomes()
    due = grid.due(outcomes)
    missing = [run for run in due if not run.is_done(outcomes[run.id])]
    places = _places(options)
    if options.dry_run:
        for run in due:
            print(shlex.join(["fpt", *run.command]))
        print(in_words(packed(missing, options.pack, places), options.pack), file=sys.stderr)
        return
    from fpt_lightning.experiments.screen import Screen
    from fpt_lightning.experiments.sweep import Sweep, check_commands

    grid.expect_texts(missing)
    try:
        with _launcher(options, grid.folder) as launcher:
            check_commands(grid, missing, launcher)
            with Screen(grid, launcher.slots) as screen:
                outcomes = Sweep(grid, launcher, screen, options.pack).run()
    except (KeyboardInterrupt, SystemExit) as stop:
        stop.add_note("the same command goes on where the runs are")
        raise
    _sum_up(grid, outcomes, shlex.join(["fpt", "report", *launching.parse_known_args(words)[1]]))


def status(words: Sequence[str]) -> None:
    """``fpt status TABLE``: which runs are done, paused, running, failed, missing."""
    parser = _parser("status", "which runs of a table are done, running, failed or missing")
    parser.add_argument("--all", action="store_true", help="list every run, not only those that need attention")
    options, grid = _read(parser, words)
    outcomes = grid.outcomes()
    from rich.console import Console

    from fpt_lightning.experiments.screen import describe, overview, plain

    console = Console(highlight=False)
    console.print(overview(grid, outcomes))
    _say_if_other_runs(grid, outcomes)
    for task in grid.tasks:
        runs = [run for cell in grid.cells if cell.task == task for run in cell.runs.values()]
        data = {result.data_fingerprint for run in runs if (result := outcomes[run.id].result) is not None} - {None}
        if len(data) > 1:
            console.print(plain(f"Different data on {task}: {len(data)} fingerprints, of which `fpt report` says more"))
    for run in grid.due(outcomes):
        outcome = outcomes[run.id]
        if options.all or outcome.cause or outcome.state in (State.RUNNING, State.STOPPED):
            cause = f": {outcome.cause or outcome.holder}" if outcome.cause or outcome.holder else ""
            console.print(plain(f"{outcome.state:<9} {run.folder}  {describe(run)}{cause}"), soft_wrap=True)


def report(words: Sequence[str]) -> None:
    """``fpt report TABLE``: the table, with the paper's figures beside ours.

    Raises:
        FPTError: If the file, or the archive, cannot be written.
    """
    from fpt_lightning.experiments.report import ALL_FORMATS, ARCHIVED, write_report
    from fpt_lightning.experiments.report.results import collect

    parser = _parser("report", "print a table beside the paper's figures, or write it as a page")
    parser.add_argument(
        "--format", choices=ALL_FORMATS, default="markdown", help="by default markdown; csv: a row a run"
    )
    parser.add_argument("--out", type=Path, help="the file; html goes to FOLDER/TABLE.html without it")
    parser.add_argument("--archive", type=Path, metavar="FOLDER", help="keep the table there instead, fit to be "
                        "committed: all three pages, and its runs and learning curves in one file each")  # fmt: skip
    parser.add_argument("--figures", type=Path, metavar="FOLDER", help="draw its charts there instead, a PDF each")
    options, grid = _read(parser, words)
    outcomes = grid.outcomes()
    if options.figures is not None:
        if options.out is not None or options.archive is not None:
            raise UsageError("--figures draws, and writes nothing else: leave out --out and --archive")
        from fpt_lightning.experiments.report.pictures.for_print import write_figures

        _say_if_other_runs(grid, outcomes)
        print(*write_figures(collect(grid, outcomes), options.figures), sep="\n")
        return
    if options.archive is not None:
        if options.out is not None:
            raise UsageError("--archive writes its own pages: leave out --out")
        write_archive(grid.records, {run.folder.name: outcomes[run.id] for run in grid.all_runs()}, options.archive)
        archived = replace(grid, folder=options.archive, archived=None)
        for kind, name in ARCHIVED.items():
            print(write_report(archived, archived.outcomes(), kind, options.archive / name), end="")
        return
    if options.out is not None and options.out.is_dir():
        raise UsageError(f"--out {options.out} is a folder: name the file")
    print(write_report(grid, outcomes, options.format, options.out), end="")
    _say_if_other_runs(grid, outcomes)


def _launching() -> argparse.ArgumentParser:
    """The options that say how runs are made, and nothing of which runs they are."""
    launching = OptionParser(add_help=False)
    launching.add_argument("--dry-run", action="store_true", help="print the command of every run and do nothing")
    launching.add_argument("--jobs", type=int, help="runs at a time; by default one a GPU, or one a core without any")
    launching.add_argument("--threads", type=int, help="threads of a run; by default its share of the cores")
    launching.add_argument("--pack", type=_pack_size, default="auto", metavar="auto|N|off", help="runs over one frozen "
                           "body that train in one pass: at most N, or as many as is quickest")  # fmt: skip
    launching.add_argument("--launcher", choices=("local", "ray", "slurm"), default="local", help="who makes the runs")
    launching.add_argument("--address", help="with --launcher ray: the cluster to join; by default Ray starts here")
    launching.add_argument("--gpus", type=float, help="with --launcher ray: GPUs of a run, such as 0.25")
    launching.add_argument("--slurm", action="append", default=[], metavar="KEY=VALUE", help="with --launcher slurm: "
                           "an option of the jobs, such as partition=gpu or time=60 (minutes)")  # fmt: skip
    return launching


def _pack_size(word: str) -> int:
    named = {"auto": LARGEST, "off": 1}
    if word in named:
        return named[word]
    if not word.isdigit() or int(word) < 1:
        raise argparse.ArgumentTypeError(f"expected auto, off or a number of runs, got {word}")
    return int(word)


def _parser(command: str, about: str, *parents: argparse.ArgumentParser) -> argparse.ArgumentParser:
    parser = OptionParser(
        parents=parents,
        prog=f"fpt {command}",
        usage=f"fpt {command} TABLE [options] [--OPTION VALUE ...]",
        description=f"{about}. Any other --OPTION VALUE is one of `fpt run`, for every run: --trainer.max_steps 100.",
    )
    add = parser.add_argument
    add("table", nargs="?", metavar="TABLE", help="its name in experiments.yaml")
    add("--profile", default="laptop", help="the budget: smoke, laptop (default), atlas, night or paper")
    add("--protocol", help="paper: one learning rate; fair: a grid for every arm; halving: the grid, whose worse rates "
        "stop early; by default the table's")  # fmt: skip
    add("--folder", type=Path, default=DEFAULT_FOLDER, help=f"of the runs; by default {DEFAULT_FOLDER}")
    add("--archived", type=Path, metavar="FOLDER", help="an archive whose runs count as made where they have no folder")
    add("--texts", metavar="FOLDER", help="what bodies are made of that read texts, as in the table carries")
    add("--experiments", metavar="FILE", help="another experiments.yaml")
    add("--arms", action="append", default=[], metavar="ARM", help="only these rows: random,linear")
    add("--tasks", action="append", default=[], metavar="TASK", help="only these columns: mnist,listops")
    add("--rates", type=_numbers(Rates), default=(), help="another grid: 1e-3,3e-3,1e-2")
    add("--seeds", type=_numbers(Seeds), default=(), help="other seeds: 0,1,2,3,4")
    return parser


def _numbers(kind: Any) -> Callable[[str], Any]:
    """A reader of different numbers with commas between them."""

    def numbers(word: str) -> Any:
        parts = [part.strip() for part in word.split(",")]
        if len(set(parts)) < len(parts):
            raise argparse.ArgumentTypeError(f"{word}: expected each once")
        try:
            values = convert(parts, kind, word, {})
            expect_different(values, word)
            return values
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from error

    return numbers


def _with_commas(words: Sequence[str], stray: str) -> str:
    """How to give several values to an option that takes them, if a stray word is one of them."""
    option, values = "", list[str]()
    for word in (*words, "--"):
        if not word.startswith("--"):
            values.append(word)
            continue
        if option in ("--arms", "--tasks", "--rates", "--seeds") and stray in values[1:]:
            return f"several values stand with commas between them: {option} {','.join(values)}"
        option, values = word, []
    return ""


def _read(parser: argparse.ArgumentParser, words: Sequence[str]) -> tuple[argparse.Namespace, Grid]:
    """The command's own options, and the runs that it is about."""
    options, of_runs = parser.parse_known_args(words)
    try:
        settings = as_settings(of_runs)
    except ValueError as error:
        way = _with_commas(words, str(error)) or f"`{parser.prog} --help` lists them"
        raise UsageError(f"'{error}' is neither an option nor its value; {way}") from error
    own = [name for action in parser._actions for name in action.option_strings]
    for name in settings:
        if name in (*DECIDED, "run_folder", "ckpt_path", "arm"):
            raise UsageError(f"--{name} is what a table decides: change its protocol or profile in experiments.yaml")
        if name in SHARED:
            raise UsageError(f"--{name} {SHARED[name]}")
        if "." not in name and name not in ("baselines", "cache_features", "data_seed"):
            raise UsageError(f"there is no option '--{name}'{did_you_mean(f'--{name}', own)}")
    at_least(1, "--", **{name: getattr(options, name, None) for name in ("jobs", "threads")})
    experiments = read_experiments(options.experiments)
    if options.table is None:
        names = "\n".join(f"  {name:<12}{table.title} ({table.source})" for name, table in experiments.tables.items())
        raise UsageError(f"say which table; {experiments.path} has\n{names}")
    asked = ("table", "profile", "protocol", "arms", "tasks", "rates", "seeds", "texts")
    selection = Selection(**{name: getattr(options, name) for name in asked}, overrides=settings)
    return options, make_grid(experiments, selection, options.folder, options.archived)


def _places(options: argparse.Namespace) -> int:
    """Where packs are made at a time, as far as that is known before a launcher is there; of a cluster it is not.

    Raises:
        UsageError: If an option belongs to another launcher, is none of SLURM's, or no share of GPUs.
    """
    for name, owner in (("address", "ray"), ("gpus", "ray"), ("slurm", "slurm")):
        if getattr(options, name) not in (None, []) and options.launcher != owner:
            raise UsageError(f"--{name} is an option of --launcher {owner}, not of --launcher {options.launcher}")
    if options.slurm:
        from fpt_lightning.experiments.launchers.slurm import read_options

        read_options(options.slurm)
    from fpt_lightning.experiments.launchers.ray import check_share, shares

    check_share(options.gpus)
    here = options.launcher == "local" or (options.launcher == "ray" and options.address is None)
    if options.jobs or not here:
        return options.jobs or 1
    gpus = len(visible_gpus())
    share = min(1.0, gpus) if options.gpus is None else options.gpus
    return (shares(gpus, share) if share else 0) or visible_cores()


def _launcher(options: argparse.Namespace, folder: Path) -> Launcher:
    """Who makes the runs."""
    if options.launcher == "ray":
        from fpt_lightning.experiments.launchers.ray import RayLauncher

        return RayLauncher(options.jobs, options.threads, options.address, options.gpus)
    if options.launcher == "slurm":
        from fpt_lightning.experiments.launchers.slurm import SlurmLauncher

        return SlurmLauncher(options.jobs, options.threads, options.slurm, folder)
    from fpt_lightning.experiments.launchers.local import LocalLauncher

    return LocalLauncher(options.jobs, options.threads)


def _say_if_other_runs(grid: Grid, outcomes: Mapping[str, Outcome]) -> None:
    """An option more or less makes other runs: says so where the folder has runs, and none of those asked for."""
    if any(outcome.state is not State.MISSING for outcome in outcomes.values()):
        return
    if count := len(grid.records):
        print(
            f"{grid.folder} has {count} runs, but none of {grid.table.name} with these options: "
            "give all those of its sweep (--profile, --trainer.precision, ...).",
            file=sys.stderr,
        )
    elif not grid.folder.is_dir():
        print(f"there is no folder {grid.folder}: its sweep makes it", file=sys.stderr)


def _sum_up(grid: Grid, outcomes: Mapping[str, Outcome], report_command: str) -> None:
    due = grid.due(outcomes)
    left = [run for run in due if not run.is_done(outcomes[run.id])]
    diverged = sum(outcomes[run.id].state is State.DIVERGED for run in due)
    among = f", {diverged} of which diverged" if diverged else ""
    on_the_way = (State.PAUSED, State.STOPPED)  # a kill behind the rung leaves it stopped
    paused = sum(run.until is not None and outcomes[run.id].state in on_the_way for run in due)
    among += f", {paused} pause at a rung" if paused else ""
    print(f"{len(due) - len(left)} of {len(due)} runs are finished{among}: `{report_command}` shows the table")
    if left:
        no_backbone = "its backbone could not be made"
        causes = [
            f"  {run.folder}: {outcomes[run.id].cause or (no_backbone if run.needs else outcomes[run.id].state)}"
            for run in left
        ]
        raise FPTError(f"{len(left)} failed; the same command tries them again:\n" + "\n".join(causes))
