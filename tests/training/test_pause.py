"""A run that pauses at a validation goes on as one that never stopped."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from lightning.pytorch.callbacks import Callback

from conftest import Fpt, read_rows, write_mnist
from fpt_lightning import load
from fpt_lightning.cli import FPTCLI
from fpt_lightning.training.artifacts.checkpoint import read_checkpoint


def _course(run: str) -> list[dict[str, str]]:
    """The rows of its figures, columns in one order, without what depends on the clock."""
    rows = read_rows(Path(run, "metrics.csv"))
    return [{name: row[name] for name in sorted(row) if name != "samples_per_second"} for row in rows]


def _trained(run: str, name: str = "last") -> dict[str, torch.Tensor]:
    weights: dict[str, torch.Tensor] = read_checkpoint(Path(run, "checkpoints", f"{name}.ckpt"))["state_dict"]
    return weights


def _result(run: str) -> dict[str, Any]:
    result: dict[str, Any] = json.loads(Path(run, "result.json").read_text())
    return result


def _same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.fixture
def words(tiny: list[str]) -> list[str]:
    """Six steps, validated at every second."""
    return ["run", "--config=bit_xor.yaml", *tiny, "--trainer.max_steps=6", "--ckpt_path=last"]


def test_a_run_pauses_and_goes_on_to_the_last_bit(
    fpt: Fpt, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert fpt(*words, "--run_folder=whole") == 0
    assert fpt(*words, "--run_folder=paused", "--pause_at=2") == 0
    assert "paused pauses at step 2: the same command without --pause_at goes on" in capsys.readouterr().out
    at_two = _trained("paused")
    assert json.loads(Path("paused/paused.json").read_text()) == {"step": 2}
    assert not Path("paused/result.json").exists()
    # to where it stands it has nothing to do; between two validations it goes to the next
    assert fpt(*words, "--run_folder=paused", "--pause_at=2") == 0
    assert _same(_trained("paused"), at_two)
    # and norm is how Lightning clips where nobody says
    assert fpt(*words, "--run_folder=paused", "--pause_at=3", "--trainer.gradient_clip_algorithm=norm") == 0
    assert json.loads(Path("paused/paused.json").read_text()) == {"step": 4}
    assert fpt(*words, "--run_folder=paused") == 0
    assert not Path("paused/paused.json").exists()
    assert _same(_trained("paused"), _trained("whole"))
    assert _same(_trained("paused", "best"), _trained("whole", "best"))
    assert _course("paused") == _course("whole")
    times = ("samples_per_second", "wall_seconds", "peak_memory_mb")
    assert {k: v for k, v in _result("paused").items() if k not in times} == {
        k: v for k, v in _result("whole").items() if k not in times
    }
    assert yaml.safe_load(Path("paused/config.yaml").read_text())["pause_at"] is None
    assert Path("paused/config.yaml").read_text() == Path("whole/config.yaml").read_text()


def test_a_run_that_ends_at_its_pause_is_finished(fpt: Fpt, words: list[str]) -> None:
    assert fpt(*words, "--run_folder=whole", "--pause_at=6") == 0
    assert _result("whole")["steps"] == 6
    assert (
        fpt(
            *words,
            "--run_folder=stopped",
            "--pause_at=4",
            "--early_stopping.patience=1",
            "--early_stopping.min_delta=1",
        )
        == 0
    )
    assert _result("stopped")["steps"] == 4


def test_a_pack_pauses_and_its_runs_go_on_alone(fpt: Fpt, words: list[str]) -> None:
    lists = "model.lr=[1e-3,1e-2]"
    alone = [word for word in words if not word.startswith("--ckpt_path")]
    assert fpt(*alone, "--pack", lists, "--run_folder=whole") == 0
    assert fpt(*alone, "--pack", lists, "--run_folder=paused", "--pause_at=2") == 0
    runs = sorted(path.name for path in Path("paused").iterdir())
    assert len(runs) == 2
    assert all(json.loads(Path("paused", run, "paused.json").read_text()) == {"step": 2} for run in runs)
    assert fpt(*alone, "--pack", lists, "--run_folder=paused") == 0
    for run in runs:
        assert _same(_trained(f"paused/{run}"), _trained(f"whole/{run}"))
        assert _course(f"paused/{run}") == _course(f"whole/{run}")


def test_a_run_cannot_pause_before_it_begins(fpt: Fpt, words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert fpt(*words, "--run_folder=run", "--pause_at=0") == 2
    assert "pause_at must be at least 1, got 0" in capsys.readouterr().err


def test_a_pause_between_the_batches_of_a_step_loses_none(fpt: Fpt, words: list[str]) -> None:
    words += ["--trainer.accumulate_grad_batches=4", "--trainer.val_check_interval=6"]
    assert fpt(*words, "--run_folder=whole") == 0
    assert fpt(*words, "--run_folder=paused", "--pause_at=1") == 0
    assert json.loads(Path("paused/paused.json").read_text()) == {"step": 1}
    (gradients,) = read_checkpoint("paused/checkpoints/last.ckpt")["gradients"]
    assert gradients.keys() == _trained("paused").keys()
    assert fpt(*words, "--run_folder=paused") == 0
    assert _same(_trained("paused"), _trained("whole"))
    assert _course("paused") == _course("whole")
    assert "gradients" not in read_checkpoint("paused/checkpoints/last.ckpt")


def test_a_test_between_two_fits_leaves_the_second_nothing_of_its_checkpoint(words: list[str]) -> None:
    """Whose gradients and random numbers are of the middle of the first."""
    words += ["--trainer.accumulate_grad_batches=4", "--trainer.val_check_interval=6", "--run_folder=run"]
    cli = FPTCLI(["fit", *words[1:]])
    best = "run/checkpoints/best.ckpt"
    assert "gradients" in read_checkpoint(best)
    begun = []
    spy = Callback()
    spy.on_train_start = lambda trainer, module: begun.append(  # type: ignore[method-assign]
        (torch.get_rng_state(), [each.grad for each in module.parameters() if each.grad is not None])
    )
    cli.trainer.callbacks.append(spy)
    cli.trainer.test(cli.model, datamodule=cli.datamodule, ckpt_path=best, weights_only=True, verbose=False)
    cli.trainer.fit_loop.epoch_loop.max_steps += 1
    cli.trainer.fit(cli.model, datamodule=cli.datamodule)
    ((drawn, gradients),) = begun
    assert gradients == []
    assert not drawn.equal(read_checkpoint(best)["random_states"][0]["torch"])


@pytest.mark.parametrize("steps", [1, 2, 4])
def test_validations_of_an_unfinished_step_stay_in_the_figures(fpt: Fpt, words: list[str], steps: int) -> None:
    words += ["--trainer.accumulate_grad_batches=3", "--trainer.val_check_interval=2"]
    assert fpt(*words, "--run_folder=whole") == 0
    assert fpt(*words, "--run_folder=paused", f"--pause_at={steps}") == 0
    assert fpt(*words, "--run_folder=paused") == 0
    assert _course("paused") == _course("whole")


def test_a_run_that_was_moved_keeps_its_best_checkpoint(fpt: Fpt, words: list[str]) -> None:
    words += ["--model.lr=1e-30"]  # by which nothing moves: the first is the best
    assert fpt(*words, "--run_folder=whole") == 0
    assert fpt(*words, "--run_folder=first", "--pause_at=2") == 0
    Path("first").rename("moved")
    assert fpt(*words, "--run_folder=moved") == 0
    assert _result("whole")["best_step"] == _result("moved")["best_step"] == 2
    assert _result("moved")["test_accuracy"] == _result("whole")["test_accuracy"]


def test_a_trained_run_that_was_moved_gets_its_result(fpt: Fpt, words: list[str]) -> None:
    assert fpt("fit", *words[1:], "--run_folder=first") == 0
    Path("first").rename("moved")
    assert fpt(*words, "--run_folder=moved") == 0
    assert _result("moved")["steps"] == 6


def test_a_run_goes_on_with_the_patience_that_is_asked_for(fpt: Fpt, words: list[str]) -> None:
    words += ["--early_stopping.min_delta=1", "--trainer.max_steps=12"]  # which no validation after the first reaches
    assert fpt(*words, "--run_folder=run", "--pause_at=2") == 0
    assert fpt(*words, "--run_folder=run", "--early_stopping.patience=2") == 0
    assert _result("run")["steps"] == 6
    assert fpt(*words, "--run_folder=run", "--early_stopping.patience=4", "--overwrite") == 0
    assert _result("run")["steps"] == 10


@pytest.mark.parametrize("precision", ["64-true", "bf16-true"])
def test_a_run_in_another_precision_goes_on_and_is_used(fpt: Fpt, words: list[str], precision: str) -> None:
    words += ["--config=initialization/input_moments.yaml", "--model.backbone=pocket", "--model.layers=1"]
    words += [f"--trainer.precision={precision}"]
    assert fpt(*words, "--run_folder=whole") == 0
    assert fpt(*words, "--run_folder=paused", "--pause_at=2") == 0
    assert fpt(*words, "--run_folder=paused") == 0
    assert _same(_trained("paused"), _trained("whole"))
    assert _course("paused") == _course("whole")
    assert fpt("test", "whole") == 0
    assert load("whole").model.input.weight.dtype == torch.float32
    parts = [f"--trainer.precision={precision}", "--model.trained_parts=whole/trained.safetensors", "--run_folder=next"]
    assert fpt(*words, *parts) == 0


@pytest.mark.parametrize("limit", [1.0, 9], ids=["whole epochs", "epochs cut short"])
def test_a_pause_at_the_end_of_an_epoch_loses_none(fpt: Fpt, words: list[str], limit: float) -> None:
    """An epoch is 12 batches, or 9, and the run pauses behind the last of the first one."""
    write_mnist(Path("mnist"), train=60, test=30)
    words = [*words, "--config=mnist.yaml", "--data.root=mnist", "--data.validation_examples=10"]
    words += ["--data.batch_size=4", "--trainer.max_steps=30", "--trainer.val_check_interval=3"]
    words += [f"--trainer.limit_train_batches={limit}"]
    assert fpt(*words, "--run_folder=whole") == 0
    assert fpt(*words, "--run_folder=paused", f"--pause_at={9 if limit == 9 else 12}") == 0
    assert fpt(*words, "--run_folder=paused") == 0
    assert _course("paused") == _course("whole")
    assert _same(_trained("paused"), _trained("whole"))
