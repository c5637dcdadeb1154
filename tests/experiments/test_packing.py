"""Runs of a sweep, and of a hand, that train in one pass."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf

from conftest import Fpt, read_rows
from fpt_lightning import packs
from fpt_lightning.config_files import shipped
from fpt_lightning.experiments.grid import Selection, make_grid
from fpt_lightning.experiments.packing import in_words, packed, shared, unfit
from fpt_lightning.experiments.tables import read_experiments
from fpt_lightning.main import main
from fpt_lightning.runs.lock import hold

EXPERIMENTS = """
tasks:
  bit_xor: {title: bit-xor, config: bit_xor.yaml, lr: 1.0e-3, chance: 50}
protocols:
  fair: {lr: [1.0e-3, 1.0e-2, 1.0e+30], seeds: [0, 1, 2], grid_seeds: 1}
profiles:
  smoke:
    backbones:
      fixed: {configs: [backbones/tiny.yaml], settings: {model.backbone_seed: 3}}
      drawn: {configs: [backbones/tiny.yaml]}
    settings:
      trainer.max_steps: 4
      trainer.val_check_interval: 2
      trainer.limit_val_batches: 1
      trainer.limit_test_batches: 1
      trainer.log_every_n_steps: 1
      trainer.accelerator: cpu
      data.eval_batch_size: 16
tables:
  packs:
    title: Packs
    source: here
    protocol: fair
    tasks: [bit_xor]
    arms:
      fixed: {backbone: fixed}
      drawn: {backbone: drawn}
"""
SWEEP = ("sweep", "packs", "--profile", "smoke", "--jobs", "1", "--threads", "1")


@pytest.fixture
def experiments() -> Path:
    file = Path("experiments.yaml")
    file.write_text(EXPERIMENTS)
    return file


def results(folder: str) -> dict[str, dict[str, Any]]:
    return {file.parent.name: json.loads(file.read_text()) for file in Path(folder).rglob("result.json")}


@pytest.mark.usefixtures("warm")
def test_a_sweep_packs_what_shares_a_body_and_comes_out_as_it_does_alone(
    experiments: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """To rounding: a product of many rows is not that of few."""
    fixed = [*SWEEP, "--arms", "fixed"]
    assert main([*fixed, "--pack", "off", "--folder", "alone"]) == 0
    assert main([*fixed, "--pack", "4", "--folder", "together"]) == 0
    capfd.readouterr()
    alone, together = results("alone"), results("together")
    assert alone.keys() == together.keys()
    assert len(together) == 3 + 2 * 2
    times = {"samples_per_second", "wall_seconds", "peak_memory_mb", "pack"}
    for name, result in together.items():
        for key in result.keys() - times:
            expected = alone[name].get(key)
            assert result[key] == (pytest.approx(expected, abs=0.05) if isinstance(expected, float) else expected), key
    assert not any("pack" in result for result in alone.values())
    packs = [result["pack"]["size"] for result in together.values() if "pack" in result]
    assert packs
    # a second sweep, packed or not, has nothing left to do
    before = {file: file.stat().st_mtime_ns for file in Path("together").rglob("*.ckpt")}
    assert main([*fixed, "--folder", "together"]) == 0
    assert before == {file: file.stat().st_mtime_ns for file in Path("together").rglob("*.ckpt")}


@pytest.mark.usefixtures("warm")
def test_runs_whose_pack_dies_go_on_alone(experiments: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Killed by a system without memory, or by a fault that only the pack has."""
    Path("killing.py").write_text(
        "import os, signal, lightning as L\n"
        "class KillPack(L.Callback):\n"
        "    def on_train_start(self, trainer, module):\n"
        "        if not isinstance(trainer, L.Trainer):\n"
        "            os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    Path("killing.yaml").write_text("trainer: {callbacks: [{class_path: killing.KillPack}]}\n")
    experiments.write_text(EXPERIMENTS.replace("[backbones/tiny.yaml], s", "[backbones/tiny.yaml, killing.yaml], s"))
    words = [*SWEEP, "--arms", "fixed", "--rates", "1e-3", "--seeds", "0,1", "--pack", "2"]
    assert main([*words, "--folder", "made"]) == 0
    assert "2 runs in one pass ended by: killed" in capfd.readouterr().out
    made = results("made")
    assert len(made) == 2
    assert not any("pack" in result for result in made.values())


def test_a_dry_run_says_what_goes_together(experiments: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of a drawn body the seeds differ, so only their rates share one."""
    assert main([*SWEEP, "--dry-run", "--pack", "8"]) == 0
    assert "6 runs: 2 packs of 3" in capsys.readouterr().err
    assert main([*SWEEP, "--dry-run", "--pack", "2"]) == 0
    assert "6 runs: 2 packs of 2, 2 alone" in capsys.readouterr().err
    assert main([*SWEEP, "--dry-run", "--pack", "off"]) == 0
    assert "6 runs: 6 alone\n" in capsys.readouterr().err
    assert main([*SWEEP, "--dry-run", "--rates", "1e-3"]) == 0
    assert "6 runs: 1 pack of 3, 3 alone (their body differs by seed)\n" in capsys.readouterr().err


def test_which_runs_share_a_body() -> None:
    experiments = read_experiments(str(shipped("experiments.yaml")))
    cells = make_grid(experiments, Selection("pocket", "laptop", "fair")).cells
    of_arm = {cell.arm.name: list(cell.runs.values()) for cell in cells if cell.task == "mnist"}
    assert len({run.shared for run in of_arm["pretrained"]}) == 1
    assert len({run.shared for run in of_arm["random"]}) == 3
    assert not {run.shared for run in of_arm["pretrained"]} & {run.shared for run in of_arm["statistics"]}
    values = {"data": "BitXOR", "model.backbone": "pocket"}
    assert shared({**values, "data_seed": 1}) == shared({**values, "data_seed": 2}) == shared(values)
    rates = [{"input": 1e-4}, {"input": 1e-2}, {"layernorm": 1e-4}, {"input": 1e-4, "layernorm": 1e-2}, None]
    by_parts = [shared({**values, "model.part_lr": of_parts}) for of_parts in rates]
    assert by_parts[0] == by_parts[1]
    assert len(set(by_parts)) == 4
    assert by_parts[4] == shared(values)
    # the end of a run that is shorter than the steps between two validations is validated too
    by_steps = [
        shared({**values, "trainer.max_steps": steps, "trainer.val_check_interval": 8}) for steps in (4, 6, 8, 16)
    ]
    assert len(set(by_steps)) == 3
    assert by_steps[2] == by_steps[3]
    packs = packed(of_arm["pretrained"], size=6, slots=2)
    assert [len(pack.members) for pack in packs] == [4, 4, 4, 3]  # no place waits for another
    assert in_words(packs) == "15 runs: 1 pack of 3, 3 packs of 4"


@pytest.mark.parametrize(
    "values",
    [
        {"trainer.precision": "16-mixed"},
        {"trainer.accumulate_grad_batches": 2},
        {"model.warmup_steps": 10},
        {"optimizer.class_path": "SGD"},
        {"trainer.min_steps": 10},
        {"trainer.min_epochs": 1},
        {"trainer.max_time": "00:01:00:00"},
        {"checkpoint.dirpath": "kept"},
        {"trainer.logger": {"class_path": "lightning.pytorch.loggers.WandbLogger"}},
    ],
)
def test_what_a_pack_cannot_honour_goes_alone(values: dict[str, Any]) -> None:
    assert shared({"model.backbone": "pocket"}) is not None
    assert shared({"model.backbone": "pocket", **values}) is None
    assert unfit(values)


def test_a_pack_by_hand(fpt: Fpt, tiny: list[str]) -> None:
    words = ("run", "--config", "bit_xor.yaml", *tiny, "--model.backbone_seed=1", "--run_folder", "pack")
    assert fpt(*words, "--pack", "model.lr=[1e-3,1e-2],seed_everything=[0,1]") == 0
    made = {name: (result["lr"], result["seed"], result["pack"]) for name, result in results("pack").items()}
    assert made == {
        f"model.lr={lr},seed_everything={seed}": (lr, seed, {"size": 4, "mode": "fused"})
        for lr in (1e-3, 1e-2)
        for seed in (0, 1)
    }


def test_a_pack_by_hand_goes_on_with_what_is_not_finished(
    fpt: Fpt, tiny: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["run", "--config", "bit_xor.yaml", *tiny, "--run_folder", "pack", "--trainer.val_check_interval=2"]
    words += ["--pack", "trainer.max_steps=[2,6],model.lr=[1e-3]"]
    assert fpt(*words, "--pause_at=4") == 0
    assert len(results("pack")) == 1
    assert fpt(*words) == 0
    assert "1 of 2 runs are finished" in capsys.readouterr().out
    assert {result["steps"] for result in results("pack").values()} == {2, 6}
    assert fpt(*words) == 2
    assert "holds a finished run: choose another --run_folder, or add --overwrite" in capsys.readouterr().err


def test_a_pack_does_not_join_finished_runs_of_other_options(
    fpt: Fpt, tiny: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["run", "--config=bit_xor.yaml", *tiny, "--model.backbone_seed=1", "--run_folder=pack", "--pack"]
    assert fpt(*words, "model.lr=[1e-3]") == 0
    before = sorted(Path().rglob("*"))
    for option, said in (("--model.dropout=0", "model.dropout 0.1, here 0"), ("--trainer.max_steps=2", "max_steps 4")):
        assert fpt(*words, "model.lr=[1e-3,1e-2]", option) == 2
        error = capsys.readouterr().err
        assert "pack/model.lr=0.001 is finished, with " in error
        assert said in error
        assert "choose another --run_folder" in error
    assert sorted(Path().rglob("*")) == before
    assert fpt(*words, "model.lr=[1e-3,1e-2]", "--trainer.enable_progress_bar=true") == 0
    assert len(results("pack")) == 2


OWN = """
import lightning as L
import torch
from fpt_lightning import FPTClassifier

class Descent(FPTClassifier):
    def configure_optimizers(self):
        return torch.optim.SGD([p for p in self.parameters() if p.requires_grad], lr=self.lr)

class Looked(FPTClassifier):
    def on_before_optimizer_step(self, optimizer):
        pass

class Look(L.Callback):
    def on_validation_batch_end(self, *_):
        pass
"""


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("--model=own_ways.Descent", "Descent has its own configure_optimizers, which no pack has: such runs go alone"),
        ("--model=own_ways.Looked", "Looked has its own on_before_optimizer_step"),
        ("--trainer.callbacks+=own_ways.Look", "Look has its own on_validation_batch_end"),
        (
            "--trainer.callbacks+={class_path: GradientAccumulationScheduler, init_args: {scheduling: {0: 3}}}",
            "GradientAccumulationScheduler has its own number of batches in a step",
        ),
        ("--trainer.callbacks+={class_path: Timer, init_args: {duration: 00:01:00:00}}", "Timer has its own clock"),
        ("--last_checkpoint.dirpath=kept", "last_checkpoint.dirpath is one folder for all runs"),
    ],
)
def test_what_a_pack_would_pass_over_is_refused(
    fpt: Fpt, tiny: list[str], option: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("own_ways.py").write_text(OWN)
    words = ["run", "--config=bit_xor.yaml", *tiny, "--model.backbone_seed=1", "--run_folder=pack", option]
    assert fpt(*words, "--pack", "model.lr=[1e-3,1e-2]") > 0
    assert said in capsys.readouterr().err
    assert not results("pack")


def test_a_pack_by_epochs_keeps_the_last_validation(fpt: Fpt, tiny: list[str], weights_csv: Path) -> None:
    words = ["run", "--config=table.yaml", f"--data.train_file={weights_csv}", "--data.target_column=weight", *tiny]
    words += ["--data.regression=true", "--data.batch_size=8", "--model.backbone_seed=1", "--trainer.max_epochs=2"]
    words += ["--trainer.max_steps=-1", "--trainer.check_val_every_n_epoch=1", "--trainer.val_check_interval=1.0"]
    assert fpt(*words, "--pack=model.lr=[1e-3,1e-2]", "--run_folder=pack") == 0
    assert fpt(*words, "--model.lr=1e-2", "--run_folder=alone") == 0
    alone = json.loads(Path("alone/result.json").read_text())
    together = results("pack")["model.lr=0.01"]
    assert together["best_step"] == alone["best_step"]
    assert together["val_loss"] == pytest.approx(alone["val_loss"], rel=1e-4)


def test_a_pack_whose_runs_stand_elsewhere_is_refused(
    fpt: Fpt, tiny: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["run", "--config=bit_xor.yaml", *tiny, "--model.backbone_seed=1", "--run_folder=pack", "--pause_at=2"]
    assert fpt(*words, "--pack", "model.lr=[1e-3,1e-2]") == 0
    last = {file: file.read_bytes() for file in Path("pack").rglob("last.ckpt")}
    for rates in ("[3e-3,1e-3,1e-2]", "[1e-3,1e-2,3e-3]"):
        assert fpt(*words, "--pack", f"model.lr={rates}") == 1
        assert "some runs of the pack have a checkpoint, others none" in capsys.readouterr().err
    assert {file: file.read_bytes() for file in Path("pack").rglob("last.ckpt")} == last


def test_rows_and_steps_of_packed_runs_are_those_alone(fpt: Fpt, tiny: list[str], weights_csv: Path) -> None:
    words = ["run", "--config=table.yaml", f"--data.train_file={weights_csv}", "--data.target_column=weight", *tiny]
    words += ["--data.regression=true", "--data.batch_size=8", "--model.backbone_seed=1", "--trainer.max_epochs=2"]
    words += ["--trainer.num_sanity_val_steps=1", "--trainer.val_check_interval=2", "--trainer.log_every_n_steps=2"]
    assert fpt(*words, "--pack", "trainer.max_steps=[-1,4],model.lr=[1e-3]", "--run_folder=pack") == 0
    for steps in (-1, 4):
        assert fpt(*words, f"--trainer.max_steps={steps}", "--model.lr=1e-3", "--run_folder=alone", "--overwrite") == 0
        together = Path("pack", f"trainer.max_steps={steps},model.lr=0.001")
        ours, theirs = (
            [(row["step"], bool(row["train_loss"]), bool(row["val_loss"]), bool(row["test_loss"])) for row in rows]
            for rows in map(read_rows, (together / "metrics.csv", Path("alone/metrics.csv")))
        )
        assert ours == theirs
        assert results(str(together))[together.name]["steps"] == results("alone")["alone"]["steps"]


def test_a_pack_that_finds_no_memory_is_halved_and_keeps_what_is_made(
    fpt: Fpt, tiny: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    trained = packs._train
    sizes: list[int] = []

    def scarce(members: Sequence[packs.Member]) -> None:
        sizes.append(len(members))
        if len(sizes) == 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        trained(members)

    monkeypatch.setattr(packs, "_train", scarce)
    monkeypatch.setattr(packs, "_best_size", lambda replicas: 2)
    folders = [Path(f"run{number}") for number in range(4)]
    words = ["run", "--config=bit_xor.yaml", *tiny, "--model.backbone_seed=1", "--ckpt_path=last"]
    with ExitStack() as held:
        for folder in folders:
            folder.mkdir()
            held.enter_context(hold(folder))
        commands = [
            [*words, f"--model.lr=1e-{number + 1}", f"--run_folder={folder}"] for number, folder in enumerate(folders)
        ]
        assert packs.run_together(commands) == [None] * 4
    assert sizes == [2, 2, 1, 1]
    assert [json.loads((folder / "result.json").read_text())["pack"]["size"] for folder in folders] == [2, 2, 1, 1]


@pytest.mark.parametrize(
    ("lists", "said"),
    [
        ("model.dropout=[0,0.1]", "cannot differ in 'model.dropout'"),
        ("model.lr=1e-3", "--pack names lists"),
        ("0", "--pack names lists"),
        ("", "--pack names lists"),
        ("model.lr=[1e-3,0.001]", "--pack model.lr=[1e-3,0.001]: model.lr: expected each once"),
        ("model.lr=[1],model.lr=[2]", "lists: expected each once"),
        ("model.lr=[]", "--pack: model.lr has no value"),
        ("model.lr=[@a]", "--pack model.lr=[@a]: while scanning"),
        (
            "seed_everything=[0,1]",
            "must have the same frozen weights, which their seeds draw: add --model.backbone_seed 0",
        ),
        ("model.part_lr=[{input: 1e-4},{layernorm: 1e-4}]", "must name the same parts in model.part_lr"),
        ("trainer.max_steps=[1,2,4]", "validate at the same steps, these every 1 and 2"),
    ],
)
def test_what_cannot_be_packed_is_said_in_a_line(
    lists: str, said: str, fpt: Fpt, tiny: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert fpt("run", "--config", "bit_xor.yaml", *tiny, "--run_folder", "pack", "--pack", lists) in (1, 2)
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
    assert not Path("pack").exists()


def test_a_body_that_cannot_be_packed_leaves_nothing(
    fpt: Fpt, tiny: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 24}
    hf.LongformerConfig(**sizes, attention_window=4).save_pretrained("body")
    words = ["run", "--config", "bit_xor.yaml", *tiny, "--model.backbone=body", "--model.initialization=random"]
    assert fpt(*words, "--model.backbone_seed=0", "--run_folder=pack", "--pack", "model.lr=[1e-3,1e-2]") == 1
    error = capsys.readouterr().err
    assert "cannot be packed: not all of its dropout is drawn for each run alone" in error
    assert error.count("\n") == 1
    assert not Path("pack").exists()


def test_how_many_at_a_time_are_quickest_is_measured_once(
    fpt: Fpt, tiny: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a machine, of a body and a task; by what was measured before, later packs are made."""
    measured: list[list[int]] = []

    def seconds(replicas: Sequence[Any], sizes: Sequence[int]) -> list[float]:
        measured.append(list(sizes))
        return [2.0 - size / 10 for size in sizes]

    monkeypatch.setattr(packs, "_seconds", seconds)
    words = ["run", "--config=bit_xor.yaml", *tiny, "--model.backbone_seed=1", "--ckpt_path=last"]
    for name, runs, more in (
        ("first", 2, []),
        ("again", 2, []),
        ("more", 3, []),
        ("other", 2, ["--model.dropout=0"]),
        ("wider", 2, ["--data.batch_size=3"]),
    ):
        each = [[f"--model.lr=1e-{number + 2}", f"--run_folder={name}/{number}"] for number in range(runs)]
        assert packs.run_together([[*words, *more, *own] for own in each]) == [None] * runs
        assert [result["pack"]["size"] for result in results(name).values()] == [runs] * runs
    assert measured == [[1, 2], [1, 2, 3], [1, 2], [1, 2]]


def test_a_pack_refuses_what_a_run_does(fpt: Fpt, tiny: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    words = [*tiny, "--model.backbone_seed=0", "--trainer.max_steps=-1", "--trainer.max_epochs=1", "--run_folder=pack"]
    assert fpt("run", "--config=bit_xor.yaml", *words, "--pack=model.lr=[1e-3,1e-2]") == 2
    assert "bit_xor is generated without end and has no epochs" in capsys.readouterr().err
    assert not list(Path().glob("pack/*/*.json"))


@pytest.mark.parametrize(
    ("seconds", "size"), [([1.0, 0.99, 1.5], 1), ([1.0, 0.9, 0.91], 3), ([1.0, 0.9, 0.95], 2), ([1.0, 1.1, 1.2], 1)]
)
def test_runs_go_alone_unless_a_pack_is_quicker(
    fpt: Fpt, tiny: list[str], monkeypatch: pytest.MonkeyPatch, seconds: list[float], size: int
) -> None:
    """And of packs that are as quick as each other the larger is taken."""
    monkeypatch.setattr(packs, "_seconds", lambda replicas, sizes: seconds)
    words = ["run", "--config=bit_xor.yaml", *tiny, "--model.backbone_seed=1", "--ckpt_path=last"]
    each = [[f"--model.lr={rate}", f"--run_folder=run/{rate}"] for rate in ("1e-2", "1e-3", "1e-4")]
    assert packs.run_together([[*words, *own] for own in each]) == [None] * 3
    assert sorted({result["pack"]["size"] for result in results("run").values()})[-1] == size


@pytest.mark.parametrize(
    "option",
    [
        "--trainer.min_steps=3",
        "--model.warmup_steps=2",
        "--optimizer=SGD",
        "--trainer.limit_val_batches=0",
        "--trainer.limit_test_batches=0",
    ],
)
def test_an_option_that_no_pack_honours_is_refused_by_hand(
    option: str, fpt: Fpt, tiny: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["run", "--config", "bit_xor.yaml", *tiny, "--run_folder", "pack", option]
    assert fpt(*words, "--pack", "model.lr=[1e-3,1e-2]") == 2
    error = capsys.readouterr().err
    assert option.partition("=")[0].removeprefix("--") in error
    assert error.count("\n") == 1
    assert not results("pack")


@pytest.mark.parametrize("size", ["0", "-1", "many"])
def test_a_size_that_is_none_is_refused(size: str, experiments: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*SWEEP, "--pack", size]) == 2
    assert "auto, off or a number" in capsys.readouterr().err


@pytest.mark.slow
def test_a_killed_pack_goes_on(experiments: Path) -> None:
    """Whenever the kill comes: at the first checkpoint of the first run, or of the third."""
    experiments.write_text(EXPERIMENTS.replace("trainer.max_steps: 4", "trainer.max_steps: 60"))
    words = [*SWEEP, "--arms", "fixed", "--rates", "1e-3", "--seeds", "0,1,2", "--pack", "3"]
    assert main([*words, "--folder", "whole"]) == 0
    for place in (0, 2):
        folder = Path(f"killed{place}")
        process = subprocess.Popen(
            [sys.executable, "-m", "fpt_lightning", *words, "--folder", str(folder)], start_new_session=True
        )
        while len(list(folder.rglob("last.ckpt"))) <= place:
            assert process.poll() is None
            time.sleep(0.01)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        assert len(results(str(folder))) < 3  # how many are trained in one pass is measured
        time.sleep(1)  # the workers notice that their pipe is closed
        assert main([*words, "--folder", str(folder)]) == 0
        whole, killed = results("whole"), results(str(folder))
        assert killed.keys() == whole.keys()
        for name, result in killed.items():
            assert result["steps"] == 60
            assert result["val_loss"] == pytest.approx(whole[name]["val_loss"], abs=0.02)
