"""A captured step is the plain one; a graph is played here by a function that writes anew into the same memory."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from torch.utils._pytree import tree_leaves

from conftest import Fpt
from fpt_lightning.data.bits import BitXOR
from fpt_lightning.data.spec import Batch, TaskSpec
from fpt_lightning.errors import FPTError, UsageError
from fpt_lightning.training import captured
from fpt_lightning.training.captured import CapturedStep
from fpt_lightning.training.classification import FPTClassifier
from fpt_lightning.training.trainer import FPTTrainer

WORDS = TaskSpec("words", max_length=12, classes=7, vocabulary_size=9)


@pytest.fixture
def graphs(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The replays of every graph that was captured."""
    counts: list[int] = []

    def record(compute: Callable[[], Any]) -> tuple[Any, Callable[[], None]]:
        number = len(counts)
        counts.append(0)
        # a graph would read what the cache holds of the weights, as they were when it was captured
        assert not (torch.is_autocast_enabled("cpu") and torch.is_autocast_cache_enabled())
        with torch.random.fork_rng(devices=[]):
            outputs = compute()

        def replay() -> None:
            counts[number] += 1
            for old, new in zip(tree_leaves(outputs), tree_leaves(compute()), strict=True):
                old.copy_(new)

        return outputs, replay

    monkeypatch.setattr(captured, "record", record)
    monkeypatch.setattr(captured, "on_gpu", lambda _: True)
    return counts


def _train(folder: Path, captured: bool, **options: Any) -> tuple[FPTClassifier, FPTTrainer]:
    L.seed_everything(1, verbose=False)
    model = FPTClassifier(BitXOR().task, "tiny", **{"warmup_steps": 3, "seed": 1, **options.pop("model", {})})
    trainer = FPTTrainer(
        captured=captured, accelerator="cpu", max_steps=4, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, limit_val_batches=1, val_check_interval=2,
        check_val_every_n_epoch=None, log_every_n_steps=1, gradient_clip_val=0.5, default_root_dir=folder, **options,
    )  # fmt: skip
    trainer.fit(model, datamodule=BitXOR(batch_size=4, eval_batch_size=4))
    return model, trainer


@pytest.mark.parametrize(("accumulate", "precision"), [(1, "32-true"), (2, "32-true"), (1, "bf16-mixed")])
def test_a_captured_training_is_the_plain_one_to_the_last_bit(
    tmp_path: Path, graphs: list[int], accumulate: int, precision: str
) -> None:
    options: dict[str, Any] = {"accumulate_grad_batches": accumulate, "precision": precision}
    (plain, before), (fast, after) = (_train(tmp_path, each, **options) for each in (False, True))
    assert graphs == [4 * accumulate]
    assert fast.captured is None
    own = fast.model.trained_parameters()
    assert all(torch.equal(value, own[name]) for name, value in plain.model.trained_parameters().items())
    for name in ("train_loss", "train_accuracy", "val_loss"):
        assert torch.equal(before.callback_metrics[name], after.callback_metrics[name])


def test_one_graph_serves_lengths_that_are_padded_to_one(graphs: list[int]) -> None:
    model = FPTClassifier(WORDS, "tiny", dropout=0.0)
    parameters = list(model.model.trained_parameters().values())
    step = CapturedStep(model.answer, parameters, WORDS.max_length)
    for length in (5, 9, 12, 5):
        mask = torch.arange(length) < torch.tensor([length, 3])[:, None]
        batch = Batch(torch.arange(2 * length).view(2, length) % 9, torch.tensor([[1], [6]]), mask)
        *_, loss = step(batch)
        *_, expected = model.answer(batch)
        torch.testing.assert_close(loss, expected)
        both = (torch.autograd.grad(3 * each, parameters) for each in (loss, expected))
        torch.testing.assert_close(*both, rtol=1e-4, atol=1e-6)
    assert graphs == [4]
    assert step.replays == 4
    step(Batch(torch.zeros(2, 12, dtype=torch.int64), torch.tensor([[1], [6]])))
    assert graphs == [4, 1]


def test_without_a_gpu_steps_run_as_ever(fpt: Fpt, tiny: list[str], caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO", "lightning.pytorch.utilities.rank_zero"):
        assert fpt("run", "--config=bit_xor.yaml", *tiny, "--trainer.captured=true") == 0
    assert caplog.messages.count("trainer.captured needs a GPU: without one, steps run as ever") == 1


def test_what_cannot_be_captured_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="needs the host"):
        _train(tmp_path, captured=True, model={"shuffle_tokens": True})

    def record(_: Any) -> Any:
        raise RuntimeError("operation not permitted when stream is capturing\nmore")

    monkeypatch.setattr(captured, "record", record)
    monkeypatch.setattr(captured, "on_gpu", lambda _: True)
    with pytest.raises(
        FPTError, match=r"this step cannot be captured: operation not permitted when stream is capturing$"
    ):
        _train(tmp_path, captured=True)
