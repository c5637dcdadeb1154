"""Makes a run in this process, and says what became of it."""

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from fpt_lightning.errors import DivergedError, FPTError, UsageError, os_reason
from fpt_lightning.experiments.cells import Run
from fpt_lightning.experiments.composition import contents
from fpt_lightning.runs.folder import RunFolder
from fpt_lightning.runs.lock import HeldError, hold
from fpt_lightning.runs.outcome import State, read_finished, write_failure
from fpt_lightning.runs.result import DamagedResultError


@dataclass(frozen=True)
class Verdict:
    """What became of the run of an id: finished, diverged, failed and why, or running: somebody else is at it.

    One that pauses where it was to is finished here. The cause of one that is finished says what had to be set aside
    before. A pack has a verdict for every member, and a cause only where its process died.
    """

    id: str
    state: State
    cause: str | None = None
    members: "tuple[Verdict, ...]" = ()


def carry_out(run: Run) -> Verdict:
    """Makes a run in this process, or goes on with it, unless it is finished or somebody else is at it.

    Output goes to ``log.txt`` of the run folder from here on. What is no :class:`FPTError` ends the process, with its
    traceback in the log: whoever asked for it reads the cause there.
    """
    if run.members:
        return _carry_out_pack(run)
    try:
        run.folder.mkdir(parents=True, exist_ok=True)
        with hold(run.folder):  # which the run itself then holds too
            return _carry_out(run)
    except HeldError:
        return Verdict(run.id, State.RUNNING)
    except OSError as error:
        return fail(run, os_reason(error))


def _carry_out(run: Run) -> Verdict:
    from fpt_lightning.analysis.attention import attention
    from fpt_lightning.cli import FPTCLI
    from fpt_lightning.runs.resume import set_damaged_aside

    files, lost = RunFolder(run.folder).as_configured(), ""
    try:
        result = read_finished(run.folder, run.makes_backbone)
    except DamagedResultError as error:
        result = None
        files.result.unlink(missing_ok=True)
        if run.makes_backbone and not (run.folder / "backbone").is_dir():
            lost = str(error)
    commands: list[tuple[list[str], Callable[[list[str]], object]]] = []
    if result is not None and result.status == "diverged":
        return Verdict(run.id, State.DIVERGED)
    if result is None and _pauses(run):
        files.failure.unlink(missing_ok=True)
        return Verdict(run.id, State.FINISHED)
    tests = result is not None and run.test and result.test is None
    if tests and not files.best.is_file():
        lost = f"{files.best} is gone, which was to be tested"
    said = set_damaged_aside(files, lost) if result is None or tests else []
    if result is None or said:
        commands.append(([*run.command, *(["--overwrite"] if said else [])], FPTCLI))
    elif tests:
        commands.append(([*run.command, "--test=only", f"--ckpt_path={files.best}"], FPTCLI))
    if run.attention and not files.attention.is_file():
        commands.append(([str(run.folder)], attention))
    files.failure.unlink(missing_ok=True)
    if commands and _has_other_configs(run):
        return fail(run, "a config has changed since the sweep began: the same command makes it of what is there now")
    for words, command in commands:
        _write_output_to(run.folder / "log.txt")
        print("".join(f"{line}\n" for line in said), end="")
        _forget_peak_memory()
        try:
            with _in_a_process_of_its_own(words):
                command(words)
        except (FPTError, OSError) as error:
            cause = os_reason(error) if isinstance(error, OSError) else str(error)
            print(f"fpt: error: {cause}", file=sys.stderr)
            if isinstance(error, DivergedError):
                return Verdict(run.id, State.DIVERGED)
            return fail(run, cause.partition("\n")[0])
        finally:
            sys.stdout.flush()
    return Verdict(run.id, State.FINISHED, "; ".join(said) or None)


def _carry_out_pack(pack: Run) -> Verdict:
    """Trains together what can be, as far as nobody else is at it; then each is a run that is finished, or not."""
    from fpt_lightning.packs import run_together

    with ExitStack() as held:
        for group in _of_one_step([run for run in pack.members if _is_begun_here(run, held)]):
            first = group[0].folder
            for run in group[1:]:
                _write_output_to(run.folder / "log.txt")
                print(f"trained in one pass of {len(group)} runs, which the log in {first} tells of", flush=True)
            _write_output_to(first / "log.txt")
            _forget_peak_memory()
            try:
                run_together([run.command for run in group])
            except FPTError as error:  # each alone says it again, or is no worse for it
                print(f"not trained in one pass: {error}", file=sys.stderr)
        verdicts = [carry_out(run) for run in pack.members]
    return Verdict(pack.id, verdicts[0].state, members=tuple(verdicts))


def _is_begun_here(run: Run, held: ExitStack) -> bool:
    """Whether a run is to be trained, by this process, which then holds it."""
    from fpt_lightning.runs.resume import damaged

    try:
        run.folder.mkdir(parents=True, exist_ok=True)
        held.enter_context(hold(run.folder))
        if read_finished(run.folder, run.makes_backbone) is not None or _pauses(run) or _has_other_configs(run):
            return False
    except (HeldError, DamagedResultError, OSError):
        return False  # of which the run alone says more, as of a damaged checkpoint
    return not damaged(RunFolder(run.folder).as_configured())


def _has_other_configs(run: Run) -> bool:
    """Whether what its id was made of has changed, or is gone."""
    try:
        return run.contents not in ("", contents(run.configs))
    except UsageError:
        return True


def _pauses(run: Run) -> bool:
    """Whether a run stands where it is to pause, or farther."""
    step = RunFolder(run.folder).paused_at()
    return run.until is not None and step is not None and step >= run.until


def _of_one_step(runs: Sequence[Run]) -> list[list[Run]]:
    """Runs that stand at the same step, where there are several: those go on together."""
    from fpt_lightning.training.artifacts.checkpoint import read_checkpoint

    groups: dict[int, list[Run]] = {}
    for run in runs:
        files = RunFolder(run.folder).as_configured()
        newest = files.newest_checkpoint(files.last, files.best)
        groups.setdefault(read_checkpoint(newest)["global_step"] if newest else 0, []).append(run)
    return [group for group in groups.values() if len(group) > 1]


def fail(run: Run, cause: str) -> Verdict:
    """Keeps the cause in the run folder, where there is room for it; of a pack also where another process is at a run.

    Whoever that is takes it away when the run comes to its rung or its end. Not to write it there would take asking who
    holds the lock, and what a process that died has started may hold it for a moment more.
    """
    if run.members:
        verdicts = tuple(fail(member, cause) for member in run.members)
        return Verdict(run.id, State.FAILED, cause, verdicts)
    try:
        write_failure(run.folder, cause)
    except OSError as error:
        cause = f"{cause} (and its cause could not be kept: {error.strerror})"
    return Verdict(run.id, State.FAILED, cause)


def last_words(log: Path) -> str:
    """The line of a log that says why: an error of ours, or the last line of a traceback."""
    try:
        lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    except OSError as error:
        return f"{log} cannot be read: {error.strerror}"
    ours = [line for line in lines if line.startswith("fpt: error: ")]
    return ours[-1].removeprefix("fpt: error: ") if ours else (lines or ["no word was left"])[-1]


def _write_output_to(log: Path) -> None:
    """Points this process's output at a new log, whatever writes it, and keeps the one before as ``log.1.txt``."""
    if log.exists():
        log.replace(log.with_suffix(".1.txt"))
    sys.stdout.flush()
    sys.stderr.flush()
    opened = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    os.dup2(opened, 1)
    os.dup2(opened, 2)
    os.close(opened)


@contextmanager
def _in_a_process_of_its_own(words: Sequence[str]) -> Iterator[None]:
    """Lets Lightning start the other processes of a run on several devices as it started this, and as if it ended."""
    main, before = sys.modules["__main__"], (sys.argv, sys.modules["__main__"].__spec__, dict(os.environ))
    sys.argv, main.__spec__ = ["fpt", *words], find_spec("fpt_lightning")
    try:
        yield
    finally:
        torch = sys.modules["torch"]
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
        sys.argv, main.__spec__, environment = before
        os.environ.clear()
        os.environ.update(environment)


def _forget_peak_memory() -> None:
    """Lets the next run of a warm process measure its own peak."""
    peak = Path("/proc/self/clear_refs")
    if peak.exists():
        peak.write_text("5")  # resets the mark that getrusage reads (man 5 proc)
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def check(words: Sequence[str]) -> str | None:
    """What the command line says against a command, None where nothing."""
    from fpt_lightning.command_line.parsed import ParsedCommand

    try:
        ParsedCommand(words)
    except FPTError as error:
        return str(error)
    return None
