"""Memory in pages of 2 MiB, which a program must ask for when it begins."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fpt_lightning import __version__, machine
from fpt_lightning.experiments.launchers.process import WorkerProcess

ASKED, VERSION = "glibc.malloc.hugetlb=1", f"fpt-lightning {__version__}"

# what tells a process's environment, and becomes an fpt that says its words
PROGRAM = """
import os, pathlib
from fpt_lightning import machine, main
machine.HUGE_PAGES = pathlib.Path("enabled")
print(os.environ.get("GLIBC_TUNABLES"), flush=True)
main._run = lambda words, ending, run=main._run: print("begun") if words == ["run"] else run(words, ending)
main.main()
"""


def _said(*words: str, own: str | None = None, program: str | None = None) -> list[str]:
    """By a process whose environment has ``own``, and that is given ``program`` to read."""
    environment = {name: value for name, value in os.environ.items() if name != "GLIBC_TUNABLES"}
    if own is not None:
        environment["GLIBC_TUNABLES"] = own
    done = subprocess.run(
        [sys.executable, *words], input=program, capture_output=True, text=True, check=True, env=environment
    )
    return done.stdout.splitlines()


@pytest.mark.parametrize(
    ("linux", "own", "said"),
    [
        ("always [madvise] never", None, ["None", ASKED, "begun"]),
        ("[always] madvise never", None, ["None", "begun"]),
        ("always madvise [never]", None, ["None", "begun"]),
        (None, None, ["None", "begun"]),
        ("always [madvise] never", "", ["", "begun"]),
    ],
)
def test_fpt_begins_again_where_its_memory_could_come_in_huge_pages(
    linux: str | None, own: str | None, said: list[str]
) -> None:
    if linux is not None:
        Path("enabled").write_text(linux + "\n")
    assert _said("-c", PROGRAM, "run", own=own) == said


def test_what_computes_nothing_begins_once() -> None:
    """A second beginning takes as long as the version."""
    Path("enabled").write_text("always [madvise] never\n")
    assert _said("-c", PROGRAM, "--version") == ["None", VERSION]


def test_a_program_that_was_piped_in_does_not_begin_again() -> None:
    Path("enabled").write_text("always [madvise] never\n")
    assert _said("-", "run", program=PROGRAM) == ["None", "begun"]


@pytest.mark.skipif(sys.platform != "linux", reason="it reads /proc")
def test_a_worker_of_a_sweep_begins_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray's daemon, which starts some of them, has no environment of ours."""
    (tmp_path / "enabled").write_text("always [madvise] never\n")
    monkeypatch.setattr(machine, "HUGE_PAGES", tmp_path / "enabled")
    monkeypatch.delenv("GLIBC_TUNABLES")
    worker = WorkerProcess()
    environment = Path(f"/proc/{worker._process.pid}/environ")
    while worker._process.poll() is None and not (said := environment.read_bytes()):  # until it is what it will be
        time.sleep(0.01)
    worker.kill()
    assert f"GLIBC_TUNABLES={ASKED}".encode() in said.split(b"\0")
