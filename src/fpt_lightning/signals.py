"""What ends a command from outside: 130 for Ctrl-C, 143 for SIGTERM, and never a traceback."""

import os
import signal
import sys
import time
from types import FrameType

SAME_WISH = 2.0
"""Seconds within which a second signal asks for no more than the first."""


class Ending:
    """The handler of this process's SIGINT and SIGTERM.

    As long as there is nothing to put away it ends the process at once: an exception in the middle of an import may be
    swallowed, or shown. From :meth:`put_away` on the first signal raises; a second one ends the process where putting
    away takes too long.
    """

    def __init__(self) -> None:
        self._since: float | None = None
        self._raises = False
        for number in (signal.SIGINT, signal.SIGTERM):
            if signal.getsignal(number) is not signal.SIG_IGN:  # which nohup and shells decide
                signal.signal(number, self)

    def put_away(self) -> None:
        """Lets signals raise from here on: KeyboardInterrupt, or SystemExit(143)."""
        self._raises = True

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if not self._raises:
            os.write(sys.__stderr__.fileno() if sys.__stderr__ else 2, f"{stopped_by(number)}\n".encode())
            os._exit(128 + number)
        if self._since is not None:
            if time.monotonic() - self._since > SAME_WISH:
                os._exit(128 + number)
            return
        self._since = time.monotonic()
        if number == signal.SIGINT:
            raise KeyboardInterrupt
        raise SystemExit(128 + number)


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
