"""Frozen matrices kept in bf16: half the memory, the same runs, and checkpoints that know what they belong to."""

import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

import fpt_lightning
from conftest import Fpt, read_rows
from fpt_lightning.data.spec import TaskSpec
from fpt_lightning.errors import FPTError, UsageError
from fpt_lightning.models.backbones.choice import BackboneChoice
from fpt_lightning.models.fpt import FrozenPretrainedTransformer
from fpt_lightning.models.lora import LoraOptions
from fpt_lightning.training.artifacts.export import export_trained, load_trained

LAST, BEST = "checkpoints/last.ckpt", "checkpoints/best.ckpt"
NARROW, MIXED = "--model.frozen_dtype=bfloat16", "--trainer.precision=bf16-mixed"
TASK = TaskSpec("bits", max_length=10, classes=2, token_width=5)


@pytest.fixture
def words(tiny: list[str]) -> list[str]:
    return ["--config=bit_xor.yaml", "--data.batch_size=4", "--data.test_examples=20", *tiny]


def losses(folder: str) -> list[str]:
    return [row["train_loss"] for row in read_rows(Path(folder) / "metrics.csv") if row["train_loss"]]


def test_a_run_in_bf16_mixed_is_the_same_goes_on_and_answers(fpt: Fpt, words: list[str]) -> None:
    assert fpt("run", *words, MIXED, "--run_folder=wide") == 0
    assert fpt("run", *words, MIXED, NARROW, "--run_folder=narrow") == 0
    assert len(losses("wide")) == 4
    assert losses("narrow") == losses("wide")
    assert json.loads(Path("narrow/result.json").read_text())["frozen_dtype"] == "bfloat16"
    longer = "--trainer.max_steps=6"
    assert fpt("run", *words, MIXED, NARROW, longer, "--run_folder=whole") == 0
    assert fpt("run", "narrow", longer, "--overwrite") == 0
    one, other = (torch.load(f"{folder}/{LAST}", weights_only=True)["state_dict"] for folder in ("whole", "narrow"))
    assert all(torch.equal(value, other[name]) for name, value in one.items())
    assert fpt("predict", "narrow") == 0
    assert len(read_rows(Path("narrow/predictions.csv"))) == 20
    model = fpt_lightning.load("narrow")
    assert model.model.get_parameter("backbone.h.0.attn.c_attn.weight").dtype == torch.bfloat16
    assert model(torch.zeros(1, 10, 1)).dtype == torch.float32
    assert fpt("attention", "narrow", "--examples=4") == 0


@pytest.mark.parametrize("narrow", [False, True])
def test_a_checkpoint_of_the_other_is_refused(
    narrow: bool, fpt: Fpt, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    there, here = ("bfloat16", "float32") if narrow else ("float32", "bfloat16")
    words = [*words, MIXED, "--trainer.max_steps=2"]
    assert fpt("fit", *words, f"--model.frozen_dtype={there}", "--run_folder=run") == 0
    for command in ("fit", "test", "predict"):
        capsys.readouterr()
        assert fpt(command, *words, f"--model.frozen_dtype={here}", f"--ckpt_path=run/{LAST}") == 1
        error = capsys.readouterr().err
        assert f"was trained with model.frozen_dtype {there}, here it is {here}" in error
        assert error.endswith(f"or --model.frozen_dtype {there}.\n")


def test_a_body_that_bf16_holds_exactly_is_the_same_body(fpt: Fpt, words: list[str]) -> None:
    """That of pocket is stored in it: its runs and checkpoints do not tell the two apart."""
    words = [*words, "--model.backbone=pocket"]
    assert fpt("run", *words, "--run_folder=wide") == 0
    assert fpt("run", *words, NARROW, "--run_folder=narrow") == 0
    assert losses("narrow") == losses("wide")
    for options, folder in (([NARROW], "wide"), ([], "narrow")):
        assert fpt("test", *words, *options, f"--ckpt_path={folder}/{BEST}") == 0


def test_runs_of_a_pack(fpt: Fpt, words: list[str]) -> None:
    """As they are alone."""
    words = [*words, MIXED, NARROW, "--model.backbone_seed=0"]
    assert fpt("run", *words, "--pack=seed_everything=[0,1,2]", "--run_folder=pack") == 0
    for seed in range(3):
        assert fpt("run", *words, f"--seed_everything={seed}", f"--run_folder=alone{seed}") == 0
        for one, other in zip(losses(f"alone{seed}"), losses(f"pack/seed_everything={seed}"), strict=True):
            assert float(other) == pytest.approx(float(one), rel=2e-2)


def test_exported_parts_know_what_they_belong_to() -> None:
    narrow, wide = (FrozenPretrainedTransformer(TASK, BackboneChoice("tiny"), frozen_dtype=dtype)
                    for dtype in ("bfloat16", "float32"))  # fmt: skip
    path = export_trained(narrow, "trained.safetensors")
    load_trained(FrozenPretrainedTransformer(TASK, BackboneChoice("tiny"), frozen_dtype="bfloat16"), path)
    with pytest.raises(FPTError, match=r"It was trained with model\.frozen_dtype bfloat16\."):
        load_trained(wide, path)


@pytest.mark.parametrize("autocast", [False, True])
def test_adapters_train_in_fp32_beside_matrices_in_bf16(autocast: bool) -> None:
    model = FrozenPretrainedTransformer(
        TASK, BackboneChoice("tiny"), ["output"], lora=LoraOptions(rank=2), frozen_dtype="bfloat16"
    )
    before = {name: value.clone() for name, value in model.state_dict().items()}
    optimizer = torch.optim.Adam(model.trained_parameters().values(), lr=0.01)
    for _ in range(2):
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            F.cross_entropy(model(torch.ones(2, 10, 5)).flatten(0, 1).float(), torch.tensor([0, 1])).backward()
        optimizer.step()
    assert {parameter.dtype for parameter in model.trained_parameters().values()} == {torch.float32}
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == set(model.trained_parameters())
    assert model.get_parameter("backbone.h.0.attn.c_attn.base_layer.weight").dtype == torch.bfloat16


def test_another_type_is_refused(fpt: Fpt, words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert fpt("run", *words, "--model.frozen_dtype=float16") == 2
    assert "frozen_dtype" in capsys.readouterr().err
    with pytest.raises(UsageError, match=r"model\.frozen_dtype is one of float32, bfloat16, not 'int8'"):
        FrozenPretrainedTransformer(TASK, BackboneChoice("tiny"), frozen_dtype="int8")  # type: ignore[arg-type]
