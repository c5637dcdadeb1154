"""What a run has measured is not lost to what comes after it, nor to a disk, and nobody meets a traceback."""

import json
import os
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from conftest import Fpt
from fpt_lightning.training.artifacts.checkpoint import read_checkpoint

PATIENCE = 300  # seconds; machines are shared
BITS = ("--config=bit_memory.yaml", "--data.n=20", "--data.patch_size=5", "--data.batch_size=4")


def _process(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "fpt_lightning", "run", *BITS, *words]
    return subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=PATIENCE, env={**os.environ, **environment}
    )


def test_an_arm_is_no_formula(fpt: Fpt, tiny: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert fpt("run", *BITS, *tiny, "--run_folder=run", "--arm=$x^$") == 0
    assert json.loads(Path("run/result.json").read_text())["arm"] == "$x^$"
    assert Path("run/learning_curve.png").is_file()
    assert "warning" not in capsys.readouterr().err


def test_a_picture_that_cannot_be_drawn_is_a_line(
    fpt: Fpt, tiny: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    Path("run/learning_curve.png/in_the_way").mkdir(parents=True)
    assert fpt("run", *BITS, *tiny, "--run_folder=run", "--trainer.max_steps=2") == 1, "it cannot be taken away"
    shutil.rmtree("run")
    import matplotlib.figure

    def refuse(*_: object, **__: object) -> None:
        raise ValueError("no font here\nand no other")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(matplotlib.figure.Figure, "savefig", refuse)
        assert fpt("run", *BITS, *tiny, "--run_folder=run") == 0
    said = capsys.readouterr()
    assert "fpt: warning: run/learning_curve.png could not be drawn: no font here\n" in said.err
    assert "run: result.json, metrics.csv, checkpoints/best.ckpt, trained.safetensors\n" in said.out
    assert "test_accuracy" in json.loads(Path("run/result.json").read_text())


@pytest.mark.slow
@pytest.mark.parametrize(
    "environment",
    [
        {"MPLBACKEND": "nope"},
        {"MPLBACKEND": "module://matplotlib_inline.backend_inline_of_a_notebook"},
        {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONIOENCODING": "ascii"},
    ],
)
def test_no_environment_loses_a_result(tiny: list[str], environment: dict[str, str]) -> None:
    done = _process(*tiny, "--run_folder=größe", "--arm=größe →", **environment)
    assert done.returncode == 0, done.stderr
    assert "warning: " not in done.stderr
    assert json.loads(Path("größe/result.json").read_text())["arm"] == "größe →"
    assert Path("größe/learning_curve.png").is_file()


def test_a_test_of_nothing_is_refused_before_the_training(
    fpt: Fpt, tiny: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    words = [*BITS, *tiny, "--run_folder=run", "--trainer.limit_test_batches=0"]
    assert fpt("run", *words) == 2
    assert "trainer.limit_test_batches=0 leaves nothing to test: add --test never" in capsys.readouterr().err
    assert not Path("run").exists()
    assert fpt("run", *words, "--test=never") == 0
    assert "test_accuracy" not in json.loads(Path("run/result.json").read_text())


def test_a_choice_among_nothing_is_refused_before_the_training(
    fpt: Fpt, tiny: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    words = [*BITS, *tiny, "--run_folder=run", "--trainer.limit_val_batches=0"]
    assert fpt("run", *words) == 2
    assert "trainer.limit_val_batches=0 leaves no checkpoint to choose: use fpt fit" in capsys.readouterr().err
    assert not Path("run").exists()
    assert fpt("fit", *words) == 0


def test_a_config_that_finds_no_room_leaves_the_one_before(fpt: Fpt, tiny: list[str]) -> None:
    assert fpt("fit", *BITS, *tiny, "--run_folder=run", "--trainer.max_steps=2") == 0
    before = Path("run/config.yaml").read_bytes()
    assert before.startswith(b"# lightning.pytorch==")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, hard))
    try:
        assert fpt("run", "run", "--trainer.max_steps=4") == 1
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert Path("run/config.yaml").read_bytes() == before
    assert fpt("run", "run", "--trainer.max_steps=4") == 0


@pytest.mark.parametrize(
    ("folder", "cause"), [("file", "file: File exists"), ("file/run", "file/run: Not a directory"), (None, "runs/bit_")]
)
def test_a_file_in_the_folders_place_is_named(
    fpt: Fpt, tiny: list[str], capsys: pytest.CaptureFixture[str], folder: str | None, cause: str
) -> None:
    Path("file" if folder else "runs").write_text("mine")
    where = [] if folder is None else [f"--run_folder={folder}"]
    assert fpt("run", *BITS, *tiny, *where) == 1
    assert f"fpt: error: {cause}" in capsys.readouterr().err
    assert Path("file" if folder else "runs").read_text() == "mine"


def _mounted(folder: Path, options: str) -> Path:
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("only root may mount a small disk")
    return folder


def test_a_folder_that_cannot_be_written_is_named(
    fpt: Fpt, tiny: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    disk = _mounted(tmp_path / "disk", "ro")
    try:
        assert fpt("run", *BITS, *tiny, f"--run_folder={disk}/run") == 1
        assert f"fpt: error: {disk}/run: Read-only file system" in capsys.readouterr().err
    finally:
        subprocess.run(["umount", str(disk)], check=True)


@pytest.mark.parametrize("size", ["8k", "64k", "120k", "160k"])
def test_a_full_disk_is_named_and_the_last_checkpoint_kept(
    fpt: Fpt, tiny: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], size: str
) -> None:
    disk = _mounted(tmp_path / "disk", f"size={size}")
    try:
        words = [*BITS, *tiny, "--trainer.max_steps=200", "--trainer.limit_val_batches=1", f"--run_folder={disk}/run"]
        assert fpt("run", *words) == 1
        error = capsys.readouterr().err
        assert f"fpt: error: {disk}/run" in error
        assert ": No space left on device\n" in error
        assert "Traceback" not in error
        for checkpoint in disk.glob("run/checkpoints/*"):
            assert read_checkpoint(checkpoint)["global_step"] > 0
    finally:
        subprocess.run(["umount", str(disk)], check=True)


@pytest.mark.slow
def test_a_folder_that_is_deleted_is_named(tiny: list[str]) -> None:
    words = [*BITS, *tiny, "--trainer.max_steps=1000000", "--run_folder=run"]
    command = [sys.executable, "-m", "fpt_lightning", "run", *words]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        while not Path("run/checkpoints/last.ckpt").exists():
            assert process.poll() is None
            time.sleep(0.05)
        Path("run").rename("away")
        said = process.communicate(timeout=PATIENCE)[1]
    assert process.returncode == 1
    assert "No such file or directory" in said
    assert "fpt: error: run/metrics.csv" in said
    assert "Traceback" not in said


@pytest.mark.slow
def test_nobody_reads_the_output(tiny: list[str]) -> None:
    words = [*BITS, *tiny, "--run_folder=run"]
    command = [sys.executable, "-m", "fpt_lightning", "run", *words]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        process.stdout.close()
        said = process.communicate(timeout=PATIENCE)[1]
    assert process.returncode == 1
    assert said.splitlines()[-2:] == ["fpt: error: nobody reads the output any more", "run/result.json is whole"]
    assert json.loads(Path("run/result.json").read_text())["status"] == "finished"
