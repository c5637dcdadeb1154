"""The lock of a run folder: one process at a time is at a run, and others can say which."""

import errno
import fcntl
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path

from filelock import FileLock, Timeout

from fpt_lightning.errors import FPTError
from fpt_lightning.files import naming

LOCK, HOLDER = ".lock", ".holder"

PATIENCE = 2.0
"""Seconds to wait for a lock: longer than a look at it takes, shorter than anyone minds."""


class HeldError(FPTError):
    """Another process is at the run."""


def lock_of(folder: Path) -> FileLock:
    """The lock of a run: the kernel lets it go when its owner dies, so it never needs to be cleared.

    It is one object in a process: whoever holds it may take it again.
    """
    return FileLock(folder.absolute() / LOCK, timeout=0, is_singleton=True)


@contextmanager
def hold(folder: Path) -> Iterator[None]:
    """Holds the lock of a run folder, which must exist, for the block; again where this process holds it already.

    Raises:
        HeldError: If another process holds it.
        OSError: If nothing can be written there.
    """
    lock, holder = lock_of(folder), folder / HOLDER
    if lock.is_locked:
        yield
        return
    try:
        with naming(folder):
            lock.acquire(timeout=PATIENCE)
    except Timeout:
        raise HeldError(f"{folder} is in use: {holder_of(folder) or 'another process'} holds it") from None
    try:
        with naming(holder):
            now = f"{datetime.now().astimezone():%Y-%m-%d %H:%M:%S}"
            holder.write_text(f"process {os.getpid()} on {socket.gethostname()}, since {now}", encoding="utf-8")
        yield
    finally:
        holder.unlink(missing_ok=True)
        lock.release()


def holder_of(folder: Path) -> str | None:
    """Which process is at a run; None where nobody is."""
    if not is_locked(folder):
        return None
    try:
        return (folder / HOLDER).read_text(encoding="utf-8") or "another process"
    except (OSError, UnicodeDecodeError):  # it has taken the lock this very moment
        return "another process"


def is_locked(folder: Path) -> bool:
    """Whether a process somewhere is at this run."""
    if not (folder / LOCK).exists():
        return False
    try:
        with FileLock(folder.absolute() / LOCK, timeout=0):
            return False
    except Timeout:
        return True
    except OSError as error:  # another user's, or on what is mounted to be read, which may be read at most
        if not isinstance(error, PermissionError) and error.errno != errno.EROFS:
            raise
        return _is_held_by_another_user(folder / LOCK)


def _is_held_by_another_user(lock: Path) -> bool:
    with suppress(PermissionError), lock.open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False
