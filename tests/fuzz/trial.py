"""One command in a process of its own: what it said, how it ended, how long it took."""

import faulthandler
import os
import random
import resource
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

SECONDS = 20
MEMORY = 12 << 30  # bytes of addresses; torch maps several gigabytes that it never touches

INTERESTING = [b"\x00", b"\xff", b"\n", b'"', b",", b"\t", b"-1", b"nan", b"1e999", b"99999999999999999999", b"{", b"]", b": ", b"&a ", b"*a", b"\xed\xa0\x80"]  # fmt: skip


class Ending(NamedTuple):
    code: int
    said: str
    seconds: float

    def fault(self) -> str | None:
        """What is wrong with it: only what a user can read is right."""
        errors = self.said.count("fpt: error: ")
        if self.seconds > SECONDS or self.code == -signal.SIGALRM:
            return "hangs"
        if self.code not in (0, 1, 2):
            return f"ends with {self.code}"
        if "Traceback" in self.said:
            return "shows a traceback"
        if errors != (self.code != 0):
            return f"ends with {self.code} and {errors} errors"
        if errors and self.said[self.said.index("fpt: error: ") :].strip().count("\n") > 2:
            return "says too much"
        return None


def tried(command: Callable[[], int]) -> Ending:
    """Forks: imports are done once, and whatever kills the process leaves the tests alive."""
    sys.stdout.flush()
    sys.stderr.flush()
    reading, writing = os.pipe()
    start = time.monotonic()
    child = os.fork()
    if child == 0:
        _carry_out(command, writing)
    os.close(writing)
    with os.fdopen(reading, errors="replace") as pipe:
        said = pipe.read()
    _, status = os.waitpid(child, 0)
    return Ending(os.waitstatus_to_exitcode(status), said, time.monotonic() - start)


def _carry_out(command: Callable[[], int], writing: int) -> None:
    code = 99
    try:
        os.dup2(writing, 1)
        os.dup2(writing, 2)
        sys.stdout, sys.stderr = (os.fdopen(number, "w", closefd=False) for number in (1, 2))
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
        faulthandler.enable(sys.stderr)
        faulthandler.dump_traceback_later(SECONDS, file=sys.stderr)
        signal.alarm(SECONDS + 2)
        code = command()
    except BaseException:  # noqa: BLE001 - the child ends here, whatever it is
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def mutated(content: bytes, generator: random.Random) -> bytes:
    """Content with a few bytes flipped, cut, doubled, or replaced by what programs stumble over."""
    for _ in range(generator.choice([1, 1, 2, 8])):
        start, stop = sorted(generator.randrange(len(content) + 1) for _ in range(2))
        near = min(stop, start + generator.choice([1, 4, 40]))
        change = generator.choice(["flip", "cut", "end", "double", "insert", "insert", "zero"])
        if change == "flip" and start < len(content):
            content = content[:start] + bytes([content[start] ^ (1 << generator.randrange(8))]) + content[start + 1 :]
        elif change == "cut":
            content = content[:start] + content[near:]
        elif change == "end":
            content = content[: max(start, 1)]
        elif change == "double":
            content = content[:near] + content[start:]
        elif change == "zero":
            content = content[:start] + bytes(near - start) + content[near:]
        else:
            content = content[:start] + generator.choice(INTERESTING) + content[start:]
    return content


def expect_no_fault(endings: Iterable[tuple[str, Ending]], folder: Path) -> int:
    """Fails with all faults at once, and leaves what the commands said; returns how many there were.

    Commands that all do the same would try nothing: some must go well, and some be refused.
    """
    faults, codes = [], []
    for name, ending in endings:
        codes.append(ending.code)
        if (fault := ending.fault()) is not None:
            faults.append(f"{name} {fault}: {ending.said.strip().splitlines()[-1:]}")
            (folder / "faults.txt").open("a").write(f"=== {name} {fault}\n{ending.said}\n")
    assert not faults, "\n".join([f"{len(faults)} of {len(codes)}, see {folder / 'faults.txt'}", *faults[:20]])
    assert {0} < set(codes)
    return len(codes)
