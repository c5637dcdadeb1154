"""An output layer alone trains on features that are computed once."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from conftest import Fpt, read_rows, write_table
from fpt_lightning.data.images.mnist import MNIST
from fpt_lightning.data.proteins.datamodule import RemoteHomology
from fpt_lightning.errors import UsageError
from fpt_lightning.models.fpt import FrozenPretrainedTransformer
from fpt_lightning.training.classification import FPTClassifier
from fpt_lightning.training.features import FeatureData, refuse_changing


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
    for name in ("trained_parameters", "baselines"):
        assert other[name] == one[name], name
    assert (Path("tokens") / "metrics.csv").read_text().count("\n") == (
        (Path("features") / "metrics.csv").read_text().count("\n")
    )

    def refuse(*_: object) -> None:
        raise AssertionError("it was kept")

    monkeypatch.setattr(FrozenPretrainedTransformer, "features", refuse)
    assert fpt(*words, "--cache_features=true", "--run_folder=again", "--model.lr=1e-2") == 0


@pytest.mark.parametrize("precision", ["64-true", "bf16-true", "bf16-mixed"])
def test_features_are_as_exact_as_the_run(fpt: Fpt, words: list[str], precision: str) -> None:
    """Kept in its own precision, so an output layer learns from them what it does from tokens."""
    trained = {}
    for folder, more in {"tokens": [], "features": ["--cache_features=true"]}.items():
        assert fpt(*words, *more, f"--trainer.precision={precision}", f"--run_folder={folder}") == 0
        saved = torch.load(f"{folder}/checkpoints/last.ckpt", weights_only=True)["state_dict"]
        trained[folder] = saved["model.output.weight"]
    assert trained["features"].dtype == trained["tokens"].dtype
    away = 1e-9 if precision == "64-true" else 2e-3
    assert torch.allclose(trained["features"], trained["tokens"], rtol=0, atol=away)


def test_a_run_on_features_is_used_as_any_other(fpt: Fpt, tiny: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """Its own config says to every later command that it was made of features."""
    table = write_table(Path("table.csv"), {"text": ["a b c", "c b"] * 30, "label": ["yes", "no"] * 30})
    new = write_table(Path("new.csv"), {"text": ["c b", "a b c", "c b"]})
    options = [f"--data.train_file={table}", "--data.kind=words", "--model.trainable=[output]", "--model.dropout=0"]
    words = ["run", "--config=table.yaml", *tiny, *options]
    for folder, more in {"tokens": [], "features": ["--cache_features=true"]}.items():
        assert fpt(*words, *more, f"--run_folder={folder}") == 0
        assert fpt("predict", folder, f"--data.predict_file={new}") == 0
        assert fpt("test", folder) == 0
    one, other = (
        [row["prediction"] for row in read_rows(Path(each, "predictions.csv"))] for each in ("tokens", "features")
    )
    assert one == other
    assert len(one) == 3
    saved = [torch.load(f"{each}/checkpoints/best.ckpt", weights_only=True) for each in ("tokens", "features")]
    assert saved[0]["encoding"] == saved[1]["encoding"] != {}
    assert result("tokens")["baselines"] == result("features")["baselines"]
    assert "linear" in result("tokens")["baselines"]
    capsys.readouterr()
    assert fpt("analyze", "features", "--examples=16") == 0
    assert "a linear layer reads" in capsys.readouterr().out


def test_runs_on_features_are_trained_in_one_pass(fpt: Fpt, words: list[str]) -> None:
    """As they are alone."""
    words = [*words, "--cache_features=true", "--model.backbone_seed=0"]
    assert fpt(*words, "--pack=model.lr=[1e-3,1e-2]", "--run_folder=pack") == 0
    for lr in ("0.001", "0.01"):
        assert fpt(*words, f"--model.lr={lr}", f"--run_folder=alone{lr}") == 0
        one, other = result(f"alone{lr}"), result(f"pack/model.lr={lr}")
        for name in ("val_loss", "test_loss", "val_accuracy", "test_accuracy"):
            assert other[name] == pytest.approx(one[name], abs=1e-5), name


def test_features_of_a_pack_are_as_exact_as_its_runs(fpt: Fpt, words: list[str]) -> None:
    words = [*words, "--cache_features=true", "--model.backbone_seed=0", "--trainer.precision=bf16-mixed"]
    assert fpt(*words, "--pack=model.lr=[1e-3,1e-2]", "--run_folder=pack", "--data.cache_folder=together") == 0
    assert fpt(*words, "--run_folder=alone", "--data.cache_folder=alone") == 0
    together, alone = sorted(Path("together").glob("features-*")), sorted(Path("alone").glob("features-*"))
    assert [file.name for file in together] == [file.name for file in alone]
    assert len(alone) == 3
    for one, other in zip(together, alone, strict=True):
        assert torch.equal(load_file(one)["features"], load_file(other)["features"])
        assert load_file(one)["features"].dtype == torch.bfloat16


def test_other_weights_data_or_splits_have_other_features(mnist_root: Path) -> None:
    def features(seed: int = 0, architecture: dict[str, Any] | None = None, **options: Any) -> Any:
        data = MNIST(root=str(mnist_root), validation_examples=20, cache_folder="kept", **options)
        own = {"architecture": architecture, "seed": seed}
        model = FPTClassifier(data.task, "tiny", trainable=["output"], dropout=0.0, **own)
        wrapped = FeatureData(data, model)
        wrapped.prepare_data()
        return {split: wrapped.dataset(split).features for split in ("train", "validation", "test")}  # type: ignore[arg-type]

    features()
    assert len(list(Path("kept").glob("features-*"))) == 3
    features(seed=1)
    features(pixels="normalised")
    features()
    assert len(list(Path("kept").glob("features-*"))) == 9
    # of which no weight tells
    assert not torch.equal(features()["test"], features(architecture={"activation_function": "relu"})["test"])


def test_a_folder_whose_config_was_changed_has_other_features(mnist_root: Path, gpt2_folder: Path) -> None:
    """Its weights and its name are the same."""
    folder, found = Path(shutil.copytree(gpt2_folder, "body")), []
    config = json.loads((folder / "config.json").read_text())
    for epsilon in (1e-5, 0.5):
        (folder / "config.json").write_text(json.dumps(config | {"layer_norm_epsilon": epsilon}))
        data = MNIST(root=str(mnist_root), validation_examples=20, cache_folder="kept", patch_size=8)
        model = FPTClassifier(data.task, "body", trainable=["output"], dropout=0.0)
        wrapped = FeatureData(data, model)
        wrapped.prepare_data()
        found.append(wrapped.dataset("validation").features)
    assert not torch.equal(*found)


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


def test_features_that_hang_on_the_rest_of_a_batch_are_refused() -> None:
    data = RemoteHomology(as_released=True)
    model = FPTClassifier(data.task, "tiny", trainable=["output"], dropout=0.0)
    with pytest.raises(UsageError, match=r"data\.read_at batch_end depends on what shares a batch"):
        refuse_changing(data, model)


def test_endless_data_is_refused(fpt: Fpt, tiny: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    words = ["run", "--config", "bit_xor.yaml", "--config", "train/output_only.yaml", *tiny, "--model.dropout=0"]
    assert fpt(*words, "--cache_features=true") == 2
    assert "cache_features: the training data of bit_xor has no end" in capsys.readouterr().err
