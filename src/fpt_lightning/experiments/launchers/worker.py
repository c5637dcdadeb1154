"""A warm process that makes runs one after the other: torch is imported once, not once a run.

Runs come in on a pipe and verdicts go out on it. It ends when whoever sends the runs is gone, in the middle of a run if
need be: the run goes on from its checkpoint another time.
"""

import importlib
import os
import queue
import sys
import threading
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from fpt_lightning.experiments.launchers.verdict import carry_out, check
from fpt_lightning.signals import Ending


def serve(pipe: Connection) -> None:
    """Makes the runs that come in; says of a command, a list of words, what is wrong with it."""
    inbox: queue.SimpleQueue[Any] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(pipe, inbox), daemon=True).start()
    importlib.import_module("fpt_lightning.cli")  # seconds, before the first run rather than in its time
    while True:
        asked = inbox.get()
        pipe.send(check(asked) if isinstance(asked, list) else carry_out(asked))


def _listen(pipe: Connection, inbox: "queue.SimpleQueue[Any]") -> None:
    try:
        while True:
            inbox.put(pipe.recv())
    except (EOFError, OSError):
        os._exit(0)


def _stay_nice() -> None:
    """Lets ``nice fpt sweep`` count against other sessions too, which Linux tells apart by what stands in this file."""
    with suppress(OSError):  # another system, or one that groups nothing
        Path("/proc/self/autogroup").write_text(str(os.nice(0)))


if __name__ == "__main__":
    Ending()
    _stay_nice()
    serve(Connection(int(sys.argv[1])))
