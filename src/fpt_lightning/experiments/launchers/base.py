"""What a sweep asks of a launcher."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

from fpt_lightning.experiments.cells import Run
from fpt_lightning.experiments.launchers.process import WorkerProcess
from fpt_lightning.experiments.launchers.verdict import Verdict


class Launcher(ABC):
    """Takes runs and says in time what became of each; used with ``with``, so that nothing runs on behind it.

    Attributes:
        slots: Runs that it makes at a time, for the estimate of the time left; None where nobody knows.
    """

    slots: int | None = None

    @abstractmethod
    def submit(self, runs: Sequence[Run]) -> None:
        """Takes runs; those that it cannot start yet wait."""

    @abstractmethod
    def wait(self, seconds: float) -> list[Verdict]:
        """What became of runs since the last call; waits so many seconds at most for the first."""

    @abstractmethod
    def running(self) -> list[str]:
        """The ids of the runs that are being made."""

    def check(self, commands: Sequence[Sequence[str]]) -> list[str | None]:
        """What the command line says against each of some commands, None where nothing; asked of a process here."""
        worker = WorkerProcess()
        try:
            return worker.check(commands)
        finally:
            worker.kill()

    @abstractmethod
    def close(self) -> None:
        """Stops what still runs: it goes on from its checkpoint another time."""

    def __enter__(self) -> "Launcher":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()
