"""Answers that are numbers: trained in standard units, judged in the data's own."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning as L
import pytest
import torch

from conftest import Fpt, read_rows, write_table
from fpt_lightning.data.datamodule import FPTDataModule, Split
from fpt_lightning.data.sequences import SequenceTable
from fpt_lightning.data.spec import Batch, Prediction, TaskSpec
from fpt_lightning.training.artifacts.predictions import PredictionWriter
from fpt_lightning.training.classification import FPTClassifier


class Sums(FPTDataModule):
    """Two answers: the sum and the difference of two numbers, in units of the test's choice."""

    def __init__(self, mean: float = 0.0, std: float = 1.0, examples: int = 21, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.mean, self.std, self.rows = mean, std, examples

    @property
    def task(self) -> TaskSpec:
        return TaskSpec(
            "sums", 2, classes=None, token_width=1, answers_per_token=2, target_mean=self.mean, target_std=self.std
        )

    def dataset(self, split: Split) -> SequenceTable:
        pairs = torch.randn(self.rows, 2, generator=torch.Generator().manual_seed(len(split)))
        answers = torch.stack([pairs.sum(dim=1), pairs[:, 0] - pairs[:, 1]], dim=1) / math.sqrt(2)
        lengths = torch.full((self.rows,), 2)
        return SequenceTable(pairs.reshape(-1, 1), lengths, self.mean + self.std * answers)

    def facts(self) -> dict[str, Any]:
        return {"rows": self.rows}


def _trainer(steps: int = 0) -> L.Trainer:
    return L.Trainer(
        max_steps=steps, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, gradient_clip_val=1.0, limit_val_batches=0,
    )  # fmt: skip


@pytest.mark.parametrize("precision", ["32-true", "bf16-true", "16-true"])
def test_answers_are_judged_by_targets_as_they_are(precision: Any) -> None:
    """Years, of which bf16 knows every eighth alone, and numbers that 16 bits do not reach."""
    for mean, std in ((2000.0, 10.0), (1e6, 300.0)):
        data = Sums(mean, std, examples=40)
        model = FPTClassifier(data.task, backbone="tiny", dropout=0.0).eval()
        trainer = L.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
                            enable_model_summary=False, precision=precision)  # fmt: skip
        measured = trainer.test(model, data, verbose=False)[0]
        (batch,) = data.test_dataloader()
        with trainer.precision_plugin.forward_context():
            answers = data.task.in_own_units(model(batch.tokens.to(model.dtype)).squeeze(-1).float())
        assert measured["test_mae"] == pytest.approx((answers - batch.target).abs().mean().item(), rel=1e-3)
        assert measured["test_r2"] == pytest.approx(
            data.task.score(answers.flatten(), batch.target.flatten()), rel=1e-3
        )


@pytest.mark.parametrize(("mean", "std"), [(0.0, 1.0), (250.0, 30.0)])
def test_a_step_is_adam_on_the_squared_error_in_standard_units(mean: float, std: float) -> None:
    data = Sums(mean, std, batch_size=4)
    ours = FPTClassifier(data.task, backbone="tiny", dropout=0.0)
    plain = FPTClassifier(data.task, backbone="tiny", dropout=0.0).model
    _trainer(3).fit(ours, data)
    optimizer = torch.optim.Adam(plain.trained_parameters().values(), lr=1e-3)
    for batch, _ in zip(data.train_dataloader(), range(3), strict=False):
        answers = plain(batch.tokens)
        assert answers.shape == (4, 2, 1)
        optimizer.zero_grad()
        ((answers[:, :, 0] - (batch.target - mean) / std) ** 2).mean().backward()
        torch.nn.utils.clip_grad_norm_(plain.parameters(), 1.0)
        optimizer.step()
    for name, parameter in plain.trained_parameters().items():
        torch.testing.assert_close(ours.model.trained_parameters()[name], parameter, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize(("mean", "std"), [(0.0, 1.0), (1e5, 3.0), (0.0, 1e-4)], ids=["standard", "far", "small"])
def test_metrics_are_exact_in_the_datas_own_units(mean: float, std: float) -> None:
    data = Sums(mean, std, eval_batch_size=4)  # the last batch holds one example
    model = FPTClassifier(data.task, backbone="tiny").eval()
    measured = _trainer().test(model, data, verbose=False)[0]
    predicted = _trainer().predict(model, data)
    assert predicted is not None
    answers = torch.cat([answer for answer, _ in predicted]).double()
    target = torch.cat([batch.target for batch in data.test_dataloader()]).double()
    assert answers.shape == target.shape == (21, 2)
    errors = answers - target
    r2 = 1 - (errors**2).sum() / ((target - target.mean()) ** 2).sum()
    assert set(measured) == {"test_loss", "test_mae", "test_r2"}
    assert measured["test_mae"] == pytest.approx(errors.abs().mean().item(), rel=2e-3)
    assert measured["test_loss"] == pytest.approx((errors / std).square().mean().item(), rel=2e-3)
    assert measured["test_r2"] == pytest.approx(r2.item(), abs=2e-3)


REGRESSION = ["--data=SequenceFile", "--data.target_column=weight", "--data.regression=true"]


def test_a_run_chooses_on_r2_and_has_no_accuracy(
    fpt: Fpt, tiny: list[str], weights_csv: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [*REGRESSION, f"--data.train_file={weights_csv}", *tiny, "--trainer.max_steps=8", "--model.lr=0.01"]
    assert fpt("run", *words, "--early_stopping.patience=100", "--run_folder=run") == 0
    result = json.loads(Path("run/result.json").read_text())
    rows = read_rows(Path("run/metrics.csv"))
    validated = {int(row["step"]) + 1: float(row["val_r2"]) for row in rows if row["val_r2"]}
    assert set(validated) == {2, 4, 6, 8}
    assert result["best_step"] == max(validated, key=lambda step: validated[step])
    assert result["val_r2"] == pytest.approx(max(validated.values()))
    assert {"val_loss", "val_mae", "test_loss", "test_mae", "test_r2"} <= set(result)
    assert not [name for name in (*result, *rows[0]) if "accuracy" in name]
    assert len([row for row in rows if row["train_loss"]]) == 8
    assert f"test r2 {result['test_r2']:.4f}, validation r2" in capsys.readouterr().out
    assert Path("run/learning_curve.png").is_file()


def test_the_users_own_monitor_stays(fpt: Fpt, tiny: list[str], weights_csv: Path) -> None:
    words = [*REGRESSION, f"--data.train_file={weights_csv}", *tiny, "--trainer.max_steps=8", "--model.lr=0.01"]
    words += ["--checkpoint.monitor=val_mae", "--checkpoint.mode=min", "--run_folder=run"]
    assert fpt("run", *words) == 0
    rows = read_rows(Path("run/metrics.csv"))
    errors = {int(row["step"]) + 1: float(row["val_mae"]) for row in rows if row["val_mae"]}
    assert json.loads(Path("run/result.json").read_text())["best_step"] == min(errors, key=lambda step: errors[step])


def test_early_stopping_watches_r2(fpt: Fpt, tiny: list[str], weights_csv: Path) -> None:
    words = [*REGRESSION, f"--data.train_file={weights_csv}", *tiny, "--trainer.val_check_interval=1"]
    words += ["--trainer.max_steps=20", "--early_stopping.patience=2", "--early_stopping.min_delta=100"]
    assert fpt("run", *words, "--run_folder=run") == 0
    assert json.loads(Path("run/result.json").read_text())["steps"] == 3


def test_predictions_are_written_in_the_datas_own_units(fpt: Fpt, tiny: list[str], weights_csv: Path) -> None:
    words = [*REGRESSION, f"--data.train_file={weights_csv}", *tiny]
    assert fpt("predict", *words, "--predictions.path=answers.csv") == 0
    rows = read_rows(Path("answers.csv"))
    given = {row["weight"] for row in read_rows(weights_csv)}
    assert len(rows) == 6
    assert "probability" not in rows[0]
    for row in rows:
        assert abs(float(row["prediction"]) - 5000) < 200
        assert row["target"] in given
        assert len(row["prediction"]) < 14, "no digits that single precision does not have"


def test_answers_far_from_0_are_written_in_the_digits_that_tell_them_apart(fpt: Fpt, tiny: list[str]) -> None:
    x = torch.randn(60, generator=torch.Generator().manual_seed(0)).double()
    far: list[object] = (1.7e9 + 20 * x).tolist()
    write_table(Path("far.csv"), {"x": x.tolist(), "weight": far})
    words = [*REGRESSION, "--data.train_file=far.csv", *tiny, "--predictions.path=answers.csv"]
    assert fpt("predict", *words) == 0
    rows = read_rows(Path("answers.csv"))
    assert {row["target"] for row in rows} < set(map(str, far))
    assert len({row["prediction"] for row in rows}) == len(rows)
    for row in rows:
        assert abs(float(row["prediction"]) - 1.7e9) < 200
        assert len(row["prediction"]) <= len("1700000012.3456789")


@pytest.mark.parametrize(
    ("mean", "std", "answer", "written"),
    [
        (0.0, 1.0, 0.3, "0.3"),
        (0.0, 1.0, 1e-9, "1e-09"),
        (5000.0, 12.5, 1.0, "5012.5"),
        (1.7e9, 20.0, 0.1, "1700000002.0"),
        (0.0, 1.0, math.nan, "nan"),
        (0.0, 1.0, -math.inf, "-inf"),
    ],
)
def test_a_number_has_as_many_digits_as_the_answer(mean: float, std: float, answer: float, written: str) -> None:
    task = TaskSpec("t", 1, None, token_width=1, target_mean=mean, target_std=std)
    module: Any = SimpleNamespace(task=task)
    batch = Batch(torch.zeros(1, 1, 1), torch.tensor([[0.1]], dtype=torch.float64))
    writer = PredictionWriter("answers.csv")
    alone = {
        "world_size": 1,
        "global_rank": 0,
        "is_global_zero": True,
        "strategy": SimpleNamespace(barrier=lambda: None),
    }
    trainer: Any = SimpleNamespace(predict_dataloaders=None, datamodule=None, ckpt_path=None, **alone)
    writer.on_predict_start(trainer, module)
    writer.write_on_batch_end(
        trainer, module, Prediction(task.in_own_units(torch.tensor([[answer]]))), [0], batch, 0, 0
    )
    writer.on_predict_end(trainer, module)
    assert read_rows(Path("answers.csv")) == [{"example": "0", "prediction": written, "target": "0.1"}]


@pytest.mark.usefixtures("warm")
def test_two_processes_measure_what_one_does(weights_csv: Path) -> None:
    """The 7 validation rows are shared 4 to 3, in batches of 3 and 1."""

    def curve(folder: str, *words: str) -> list[dict[str, str]]:
        done = subprocess.run(
            [
                sys.executable, "-m", "fpt_lightning", "fit", *REGRESSION, f"--data.train_file={weights_csv}",
                "--data.validation_share=0.12", "--data.batch_size=8", "--data.eval_batch_size=6",
                "--model.backbone=tiny", "--model.dropout=0", "--trainer.max_steps=4", "--trainer.val_check_interval=2",
                "--trainer.log_every_n_steps=1", "--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false",
                f"--run_folder={folder}", *words,
            ],
            capture_output=True, text=True, timeout=120, check=False, env={**os.environ, "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-3000:]
        return read_rows(Path(folder) / "metrics.csv")

    one, two = curve("one", "--trainer.devices=1"), curve("two", "--config=trainer/ddp.yaml", "--trainer.devices=2")
    for name in ("train_loss", "val_loss", "val_mae", "val_r2"):
        expected = [float(row[name]) for row in one if row[name]]
        assert len(expected) >= 2
        assert [float(row[name]) for row in two if row[name]] == pytest.approx(expected, abs=1e-4), name
