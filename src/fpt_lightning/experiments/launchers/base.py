"""What a sweep asks of a launcher."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

from fpt_lightning.experiments.launchers.orders import Order, Verdict
from fpt_lightning.experiments.launchers.process import WorkerProcess


class Launcher(ABC):
    """Takes orders and says in time what became of each; used with ``with``, so that nothing runs on behind it.

    Attributes:
        slots: Runs that it makes at a time, for the estimate of the time left; None where nobody knows.
    """

    slots: int | None = None

    @abstractmethod
    def submit(self, orders: Sequence[Order]) -> None:
        """Takes orders; those that it cannot start yet wait."""

    @abstractmethod
    def wait(self, seconds: float) -> list[Verdict]:
        """What became of orders since the last call; waits so many seconds at most for the first."""

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
