"""A worker of :mod:`fpt_lightning.experiments.launchers.worker` seen from the process that asks for the runs."""

import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from multiprocessing import Pipe
from pathlib import Path

from fpt_lightning.errors import FPTError
from fpt_lightning.experiments.cells import Run
from fpt_lightning.experiments.launchers.verdict import Verdict, fail, last_words
from fpt_lightning.machine import huge_pages

OUT_OF_MEMORY = "killed (signal 9): most likely the machine ran out of memory; use fewer --jobs or a smaller batch"


class WorkerProcess:
    """A warm process with one run at a time.

    Args:
        threads: Its threads; those of this process by default.
        environment: What else its environment adds to this one's.
    """

    def __init__(self, threads: int | None = None, environment: Mapping[str, str] | None = None) -> None:
        self.environment = environment or {}
        own = {"OMP_NUM_THREADS": str(threads), "OMP_WAIT_POLICY": "PASSIVE"} if threads else {}
        self._pipe, theirs = Pipe()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "fpt_lightning.experiments.launchers.worker", str(theirs.fileno())],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            pass_fds=[theirs.fileno()],
            env={**_without_slurm(os.environ), **huge_pages(), **own, **self.environment},
            start_new_session=True,  # Ctrl-C is for the sweep, which then stops its workers
        )
        theirs.close()
        self.run: Run | None = None
        self._before: int | None = None

    def fileno(self) -> int:
        """What to wait on: readable once there is a verdict, or the process is dead."""
        return self._pipe.fileno()

    def give(self, run: Run) -> None:
        """Hands over a run."""
        self.run, self._before = run, _last_change(_log_of(run))
        self._send(run)

    def verdict(self) -> tuple[Verdict, bool]:
        """What became of the run, and whether the worker is still there. Waits for it."""
        run, self.run = self.run, None
        assert run is not None
        try:
            return self._pipe.recv(), True
        except (EOFError, OSError):
            return fail(run, self._death(run)), False

    def check(self, commands: Sequence[Sequence[str]]) -> list[str | None]:
        """What the command line says against each of some commands.

        Raises:
            FPTError: If the worker dies of it.
        """
        try:
            for words in commands:
                self._send(list(words))
            return [self._pipe.recv() for _ in commands]
        except (EOFError, OSError) as error:
            raise FPTError(f"a worker died: {self._last_error()}") from error

    def kill(self) -> None:
        """Ends the process at once, with all that it started; its run goes on from its checkpoint another time."""
        if self._process.returncode is None:  # its number is its own still
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._pipe.close()
        assert self._process.stderr is not None
        self._process.stderr.close()

    def _send(self, message: object) -> None:
        with suppress(ConnectionError):  # it is dead: whoever reads its answer learns that
            self._pipe.send(message)

    def _death(self, run: Run) -> str:
        """Why the process died over a run."""
        code = self._process.wait()
        if code == -signal.SIGKILL:
            return OUT_OF_MEMORY
        number = -code if code < 0 else code - 128
        if number in set(signal.Signals):  # a status of 255 is none: the log knows more
            return f"killed by {signal.Signals(number).name}"
        is_told = _last_change(_log_of(run)) != self._before  # else the log is of an earlier attempt
        return last_words(_log_of(run)) if is_told else self._last_error()

    def _last_error(self) -> str:
        assert self._process.stderr is not None
        lines = self._process.stderr.read().decode(errors="replace").strip().splitlines()
        return lines[-1] if lines else f"the worker ended with status {self._process.wait()}"


def _log_of(run: Run) -> Path:
    return run.folder / "log.txt"


def _last_change(file: Path) -> int | None:
    """When a file was written to, in nanoseconds; None where there is none."""
    return file.stat().st_mtime_ns if file.is_file() else None


def _without_slurm(environment: Mapping[str, str]) -> dict[str, str]:
    """An environment in which Lightning sees no SLURM: a run is one of many in a job, not the job.

    Otherwise it would count the job's tasks as its own, and requeue the job when it is told to stop.
    """
    return {name: value for name, value in environment.items() if not name.startswith("SLURM_") or name == "SLURM_CONF"}
