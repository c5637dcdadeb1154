"""What runs left, wherever it lies: a folder each, or an archive of all runs of a table, fit to be committed.

``runs.jsonl`` holds a run a line: its number, folder, state, cause of failure, the whole of ``result.json`` and
``config.yaml``, what probes read out of its layers, and the hash of its rows in ``curves.csv``. That holds the rows of
every ``metrics.csv`` behind the number of its run, each figure as it was written; where the hash says that they are of
another run, they are not read. ``attention/`` holds pictures of attention.
"""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import msgspec
import yaml

from fpt_lightning.errors import FPTError, UsageError
from fpt_lightning.files import whole_folder
from fpt_lightning.runs.folder import RunFolder, finite, with_nan
from fpt_lightning.runs.metrics import Curve, curve_of, read_curve, read_rows, rows_hash, rows_of_all
from fpt_lightning.runs.outcome import Outcome, State, read_outcome
from fpt_lightning.runs.result import PROBED, DamagedResultError, Probe, Result, read_json, read_probe, read_result

RUNS, CURVES, ATTENTION = "runs.jsonl", "curves.csv", "attention"


class RunFolders:
    """Runs that have a folder each.

    Args:
        folder: Where their folders lie.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __len__(self) -> int:
        """How many are finished."""
        return sum(1 for _ in self.folder.glob("*/result.json"))

    def outcome(self, name: str, makes_backbone: bool = False) -> Outcome:
        """What became of a run, by the name of its folder; see :func:`read_outcome`."""
        return read_outcome(self.folder / name, makes_backbone)

    def result(self, name: str) -> dict[str, Any] | None:
        """The whole content of its ``result.json``; None where there is none, or none that can be used."""
        file = RunFolder(self.folder / name).result
        try:
            return read_json(file) if read_result(file) is not None else None
        except DamagedResultError:
            return None

    def config(self, name: str) -> dict[str, Any] | None:
        """Its resolved config; None where it cannot be read."""
        loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # twenty times as fast
        try:
            content = yaml.load(RunFolder(self.folder / name).config.read_text(encoding="utf-8"), loader)
        except (OSError, yaml.YAMLError, UnicodeDecodeError):
            return None
        return content if isinstance(content, dict) else None

    def curve(self, name: str, metric: str) -> Curve:
        """Its learning curve: of ``accuracy`` or ``r2``."""
        return read_curve(RunFolder(self.folder / name).metrics, metric)

    def probe(self, name: str) -> Probe:
        """What `fpt analyze` reads out of every layer of it; nothing where nobody asked."""
        return read_probe(RunFolder(self.folder / name).analysis)

    def rows(self, name: str) -> list[dict[str, str]]:
        """The rows of its ``metrics.csv``, with the error of :func:`read_rows`."""
        return read_rows(RunFolder(self.folder / name).metrics)


class _Line(msgspec.Struct, frozen=True):
    run: int
    folder: str
    state: State
    cause: str | None
    result: Result | None
    config: dict[str, Any] | None
    paused_at: int | None = None
    probe: tuple[float, ...] = ()
    probed: int = PROBED  # examples; versions before 0.5 wrote none
    curve: str | None = None


_ABSENT = _Line(0, "", State.MISSING, None, None, None)


class Archive:
    """Runs that were archived; the methods are those of :class:`RunFolders`.

    Args:
        folder: Where ``runs.jsonl`` lies.

    Raises:
        FPTError: From every method, if a file of the archive cannot be read or is damaged.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __len__(self) -> int:
        return len(self._lines)

    def outcome(self, name: str, makes_backbone: bool = False) -> Outcome:
        line = self._line(name)
        picture = self.folder / ATTENTION / f"{name}.png"
        attention = picture if picture.is_file() else None
        return Outcome(line.state, line.result, line.cause, attention, paused_at=line.paused_at)

    def result(self, name: str) -> dict[str, Any] | None:
        return self._lines[name][0]["result"] if name in self._lines else None

    def config(self, name: str) -> dict[str, Any] | None:
        return self._line(name).config

    def curve(self, name: str, metric: str) -> Curve:
        if not (rows := self.rows(name)):
            return Curve(problem=f"{self.folder / CURVES} has no row of {name}")
        return curve_of(iter([list(rows[0]), *(list(row.values()) for row in rows)]), metric, self.folder / CURVES)

    def probe(self, name: str) -> Probe:
        line = self._line(name)
        return Probe(line.probe, line.probed)

    def rows(self, name: str) -> list[dict[str, str]]:
        (header, by_run), line = self._curves, self._line(name)
        rows = [dict(zip(header[1:], row[1:], strict=True)) for row in by_run.get(str(line.run), [])]
        if line.curve is not None and line.curve != rows_hash(rows):  # versions before 0.5 wrote none
            raise FPTError(
                f"{self.folder / CURVES} has another curve of {name} than {self.folder / RUNS}: "
                "bring both back from where they are kept (git), or archive the run folders again"
            )
        return rows

    def _line(self, name: str) -> _Line:
        return self._lines[name][1] if name in self._lines else _ABSENT

    @cached_property
    def _lines(self) -> dict[str, tuple[dict[str, Any], _Line]]:
        """Every line by the name of the run's folder, whole and as far as the report reads it."""
        lines: dict[str, tuple[dict[str, Any], _Line]] = {}
        for number, text in enumerate(self._read(RUNS).rstrip("\n").split("\n"), 1):
            try:
                content = with_nan(json.loads(text))
                line = msgspec.convert(content, _Line)
            except (ValueError, RecursionError) as error:
                way_out = "bring it back from where it is kept (git)"
                raise FPTError(f"{self.folder / RUNS}, line {number}, is no run: {error}; {way_out}") from error
            lines[line.folder] = (content, line)
        return lines

    @cached_property
    def _curves(self) -> tuple[list[str], dict[str, list[list[str]]]]:
        """The header, and the rows of every run by its number."""
        rows = csv.reader(io.StringIO(self._read(CURVES), newline=""))
        header = next(rows, [])
        by_run: dict[str, list[list[str]]] = {}
        for row in rows:
            if len(row) != len(header):
                raise FPTError(f"{self.folder / CURVES}, line {rows.line_num}, has {len(row)} of {len(header)} figures")
            by_run.setdefault(row[0], []).append(row)
        return header, by_run

    def _read(self, name: str) -> str:
        try:
            return (self.folder / name).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise FPTError(f"{self.folder / name} cannot be read: {error}") from error


class Continued:
    """Runs that have a folder each, and those of an archive that have none; the methods are those of both.

    What an archive holds is a run's end, and how far one came that pauses: who needs more makes it again.
    """

    def __init__(self, runs: RunFolders, archive: Archive) -> None:
        self.runs, self.archive = runs, archive
        self.folder = runs.folder

    def __len__(self) -> int:
        return len(self.runs) + len(self.archive)

    def outcome(self, name: str, makes_backbone: bool = False) -> Outcome:
        outcome = self._holder(name).outcome(name, makes_backbone)
        kept = None if outcome.result or makes_backbone else self.archive.outcome(name).result
        return replace(outcome, result=outcome.result or kept)  # what failed anew was worth it all the same

    def result(self, name: str) -> dict[str, Any] | None:
        return self._holder(name).result(name)

    def config(self, name: str) -> dict[str, Any] | None:
        return self._holder(name).config(name)

    def curve(self, name: str, metric: str) -> Curve:
        return self._holder(name).curve(name, metric)

    def probe(self, name: str) -> Probe:
        return self._holder(name).probe(name)

    def rows(self, name: str) -> list[dict[str, str]]:
        return self._holder(name).rows(name)

    def _holder(self, name: str) -> RunFolders | Archive:
        begun = self.runs.outcome(name).state is not State.MISSING
        return self.runs if begun or self.archive.outcome(name).state is State.MISSING else self.archive


Runs = RunFolders | Archive | Continued


def open_runs(folder: Path, archived: Path | None = None) -> Runs:
    """The runs of a folder: an archive where it holds ``runs.jsonl``, else those of ``archived`` beside its own.

    Raises:
        UsageError: If ``archived`` is no archive, or stands beside one.
    """
    if (folder / RUNS).is_file() and archived is not None:
        raise UsageError(
            f"{folder} is an archive, beside which --archived {archived} has no place: leave one of them out"
        )
    if archived is None:
        return Archive(folder) if (folder / RUNS).is_file() else RunFolders(folder)
    if not (archived / RUNS).is_file():
        raise UsageError(f"--archived {archived}: it holds no {RUNS}, which `fpt report TABLE --archive FOLDER` writes")
    return Continued(RunFolders(folder), Archive(archived))


def write_archive(runs: Runs, outcomes: Mapping[str, Outcome], folder: Path) -> None:
    """Archives runs: those of ``outcomes``, by the names of their folders; what still runs as stopped.

    Raises:
        FPTError: If there is no run, a ``metrics.csv`` or an archive in the folder is damaged, or it cannot be written.
        UsageError: If the runs themselves lie in the folder, other files, or an archive of what is nowhere else.
    """
    there = {name: outcome for name, outcome in sorted(outcomes.items()) if outcome.state is not State.MISSING}
    if not there:
        raise FPTError(f"{runs.folder} has no run of this table with these options: there is nothing to archive")
    if any((folder / name).is_dir() for name in there):
        raise UsageError(f"{folder} holds the runs themselves: their archive needs another folder")
    own, kept = RunFolders(runs.folder), _kept(folder)
    if lost := [name for name, old in kept.items() if (there.get(name) or own.outcome(name)).progress < old.progress]:
        raise UsageError(
            f"{folder} alone holds {len(lost)} runs, such as {lost[0]}, that these options leave out or that came less "
            f"far in {own.folder}: archive with the options of its sweep, once it is through, or choose another folder"
        )
    rows = {number: runs.rows(name) for number, name in enumerate(there, 1)}  # once: what still runs writes on
    lines = [_line_of(number, name, runs, there[name], rows[number]) for number, name in enumerate(there, 1)]
    curves = rows_of_all(rows)
    pictures = {name: outcome.attention.read_bytes() for name, outcome in there.items() if outcome.attention}
    try:
        with whole_folder(folder) as part:
            (part / ATTENTION).mkdir()
            for name, picture in pictures.items():
                (part / ATTENTION / f"{name}.png").write_bytes(picture)
            (part / CURVES).write_bytes(curves.encode())
            (part / RUNS).write_bytes("".join(f"{line}\n" for line in lines).encode())
        for name in kept.keys() - pictures.keys():
            (folder / ATTENTION / f"{name}.png").unlink(missing_ok=True)
    except OSError as error:
        raise FPTError(f"{folder} cannot be written: {error.strerror}; choose another with --archive") from error


def _kept(folder: Path) -> dict[str, Outcome]:
    """The runs of the archive in a folder, which need not be one yet.

    Raises:
        FPTError: If it cannot be read, by which nobody knows what it alone holds.
        UsageError: If the folder holds something else.
    """
    if not (folder / RUNS).is_file():
        others = [path.name for path in folder.glob("[!.]*") if path.name not in (CURVES, ATTENTION)]
        if others:
            raise UsageError(f"{folder} holds {others[0]} and no {RUNS}: an archive needs a folder of its own")
        return {}
    archive = Archive(folder)
    return {name: archive.outcome(name) for name in archive._lines}


def _line_of(number: int, name: str, runs: Runs, outcome: Outcome, rows: Sequence[Mapping[str, str]]) -> str:
    line = {
        "run": number,
        "folder": name,
        "state": State.STOPPED if outcome.state is State.RUNNING else outcome.state,
        "cause": outcome.cause,
        "result": None if outcome.result is None else finite(runs.result(name)),
        "config": runs.config(name),
        "curve": rows_hash(rows),
    }
    scores, probed = runs.probe(name)
    of_few = {"paused_at": outcome.paused_at, "probe": scores or None, "probed": probed if probed != PROBED else None}
    line |= {key: value for key, value in of_few.items() if value is not None}
    return json.dumps(line, ensure_ascii=False, separators=(",", ":"), default=str)
