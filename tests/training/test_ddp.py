"""Two processes give what one gives."""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from shutil import copy

import pytest
import torch

from conftest import Fpt, read_rows
from fpt_lightning.runs.folder import RunFolder

BITS = (
    "--config=bit_memory.yaml", "--data.n=20", "--data.patch_size=5",
    "--data.validation_examples=21", "--data.test_examples=21",
)  # fmt: skip


def _words(folder: str, command: str, task: Sequence[str]) -> list[str]:
    return [
        command, *task, "--data.batch_size=8", "--data.eval_batch_size=8", "--model.backbone=tiny", "--model.dropout=0",
        "--trainer.max_steps=12", "--trainer.val_check_interval=4", "--trainer.log_every_n_steps=1",
        "--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false", f"--run_folder={folder}",
    ]  # fmt: skip


def _start(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "fpt_lightning", *words],
        capture_output=True, text=True, timeout=300, check=False, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip


def _run(folder: str, *words: str, command: str = "fit", task: Sequence[str] = BITS) -> list[dict[str, str]]:
    done = _start(*_words(folder, command, task), *words)
    assert done.returncode == 0, done.stderr[-3000:]
    return read_rows(RunFolder(Path(folder)).metrics)


def _curve(rows: list[dict[str, str]], name: str) -> list[float]:
    return [float(row[name]) for row in rows if row.get(name)]


@pytest.mark.parametrize("task", ["bits", "augmented images"])
@pytest.mark.usefixtures("warm")
def test_two_processes_give_the_loss_curve_of_one(
    image_root: Path, task: str, fpt: Fpt, monkeypatch: pytest.MonkeyPatch
) -> None:
    # 36 training images, 8 a batch: three epochs
    images = ("--config=image_folder.yaml", f"--data.root={image_root}", "--data.augment=true")
    words = BITS if task == "bits" else images
    assert fpt(*_words("one", "fit", words), "--trainer.devices=1") == 0
    one = read_rows(Path("one/metrics.csv"))
    monkeypatch.delenv("FPT_RUN_FOLDER")  # the next run is no process of this one
    two = _run("two", "--config=trainer/ddp.yaml", "--trainer.devices=2", task=words)
    assert len(_curve(one, "train_loss")) == 12
    for name in ("train_loss", "train_accuracy", "val_loss", "val_accuracy"):
        assert _curve(two, name) == pytest.approx(_curve(one, name), abs=1e-5), name


@pytest.mark.usefixtures("warm")
def test_a_run_on_two_processes_leaves_one_result_and_resumes() -> None:
    words = ("--config=trainer/ddp.yaml", "--trainer.devices=2", "--model.dropout=0.1", "--model.frozen_dtype=bfloat16")
    whole = _run("whole", *words, command="run")
    assert RunFolder(Path("whole")).result.is_file()
    _run("part", *words, "--trainer.max_steps=8")
    resumed = _run("part", *words, "--ckpt_path=part/checkpoints/last.ckpt")
    assert _curve(resumed, "train_loss") == pytest.approx(_curve(whole, "train_loss"), abs=1e-6)
    assert {path.name for path in Path().iterdir()} == {"whole", "part"}
    last = (torch.load(f"{name}/checkpoints/last.ckpt", weights_only=True) for name in ("whole", "part"))
    (first, second), resumed_states = ([state["torch"] for state in checkpoint["random_states"]] for checkpoint in last)
    assert not torch.equal(first, second), "each process has a stream of its own"
    assert torch.equal(resumed_states[0], first)
    assert torch.equal(resumed_states[1], second)


@pytest.mark.usefixtures("warm")
def test_two_processes_answer_into_one_file(fpt: Fpt, image_root: Path) -> None:
    """In the order of the data, images by their paths, over what an earlier prediction left."""
    images = ("--config=image_folder.yaml", f"--data.root={image_root}")
    assert fpt(*_words("run", "fit", images)) == 0
    rows = {}
    for devices, more in (("1", []), ("2", ["--config=trainer/ddp.yaml"])):
        words = ["predict", "run", *more, "--trainer.accelerator=cpu", f"--trainer.devices={devices}"]
        done = subprocess.run(
            [sys.executable, "-m", "fpt_lightning", *words, "--data.eval_batch_size=2"],
            capture_output=True, text=True, timeout=300, check=False, env={**os.environ, "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-3000:]
        assert "predictions: run/predictions.csv" in done.stdout + done.stderr
        rows[devices] = [(row["example"], row["prediction"]) for row in read_rows(Path("run/predictions.csv"))]
    assert rows["1"] == rows["2"]
    assert len(rows["1"]) > 4
    assert not list(Path("run").glob("predictions-*"))


@pytest.mark.parametrize(("split", "named"), [("validation", "validation"), ("test", "the test split")])
@pytest.mark.usefixtures("warm")
def test_fewer_examples_than_processes_are_refused_before_anything_starts(split: str, named: str) -> None:
    """The process without one ended amid the run, and with it those that waited for it."""
    words = [*_words("one", "run", BITS), "--config=trainer/ddp.yaml", "--trainer.devices=2"]
    done = _start(*words, f"--data.{split}_examples=1")
    assert done.returncode == 2, done.stderr[-3000:]
    assert f"2 processes cannot share 1 example of {named}: set trainer.devices 1" in done.stderr
    assert not Path("one", "metrics.csv").exists()


@pytest.mark.usefixtures("warm")
def test_a_process_that_waits_for_one_that_refuses_its_data_names_no_bug() -> None:
    words = [*_words("one", "run", ["--config=mnist.yaml"]), "--config=trainer/ddp.yaml", "--trainer.devices=2"]
    done = _start(*words, "--data.root=nowhere", "--data.download=false")
    assert done.returncode == 1, done.stderr[-3000:]
    assert "not found in nowhere/MNIST/raw and data.download is false" in done.stderr
    assert "bug" not in done.stderr


@pytest.mark.usefixtures("warm")
@pytest.mark.parametrize("limit", ["val", "test"])
def test_some_batches_of_an_evaluation_are_those_of_one_process_or_refused(limit: str) -> None:
    """Of 5 examples a batch two processes took 4, and the figure was another."""
    words = [*_words("one", "run", BITS), "--config=trainer/ddp.yaml", "--trainer.devices=2"]
    done = _start(*words, "--data.eval_batch_size=5", f"--trainer.limit_{limit}_batches=2")
    assert done.returncode == 2, done.stderr[-3000:]
    assert "data.eval_batch_size 5 counts the examples on all 2 devices together and must be divisible" in done.stderr
    assert not Path("one", "metrics.csv").exists()


@pytest.mark.usefixtures("warm")
def test_one_new_image_is_not_shared_by_two_processes(fpt: Fpt, image_root: Path) -> None:
    images = ("--config=image_folder.yaml", f"--data.root={image_root}")
    assert fpt(*_words("run", "fit", images)) == 0
    Path("new").mkdir()
    copy(next(image_root.rglob("*.png")), "new/one.png")
    words = ["predict", "run", "--data.predict_folder=new", "--trainer.accelerator=cpu", "--trainer.strategy=ddp"]
    done = _start(*words, "--trainer.devices=2")
    assert done.returncode == 2, done.stderr[-3000:]
    assert "2 processes cannot share 1 example: set trainer.devices 1" in done.stderr
    assert not Path("run/predictions.csv").exists()
