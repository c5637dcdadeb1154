"""A process that has imported what ``fpt`` imports, and forks once for every client: a start without its seconds.

A fork has the client's words, folder, environment and open files, and is ``__main__`` of what it runs. What it does not
have: the limits of the client's process, imports that are new, and the seconds in which python takes itself apart.
"""

import atexit
import fcntl
import gc
import importlib
import json
import os
import runpy
import selectors
import signal
import socket
import sys
import tempfile
import threading
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

# none of them starts a thread, which no fork would have
IMPORTED = (
    "fpt_lightning.cli",
    "fpt_lightning.analysis.attention",
    "fpt_lightning.experiments.commands",
    "fpt_lightning.experiments.packing",
    "fpt_lightning.experiments.launchers.local",
    "torch.utils.tensorboard",
)
ABOVE = 512  # numbers of files that nobody has


@dataclass
class Asked:
    """What a client sent, and its files under numbers of this process."""

    words: list[str]
    files: list[int]
    folder: str
    environment: dict[str, str]
    received: list[int]


@dataclass
class Client:
    """A client that waits for its fork."""

    socket: socket.socket
    process: int
    handle: int


def serve(listener: socket.socket) -> Asked:
    """Forks for every client and tells it how its fork ended. Returns in the forks; ends with whoever has stdin."""
    clients: list[Client] = []
    with selectors.DefaultSelector() as selector:
        selector.register(listener, selectors.EVENT_READ)
        selector.register(0, selectors.EVENT_READ)
        while True:
            for key, _ in selector.select():
                if key.fileobj == 0:
                    for client in clients:
                        os.kill(client.process, signal.SIGKILL)
                    os._exit(0)
                if key.fileobj is listener:
                    connection, _ = listener.accept()
                    try:
                        asked = _receive(connection)
                    except (OSError, ValueError):  # a client that was killed before it could ask
                        connection.close()
                        continue
                    if (process := os.fork()) == 0:
                        connection.close()
                        for client in clients:
                            client.socket.close()
                            os.close(client.handle)
                        return asked
                    for file in asked.received:
                        os.close(file)
                    with suppress(OSError):  # killed by now: its socket says so below
                        connection.sendall(process.to_bytes(4, "big"))
                    client = Client(connection, process, os.pidfd_open(process))
                    clients.append(client)
                    selector.register(client.handle, selectors.EVENT_READ, client)
                    selector.register(client.socket, selectors.EVENT_READ, client)
                elif (client := key.data) not in clients:
                    continue  # both came at once
                elif key.fileobj is client.socket:  # the client is gone
                    selector.unregister(client.socket)
                    os.kill(client.process, signal.SIGKILL)
                else:
                    status = os.waitstatus_to_exitcode(os.waitpid(client.process, 0)[1])
                    clients.remove(client)
                    with suppress(KeyError):
                        selector.unregister(client.socket)
                    selector.unregister(client.handle)
                    with suppress(OSError):
                        client.socket.sendall(status.to_bytes(4, "big", signed=True))
                    client.socket.close()
                    os.close(client.handle)


def _receive(connection: socket.socket) -> Asked:
    length, received, _, _ = socket.recv_fds(connection, 4, 250)
    content = json.loads(connection.recv(int.from_bytes(length, "big"), socket.MSG_WAITALL))
    return Asked(received=received, **content)


def become(asked: Asked, python: str) -> None:
    """Makes this fork what the client's own process would be."""
    above = []
    for file in asked.received:
        above.append(fcntl.fcntl(file, fcntl.F_DUPFD, ABOVE))
        os.close(file)
    for file, number in zip(above, asked.files, strict=True):
        os.dup2(file, number)
        os.close(file)
    sys.stdin = sys.__stdin__ = open(0, closefd=False)  # noqa: SIM115
    sys.stdout = sys.__stdout__ = open(1, "w", closefd=False)  # noqa: SIM115
    sys.stderr = sys.__stderr__ = open(2, "w", buffering=1, errors="backslashreplace", closefd=False)  # noqa: SIM115
    os.environ.clear()
    os.environ.update(asked.environment)
    os.chdir(asked.folder)
    sys.executable = python  # so that its own processes are warm too
    sys.path[1:1] = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    importlib.invalidate_caches()
    tempfile.tempdir = None
    import numpy as np
    import torch

    np.random.seed()
    if threads := os.environ.get("OMP_NUM_THREADS"):
        torch.set_num_threads(int(threads))


def run(words: list[str]) -> None:
    """``python WORDS``, of the forms ``-m MODULE`` and ``FILE``."""
    if words[0] == "-m":
        sys.argv, sys.path[0] = words[1:], str(Path.cwd())
        runpy.run_module(words[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv, sys.path[0] = words, str(Path(words[0]).absolute().parent)
        runpy.run_path(words[0], run_name="__main__")


class End:
    """Ends a process as python does, down to what was registered for it, without freeing what it shares."""

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        status = 0
        if isinstance(error, SystemExit):
            status = error.code if isinstance(error.code, int) else int(error.code is not None)
            if isinstance(error.code, str):
                print(error.code, file=sys.stderr)
        elif kind is not None and error is not None:
            sys.excepthook(kind, error, trace)
            status = 1
        threading._shutdown()  # type: ignore[attr-defined]
        atexit._run_exitfuncs()
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError):
                stream.flush()
        os._exit(status & 0xFF)


if __name__ == "__main__":
    for module in IMPORTED:
        importlib.import_module(module)
    assert len(list(Path("/proc/self/task").iterdir())) == 1
    gc.collect()
    gc.freeze()
    with socket.socket(socket.AF_UNIX) as door:
        door.bind(sys.argv[1])
        door.listen(64)
        if os.fork():  # a child of nobody: tests count those of theirs
            os._exit(0)
        print("ready", flush=True)
        asked = serve(door)
    with End():
        become(asked, sys.argv[2])
        run(asked.words)
