"""What ends a command from outside: 130 for Ctrl-C, 143 for SIGTERM, and never a traceback."""

import atexit
import os
import signal
import sys
import time
from types import FrameType
from typing import ClassVar

SAME_WISH = 2.0
"""Seconds within which a second signal asks for no more than the first."""

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Ending:
    """The handler of this process's SIGINT and SIGTERM.

    As long as there is nothing to put away it ends the process at once: an exception in the middle of an import may be
    swallowed, or shown. From :meth:`put_away` on the first signal raises; a second one ends the process where putting
    away takes too long.
    """

    of_process: ClassVar["Ending | None"] = None

    def __init__(self) -> None:
        Ending.of_process = self
        self._since: float | None = None
        self._number: int | None = None
        self._yields = False
        self._raises = False
        for number in SIGNALS:
            if signal.getsignal(number) is not signal.SIG_IGN:  # which nohup and shells decide
                signal.signal(number, self)
        atexit.register(_ignore)  # the last of all, as it is the first: python then takes itself apart, for seconds

    def put_away(self) -> None:
        """Lets signals raise from here on: KeyboardInterrupt, or SystemExit(143)."""
        self._raises = True

    def take_over(self, yields: bool) -> None:
        """Answers SIGTERM alone, whoever has put a handler before; or yields to such a handler, which calls this one.

        Lightning's asks the other processes of a run at once, in the middle of whatever they are exchanging.
        """
        self._yields = yields
        if not yields and signal.getsignal(signal.SIGTERM) is not signal.SIG_IGN:
            signal.signal(signal.SIGTERM, self)

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if self._yields and number == signal.SIGTERM:
            return
        if not self._raises:
            os.write(sys.__stderr__.fileno() if sys.__stderr__ else 2, f"{stopped_by(number)}\n".encode())
            os._exit(128 + number)
        if self._since is not None:
            if time.monotonic() - self._since > SAME_WISH:
                os._exit(128 + number)
            return
        self._since, self._number = time.monotonic(), number
        self.insist()

    def insist(self) -> None:
        """Raises where a signal has come: what it raised then may have been swallowed by whatever was interrupted."""
        if self._number == signal.SIGINT:
            raise KeyboardInterrupt
        if self._number is not None:
            raise SystemExit(128 + self._number)


def _ignore() -> None:
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def signal_in(error: BaseException) -> int | None:
    """The number of the signal that an exception stands for; None where it stands for none.

    Lightning makes ``SystemExit(1)`` of Ctrl-C, and of SIGTERM, where SLURM may send it, an exit of its own.
    """
    if isinstance(error, KeyboardInterrupt) or isinstance(error.__context__, KeyboardInterrupt):
        return signal.SIGINT
    of_lightning = type(error).__name__ == "SIGTERMException"
    if of_lightning or (isinstance(error, SystemExit) and error.code == 128 + signal.SIGTERM):
        return signal.SIGTERM
    return None


def stopped_by(number: int) -> str:
    """Says so, in the manner of an error."""
    return "fpt: stopped by " + ("Ctrl-C" if number == signal.SIGINT else signal.Signals(number).name)
