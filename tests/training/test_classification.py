"""What a training step touches, and what it never touches."""

from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
import torch.nn.functional as F
from torchmetrics import MeanMetric, Metric

from fpt_lightning.data.bits import BitMemory
from fpt_lightning.data.spec import TaskSpec
from fpt_lightning.errors import UsageError
from fpt_lightning.training.classification import FPTClassifier
from fpt_lightning.training.metrics import split_metrics, update

SMALL = {"n": 8, "patterns": 2, "patch_size": 4, "validation_examples": 10, "test_examples": 10}


def _trainer(steps: int, **options: object) -> L.Trainer:
    return L.Trainer(
        max_steps=steps,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        gradient_clip_val=1.0,
        limit_val_batches=0,
        **options,  # type: ignore[arg-type]
    )


def _fit(steps: int, trainable: list[str] | str = "output", **options: object) -> tuple[FPTClassifier, L.Trainer]:
    data = BitMemory(**SMALL, batch_size=4)
    model = FPTClassifier(data.task, backbone="tiny", trainable=trainable, **options)  # type: ignore[arg-type]
    trainer = _trainer(steps)
    trainer.fit(model, data)
    return model, trainer


@pytest.mark.parametrize(
    "trainable",
    [
        ["input", "output", "layernorm", "positions"],
        ["output"],
        ["output", "attention:last1"],
        ["feedforward"],
        "all",
    ],
    ids=str,
)
def test_frozen_tensors_are_bit_identical_after_50_steps(trainable: list[str] | str) -> None:
    data = BitMemory(**SMALL, batch_size=4)
    model = FPTClassifier(data.task, backbone="tiny", trainable=trainable, lr=0.01)
    before = {name: parameter.detach().clone() for name, parameter in model.model.named_parameters()}
    trainer = _trainer(50)
    trainer.fit(model, data)
    trained = model.model.trained_parameters()
    for name, parameter in model.model.named_parameters():
        if name in trained:
            assert not torch.equal(parameter, before[name]), f"{name} should have moved"
        else:
            assert torch.equal(parameter, before[name]), f"{name} should not have moved"
            assert parameter.grad is None
    optimizer = trainer.optimizers[0]
    assert {id(parameter) for parameter in optimizer.state} == {id(parameter) for parameter in trained.values()}
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(trained)


def test_a_step_is_adam_on_the_clipped_mean_cross_entropy() -> None:
    data = BitMemory(**SMALL, batch_size=4)
    ours = FPTClassifier(data.task, backbone="tiny", dropout=0.0)
    plain = FPTClassifier(data.task, backbone="tiny", dropout=0.0).model
    _trainer(3).fit(ours, data)
    optimizer = torch.optim.Adam(plain.trained_parameters().values(), lr=1e-3)
    for batch, _ in zip(data.train_dataloader(), range(3), strict=False):
        logits = plain(batch.tokens)
        optimizer.zero_grad()
        F.cross_entropy(logits.reshape(-1, 2), batch.target.reshape(-1)).backward()
        torch.nn.utils.clip_grad_norm_(plain.parameters(), 1.0)
        optimizer.step()
    for name, parameter in plain.trained_parameters().items():
        torch.testing.assert_close(ours.model.trained_parameters()[name], parameter, atol=1e-6, rtol=1e-5)


def test_validation_counts_every_answer_once() -> None:
    data = BitMemory(**SMALL, batch_size=4, eval_batch_size=4)
    model = FPTClassifier(data.task, backbone="tiny").eval()
    trainer = L.Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False)
    measured = trainer.test(model, data, verbose=False)[0]["test_accuracy"]
    correct = [(model(batch.tokens).argmax(-1) == batch.target).float() for batch in data.test_dataloader()]
    assert measured == pytest.approx(torch.cat(correct).mean().item(), abs=1e-6)


def test_a_batch_whose_loss_is_no_number_counts() -> None:
    """Left out of the mean, as torchmetrics does unless told otherwise, it would make a broken model look sound."""
    loss = split_metrics(TaskSpec("bits", max_length=4, classes=3, token_width=2), "val_")["val_loss"]
    assert isinstance(loss, MeanMetric)
    for size, value in ((2, 0.5), (1, 0.8)):
        update(loss, torch.zeros(size, 3), torch.zeros(size), torch.tensor(value))
    assert loss.compute().item() == pytest.approx(0.6)
    update(loss, torch.zeros(2, 3), torch.zeros(2), torch.tensor(torch.nan))
    update(loss, torch.zeros(2, 3), torch.zeros(2), torch.tensor(0.5))
    assert loss.compute().isnan()


@pytest.mark.parametrize("precision", ["32-true", "bf16-true", "16-true", "64-true"])
def test_the_loss_of_a_split_is_summed_in_fp32_at_least(precision: Any) -> None:
    """In 16 bits a sum stops to grow: bf16 counts to 256."""
    data = BitMemory(**{**SMALL, "test_examples": 300}, batch_size=4, eval_batch_size=1)
    model = FPTClassifier(data.task, backbone="tiny", dropout=0.0).eval()
    trainer = L.Trainer(
        accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False, precision=precision
    )
    measured = trainer.test(model, data, verbose=False)[0]
    model.float()
    batches = list(data.test_dataloader())
    losses = [model.loss(model(batch.tokens).flatten(0, 1), batch.target.flatten()) for batch in batches]
    assert measured["test_loss"] == pytest.approx(torch.stack(losses).mean().item(), rel=5e-3)
    assert len(batches) == 300


@pytest.mark.parametrize("name", ["mae", "r2"])
def test_figures_of_a_regression_are_summed_in_fp32_at_least(name: str) -> None:
    task = TaskSpec("numbers", max_length=4, classes=None, token_width=2)
    narrow, wide = split_metrics(task, "").to(torch.bfloat16)[name], split_metrics(task, "")[name]
    numbers = torch.randn(1000, 2, generator=torch.Generator().manual_seed(0))
    for metric in (narrow, wide):
        assert isinstance(metric, Metric)
        for answers, target in zip(numbers.split(2), (numbers + 0.1).split(2), strict=True):
            update(metric, answers.flatten(), target.flatten(), torch.zeros(()))
    assert narrow.compute() == wide.compute()  # type: ignore[operator]


def test_bf16_trains_what_stays_in_fp32() -> None:
    data = BitMemory(**SMALL, batch_size=4)
    model = FPTClassifier(data.task, backbone="tiny")
    _trainer(3, precision="bf16-mixed").fit(model, data)
    assert {parameter.dtype for parameter in model.model.trained_parameters().values()} == {torch.float32}


def test_it_learns_from_python_as_well() -> None:
    model, trainer = _fit(5, trainable=["output"])
    prediction = trainer.predict(model, BitMemory(**SMALL))
    assert prediction is not None
    assert torch.cat([answer for answer, _ in prediction]).shape == (10, 8)
    assert all(((probability >= 0.5) & (probability <= 1)).all() for _, probability in prediction)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"trainable": []}, "nothing would train"),
        ({"trainable": ["layer_norm"]}, "no part is called 'layer_norm'; did you mean 'layernorm'"),
        ({"dropout": 1.5}, "between 0 and 1"),
        ({"lr": 0.0}, "above 0"),
        ({"initialization": "pretrained"}, "has no pretrained weights"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, object], message: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=message):
        FPTClassifier(BitMemory(**SMALL).task, **{"backbone": "tiny", **options})  # type: ignore[arg-type]
