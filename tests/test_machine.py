"""Memory in pages of 2 MiB, which a program must ask for when it begins."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from fpt_lightning import __version__, machine
from fpt_lightning.experiments.launchers.process import WorkerProcess

ASKED, VERSION = "glibc.malloc.hugetlb=1", f"fpt-lightning {__version__}"

# what tells a process's environment, and becomes fpt
PROGRAM = """
import os, pathlib
from fpt_lightning import machine, main
machine.HUGE_PAGES = pathlib.Path("enabled")
print(os.environ.get("GLIBC_TUNABLES"), flush=True)
main.main()
"""


@pytest.mark.parametrize(
    ("linux", "own", "said"),
    [
        ("always [madvise] never", None, ["None", ASKED, VERSION]),
        ("[always] madvise never", None, ["None", VERSION]),
        ("always madvise [never]", None, ["None", VERSION]),
        (None, None, ["None", VERSION]),
        ("always [madvise] never", "", ["", VERSION]),
    ],
)
def test_fpt_begins_again_where_its_memory_could_come_in_huge_pages(
    linux: str | None, own: str | None, said: list[str], tmp_path: Path
) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "GLIBC_TUNABLES"}
    if own is not None:
        environment["GLIBC_TUNABLES"] = own
    if linux is not None:
        (tmp_path / "enabled").write_text(linux + "\n")
    command = [sys.executable, "-c", PROGRAM, "--version"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path, env=environment)
    assert done.stdout.splitlines() == said


def test_a_program_that_was_piped_in_does_not_begin_again(tmp_path: Path) -> None:
    (tmp_path / "enabled").write_text("always [madvise] never\n")
    environment = {name: value for name, value in os.environ.items() if name != "GLIBC_TUNABLES"}
    command = [sys.executable, "-", "--version"]
    done = subprocess.run(
        command, input=PROGRAM, capture_output=True, text=True, check=True, cwd=tmp_path, env=environment
    )
    assert done.stdout.splitlines() == ["None", VERSION]


@pytest.mark.skipif(sys.platform != "linux", reason="it reads /proc")
def test_a_worker_of_a_sweep_begins_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray's daemon, which starts some of them, has no environment of ours."""
    (tmp_path / "enabled").write_text("always [madvise] never\n")
    monkeypatch.setattr(machine, "HUGE_PAGES", tmp_path / "enabled")
    monkeypatch.delenv("GLIBC_TUNABLES")
    worker = WorkerProcess()
    environment = Path(f"/proc/{worker._process.pid}/environ").read_bytes().split(b"\0")
    worker.kill()
    assert f"GLIBC_TUNABLES={ASKED}".encode() in environment
