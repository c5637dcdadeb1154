"""An output layer alone trains on features that are computed once."""

import json
from pathlib import Path
from typing import Any

import pytest

from conftest import Fpt
from fpt_lightning.data.images.mnist import MNIST
from fpt_lightning.models.fpt import FrozenPretrainedTransformer
from fpt_lightning.training.classification import FPTClassifier
from fpt_lightning.training.features import FeatureData


@pytest.fixture
def words(tiny: list[str], mnist_root: Path) -> list[str]:
    """An output layer on MNIST."""
    return [
        "run", "--config", "mnist.yaml", "--config", "train/output_only.yaml", *tiny, "--trainer.max_steps=6",
        f"--data.root={mnist_root}", "--data.validation_examples=20", "--data.batch_size=4", "--model.dropout=0",
    ]  # fmt: skip


def result(folder: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((Path(folder) / "result.json").read_text())
    return content


def test_a_run_on_features_is_the_run_on_tokens(fpt: Fpt, words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """To rounding; and a second one, at another rate, computes nothing anew."""
    assert fpt(*words, "--run_folder=tokens") == 0
    assert fpt(*words, "--cache_features=true", "--run_folder=features") == 0
    one, other = result("tokens"), result("features")
    for name in ("val_loss", "test_loss", "val_accuracy", "test_accuracy"):
        assert other[name] == pytest.approx(one[name], abs=1e-4), name
    assert other["data_fingerprint"] == one["data_fingerprint"]
    assert other["trained_parameters"] == one["trained_parameters"]
    assert (Path("tokens") / "metrics.csv").read_text().count("\n") == (
        (Path("features") / "metrics.csv").read_text().count("\n")
    )

    def refuse(*_: object) -> None:
        raise AssertionError("it was kept")

    monkeypatch.setattr(FrozenPretrainedTransformer, "features", refuse)
    assert fpt(*words, "--cache_features=true", "--run_folder=again", "--model.lr=1e-2") == 0
    # a run on features tests and goes on as any other
    tested = ["--ckpt_path=features/checkpoints/best.ckpt", "--config=features/config.yaml"]
    assert fpt("test", *tested) in (0, 2)


def test_runs_on_features_are_trained_in_one_pass(fpt: Fpt, words: list[str]) -> None:
    """As they are alone."""
    words = [*words, "--cache_features=true", "--model.backbone_seed=0"]
    assert fpt(*words, "--pack=model.lr=[1e-3,1e-2]", "--run_folder=pack") == 0
    for lr in ("0.001", "0.01"):
        assert fpt(*words, f"--model.lr={lr}", f"--run_folder=alone{lr}") == 0
        one, other = result(f"alone{lr}"), result(f"pack/model.lr={lr}")
        for name in ("val_loss", "test_loss", "val_accuracy", "test_accuracy"):
            assert other[name] == pytest.approx(one[name], abs=1e-5), name


def test_other_weights_data_or_splits_have_other_features(mnist_root: Path) -> None:
    def features(seed: int = 0, **options: Any) -> Any:
        data = MNIST(root=str(mnist_root), validation_examples=20, cache_folder="kept", **options)
        model = FPTClassifier(data.task, "tiny", trainable=["output"], dropout=0.0, seed=seed)
        wrapped = FeatureData(data, model)
        wrapped.prepare_data()
        return {split: wrapped.dataset(split).features for split in ("train", "validation", "test")}  # type: ignore[arg-type]

    features()
    assert len(list(Path("kept").glob("features-*"))) == 3
    features(seed=1)
    features(pixels="normalised")
    features()
    assert len(list(Path("kept").glob("features-*"))) == 9


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--model.dropout=0.1"], "model.dropout must be 0, which is an arm of its own"),
        (["--model.input_dropout=0.1"], "model.input_dropout must be 0"),
        (["--model.trainable=[output,layernorm]"], "of model.trainable layernorm, output only output may train"),
        (["--model.shuffle_tokens=true"], "model.shuffle_tokens draws an order"),
        (["--model.backbone=none"], "there is no backbone"),
    ],
)
def test_features_that_change_are_refused(
    options: list[str], said: str, fpt: Fpt, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert fpt(*words, "--cache_features=true", "--run_folder=run", *options) == 2
    assert f"cache_features: {said}" in capsys.readouterr().err


def test_endless_data_is_refused(fpt: Fpt, tiny: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    words = ["run", "--config", "bit_xor.yaml", "--config", "train/output_only.yaml", *tiny, "--model.dropout=0"]
    assert fpt(*words, "--cache_features=true") == 2
    assert "cache_features: the training data of bit_xor has no end" in capsys.readouterr().err
