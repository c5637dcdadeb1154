"""A run whose numbers are no longer numbers is no finished run."""

import json
from pathlib import Path

import pytest
import torch

from conftest import Fpt
from fpt_lightning import BitMemory, FPTClassifier, FPTTrainer
from fpt_lightning.errors import DivergedError
from fpt_lightning.runs.archive import open_runs, write_archive
from fpt_lightning.runs.outcome import State, read_outcome

WORDS = ["--config=bit_memory.yaml", "--data.n=20", "--data.patch_size=5", "--data.batch_size=4"]


def _fit(module: FPTClassifier, **options: object) -> FPTTrainer:
    trainer = FPTTrainer(
        accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, limit_val_batches=1, **{"max_steps": 12, "log_every_n_steps": 10, **options},
    )  # fmt: skip
    trainer.fit(module, _data())
    return trainer


def _data() -> BitMemory:
    return BitMemory(n=20, patch_size=5, batch_size=4, validation_examples=20, test_examples=20)


def _module(lr: float = 1e-3) -> FPTClassifier:
    return FPTClassifier(_data().task, backbone="tiny", lr=lr)


def _spoil(module: FPTClassifier, after: int) -> None:
    """Makes one number of one gradient NaN, in one backward pass."""
    passes: list[int] = []

    def hook(gradient: torch.Tensor) -> torch.Tensor:
        passes.append(1)
        if len(passes) != after:
            return gradient
        spoiled = gradient.clone()
        spoiled.view(-1)[0] = torch.nan
        return spoiled

    module.model.input.bias.register_hook(hook)  # type: ignore[union-attr]


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_a_rate_that_is_far_too_large_ends_the_training(precision: str) -> None:
    with pytest.raises(
        DivergedError, match=r"its loss.* is not finite; choose a smaller learning rate than 1e\+30"
    ) as e:
        _fit(_module(1e30), precision=precision, log_every_n_steps=1)
    assert e.value.step <= 3


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
@pytest.mark.parametrize(
    ("options", "step"),
    [({}, 10), ({"max_steps": 8}, 8), ({"val_check_interval": 4, "check_val_every_n_epoch": None}, 4)],
    ids=["at a logged step", "at the end", "before a validation"],
)
def test_a_gradient_between_logged_steps_is_seen_by_the_next_look(
    options: dict[str, object], step: int, precision: str
) -> None:
    module = _module()
    _spoil(module, after=3)
    with pytest.raises(DivergedError, match=r"is not finite; choose a smaller learning rate than 0\.001") as error:
        _fit(module, precision=precision, **options)
    assert error.value.step == step


def test_where_the_parameters_are_finite_no_rate_is_blamed(
    fpt: Fpt, tiny: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [f"{number},{number % 2}" for number in range(40)]
    for name, more in (("train", []), ("far", ["1e30,0"])):
        Path(f"{name}.csv").write_text("\n".join(["x,y", *rows, *more]))
    words = ["--config=table.yaml", "--data.train_file=train.csv", "--data.target_column=y", "--data.batch_size=4"]
    words += ["--data.validation_file=far.csv", *tiny, "--trainer.limit_val_batches=null"]
    assert fpt("run", *words) == 1
    error = capsys.readouterr().err
    assert "its loss on validation is not finite; all trained parameters are, the largest being 1" in error
    assert "look for inputs far from those of training" in error
    assert "rate" not in error


def test_one_batch_of_a_validation_is_enough(fpt: Fpt, tiny: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """Beside others whose loss is a number."""
    rows = [f"{number},{number % 2}" for number in range(40)]
    for name, more in (("train", []), ("far", ["1e30,0"])):
        Path(f"{name}.csv").write_text("\n".join(["x,y", *rows, *more]))
    words = ["--config=table.yaml", "--data.train_file=train.csv", "--data.target_column=y", "--data.batch_size=4"]
    words += ["--data.validation_file=far.csv", *tiny, "--trainer.limit_val_batches=null", "--data.eval_batch_size=8"]
    assert fpt("run", *words) == 1
    assert "its loss on validation is not finite" in capsys.readouterr().err


def test_a_precision_of_few_numbers_is_named() -> None:
    module = _module()
    _spoil(module, after=1)
    with pytest.raises(DivergedError, match=r"is not finite; trainer\.precision 16-true holds numbers up to 65,504"):
        _fit(module, precision="16-true")


def test_what_is_finite_goes_on() -> None:
    assert _fit(_module(), max_steps=2, log_every_n_steps=1).global_step == 2


def test_a_run_that_diverged_says_so_and_has_no_figures(
    fpt: Fpt, tiny: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    words = [*WORDS, *tiny, "--trainer.max_steps=8"]
    assert fpt("fit", *words, "--trainer.max_steps=2", "--run_folder=runs/a") == 0
    last = "--ckpt_path=runs/a/checkpoints/last.ckpt"
    content = torch.load("runs/a/checkpoints/last.ckpt", weights_only=True)
    for state in content["optimizer_states"][0]["state"].values():
        state["exp_avg"].fill_(torch.inf)
    torch.save(content, "runs/a/checkpoints/last.ckpt")
    assert fpt("run", *words, last) == 1
    error = capsys.readouterr().err
    assert "fpt: error: the training diverged at step 3: " in error
    result = json.loads(Path("runs/a/result.json").read_text())
    assert (result["status"], result["diverged_step"], result["lr"]) == ("diverged", 3, 1e-3)
    assert result["steps"] == 3
    assert not [name for name in result if "accuracy" in name or "loss" in name]
    assert result["versions"]["torch"]
    assert fpt("run", *words, "--test=only", "--ckpt_path=runs/a/checkpoints/best.ckpt") == 2
    assert "holds a run that diverged" in capsys.readouterr().err
    outcome = read_outcome(Path("runs/a"), makes_backbone=True)
    assert (outcome.state, outcome.cause) == (State.DIVERGED, "it diverged at step 3")
    assert outcome.result is not None
    assert outcome.result.diverged_step == 3
    write_archive(open_runs(Path("runs")), {"a": outcome}, Path("kept"))
    assert open_runs(Path("kept")).outcome("a") == outcome


@pytest.mark.parametrize("content", ['"val_accuracy": 0.5', '"steps": 3'])
def test_a_result_that_diverged_and_has_figures_is_none(content: str) -> None:
    Path("run").mkdir()
    known = '"steps": 3, "lr": 0.1, "seed": 0, "versions": {}, "status": "diverged"'
    Path("run/result.json").write_text(f"{{{known}, {content}}}")
    assert "it diverged, and has a figure" in (read_outcome(Path("run")).cause or "")
