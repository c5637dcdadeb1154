"""A worker of :mod:`fpt_lightning.experiments.launchers.worker` seen from the process that gives the orders."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from fpt_lightning.errors import FPTError
from fpt_lightning.experiments.launchers.orders import Order, Verdict, fail, last_words
from fpt_lightning.runs.outcome import State

OUT_OF_MEMORY = "killed (signal 9): most likely the machine ran out of memory; use fewer --jobs or a smaller batch"


class WorkerProcess:
    """A warm process with one order at a time.

    Args:
        threads: Its threads; those of this process by default.
        environment: What else its environment adds to this one's.
    """

    def __init__(self, threads: int | None = None, environment: Mapping[str, str] | None = None) -> None:
        self.environment = environment or {}
        own = {"OMP_NUM_THREADS": str(threads), "OMP_WAIT_POLICY": "PASSIVE"} if threads else {}
        read, write = os.pipe()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "fpt_lightning.experiments.launchers.worker", str(write)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            pass_fds=[write],
            env={**_without_slurm(os.environ), **own, **self.environment},
            start_new_session=True,  # Ctrl-C is for the sweep, which then stops its workers
        )
        os.close(write)
        self.answers = os.fdopen(read)
        self.order: Order | None = None

    def fileno(self) -> int:
        """What to wait on: readable once there is an answer, or the process is dead."""
        return self.answers.fileno()

    def give(self, order: Order) -> None:
        """Hands over an order."""
        self.order = order
        self._write(dataclasses.asdict(order))

    def verdict(self) -> tuple[Verdict, bool]:
        """What became of the order, and whether the worker is still there. Waits for it."""
        order, self.order = self.order, None
        assert order is not None
        line = self.answers.readline()
        if line:
            answer = json.loads(line)
            return Verdict(answer["id"], State(answer["state"]), answer["cause"]), True
        return fail(order, self._death(order)), False

    def check(self, commands: Sequence[Sequence[str]]) -> list[str | None]:
        """What the command line says against each of some commands.

        Raises:
            FPTError: If the worker dies of it.
        """
        self._write({"check": [list(words) for words in commands]})
        line = self.answers.readline()
        if not line:
            raise FPTError(f"a worker died: {self._last_error()}")
        answers: list[str | None] = json.loads(line)["check"]
        return answers

    def kill(self) -> None:
        """Ends the process at once; its run goes on from its checkpoint another time."""
        self._process.kill()
        self._process.wait()
        self.answers.close()
        for stream in (self._process.stdin, self._process.stderr):
            if stream is not None:
                stream.close()

    def _write(self, message: object) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write((json.dumps(message) + "\n").encode())
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # it is dead: whoever reads its answer learns that

    def _death(self, order: Order) -> str:
        """Why the process died over an order."""
        code = self._process.wait()
        if code == -signal.SIGKILL:
            return OUT_OF_MEMORY
        if code < 0:
            return f"killed by {signal.Signals(-code).name}"
        log = Path(order.folder) / "log.txt"
        return last_words(log) if log.is_file() else self._last_error()

    def _last_error(self) -> str:
        assert self._process.stderr is not None
        lines = self._process.stderr.read().decode(errors="replace").strip().splitlines()
        return lines[-1] if lines else f"the worker ended with status {self._process.wait()}"


def _without_slurm(environment: Mapping[str, str]) -> dict[str, str]:
    """An environment in which Lightning sees no SLURM: a run is one of many in a job, not the job.

    Otherwise it would count the job's tasks as its own, and requeue the job when it is told to stop.
    """
    return {name: value for name, value in environment.items() if not name.startswith("SLURM_") or name == "SLURM_CONF"}
