import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import yaml

from conftest import Fpt, read_rows
from fpt_lightning.data.bits import BitMemory
from fpt_lightning.data.spec import TaskSpec
from fpt_lightning.errors import UsageError
from fpt_lightning.training.artifacts.checkpoint import read_checkpoint
from fpt_lightning.training.classification import FPTClassifier
from fpt_lightning.training.trainer import FPTTrainer

TASK = TaskSpec("bits", max_length=10, classes=2, token_width=5)
NUMBER = TaskSpec("number", max_length=10, classes=None, token_width=5)
LAST = "checkpoints/last.ckpt"


@pytest.mark.parametrize(
    ("optimizer", "name"),
    [
        (None, "Adam"),
        ("AdamW", "AdamW"),
        ({"class_path": "torch.optim.SGD", "init_args": {"momentum": 0.9}}, "SGD"),
    ],
)
def test_every_trained_parameter_is_in_one_group_with_the_rate_of_its_part(optimizer: Any, name: str) -> None:
    part_lr = {"layernorm": 0.01, "positions": 0.001}
    model = FPTClassifier(TASK, "tiny", lr=0.1, part_lr=part_lr, optimizer=optimizer)
    built = model.configure_optimizers()
    assert isinstance(built, torch.optim.Optimizer)
    assert type(built).__name__ == name
    rates = {id(parameter): group["lr"] for group in built.param_groups for parameter in group["params"]}
    expected = {**part_lr, "input": 0.1, "output": 0.1}
    trained = model.model.trained_parameters()
    assert len(rates) == len(trained)
    for parameter_name, parameter in trained.items():
        assert rates[id(parameter)] == expected[model.model.places[parameter_name].part], parameter_name


@pytest.mark.parametrize(
    ("lr", "part_lr", "message"),
    [
        (0.0, {}, r"model\.lr must be above 0"),
        (0.1, {"layernorm": -1.0}, r"model\.part_lr\.layernorm must be above 0"),
        (0.1, {"attention": 0.1}, "no part 'attention' trains"),
        (0.1, {"layernrom": 0.1}, "did you mean 'layernorm'"),
    ],
)
def test_a_wrong_rate(lr: float, part_lr: dict[str, float], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        FPTClassifier(TASK, "tiny", lr=lr, part_lr=part_lr)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"optimizer": "Adma"}, "optimizer: no class is called 'Adma'; did you mean 'Adamax'"),
        ({"optimizer": "torch.nn.Linear"}, "torch.nn.Linear is no Optimizer"),
        ({"optimizer": "nowhere.Adam"}, "no class is called 'nowhere.Adam'"),
        ({"optimizer": {"class_path": "SGD", "init_args": {"lr": 0.1}}}, "learning rate is model.lr"),
        ({"optimizer": {"class_path": "SGD", "init_args": {"momentum": -1}}}, "SGD refuses: Invalid momentum"),
        ({"optimizer": {"class_path": "SGD", "init_args": {"beta": 1}}}, "SGD refuses: .*'beta'"),
        ({"optimizer": "SparseAdam"}, "all gradients here are dense"),
        ({"optimizer": "LBFGS", "part_lr": {"layernorm": 0.1}}, "LBFGS refuses: LBFGS doesn't support per-parameter"),
        ({"lr_scheduler": "CosineAnnealingLR"}, "CosineAnnealingLR refuses: .*T_max"),
        ({"lr_scheduler": {"class_path": "OneCycleLR", "init_args": {"max_lr": 1}}}, "leave lr_scheduler.max_lr away"),
        ({"lr_scheduler": {"class_path": "LambdaLR", "init_args": {"lr_lambda": abs}}}, "override .*configure_optim"),
        ({"warmup_steps": -1}, "model.warmup_steps must be at least 0, got -1"),
        ({"label_smoothing": 1.0}, "model.label_smoothing lies between 0 and 1"),
    ],
)
def test_what_no_run_could_go_on_with_is_refused_before_it_starts(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        FPTClassifier(TASK, "tiny", **options)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--optimizer=SGD", "--optimizer.lr=1"], "the learning rate is model.lr"),
        (["--lr_scheduler=OneCycleLR", "--lr_scheduler.max_lr=1"], "leave lr_scheduler.max_lr away"),
        (["--optimizer=Adma"], "optimizer: no class is called 'Adma'"),
        (["--optimizer=torch.nn.Linear"], "optimizer: expected Optimizer or null, got 'torch.nn.Linear'"),
        (["--optimizer=AdamW", "--optimizer.weight_decai=1"], "did you mean 'weight_decay'"),
        (["--lr_scheduler=CosineAnnealingLR"], "CosineAnnealingLR needs lr_scheduler.T_max"),
        (["--lr_scheduler=ReduceLROnPlateau", "--lr_scheduler.monitor=val_acc"], "did you mean 'val_accuracy'"),
        (
            ["--lr_scheduler=OneCycleLR", "--lr_scheduler.total_steps=3"],
            "OneCycleLR has 3 steps in all, trainer.max_steps is 4",
        ),
        (
            [
                "--lr_scheduler=OneCycleLR",
                "--lr_scheduler.epochs=1",
                "--lr_scheduler.steps_per_epoch=4",
                "--model.warmup_steps=1",
                "--trainer.max_steps=6",
            ],
            "OneCycleLR has 4 steps in all, trainer.max_steps is 6, less model.warmup_steps 1",
        ),
    ],
)
def test_the_command_line_says_so_in_a_line(
    fpt: Fpt, tiny: list[str], capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    assert fpt("run", "--config=bit_xor.yaml", *tiny, *words) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error
    assert not list(Path().rglob("result.json"))


def _rates(folder: str) -> list[float]:
    return [round(float(row["lr"]), 6) for row in read_rows(Path(folder) / "metrics.csv") if row["train_loss"]]


COSINE = ["--lr_scheduler=CosineAnnealingLR", "--lr_scheduler.T_max=2"]
ONE_CYCLE = ["--lr_scheduler=OneCycleLR", "--lr_scheduler.total_steps=4", "--lr_scheduler.anneal_strategy=linear"]
PLATEAU = ["--lr_scheduler=ReduceLROnPlateau", "--lr_scheduler.monitor=val_loss", "--lr_scheduler.threshold=0.9"]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (COSINE, [1e-3, 5e-4, 0.0, 5e-4]),
        (["--model.warmup_steps=4"], [2.5e-4, 5e-4, 7.5e-4, 1e-3]),
        (["--model.warmup_steps=2", *COSINE], [5e-4, 1e-3, 1e-3, 5e-4]),
        ([*ONE_CYCLE, "--lr_scheduler.pct_start=0.5"], [4e-5, 1e-3, 5e-4, 0.0]),
        ([*PLATEAU, "--lr_scheduler.patience=0", "--model.warmup_steps=2"], [5e-4, 1e-3, 1e-3, 1e-3, 1e-4, 1e-4]),
    ],
    ids=["cosine", "warm", "warm cosine", "one cycle", "warm plateau"],
)
def test_the_rate_of_every_step(fpt: Fpt, tiny: list[str], words: list[str], expected: list[float]) -> None:
    steps = f"--trainer.max_steps={len(expected)}"
    assert fpt("run", "--config=bit_xor.yaml", *tiny, *words, steps, "--run_folder=run") == 0
    assert _rates("run") == expected


def test_the_choice_is_in_config_result_and_checkpoint(fpt: Fpt, tiny: list[str]) -> None:
    chosen = ["--optimizer=AdamW", "--optimizer.weight_decay=0.25", *COSINE, "--model.part_lr={layernorm: 0.1}"]
    assert fpt("run", "--config=bit_xor.yaml", *tiny, *chosen, "--run_folder=run") == 0
    config = yaml.safe_load(Path("run/config.yaml").read_text())
    result = json.loads(Path("run/result.json").read_text())
    checkpoint = read_checkpoint("run/checkpoints/last.ckpt")
    for where in (config, result, checkpoint["hyper_parameters"]):
        assert where["optimizer"]["class_path"] == "torch.optim.AdamW"
        assert where["optimizer"]["init_args"]["weight_decay"] == 0.25
        assert where["lr_scheduler"]["init_args"]["T_max"] == 2
    groups = checkpoint["optimizer_states"][0]["param_groups"]
    assert sorted(group["initial_lr"] for group in groups) == [1e-3, 0.1]
    assert {group["weight_decay"] for group in groups} == {0.25}
    assert fpt("run", "--config=run/config.yaml", "--run_folder=again") == 0
    assert _rates("again") == _rates("run")


def test_nothing_changes_where_nothing_is_chosen(fpt: Fpt, tiny: list[str]) -> None:
    assert fpt("run", "--config=bit_xor.yaml", *tiny, "--run_folder=run") == 0
    assert "lr" not in read_rows(Path("run/metrics.csv"))[0]
    (state,) = read_checkpoint("run/checkpoints/last.ckpt")["optimizer_states"]
    (group,) = state["param_groups"]
    assert group["foreach"] is True
    assert "initial_lr" not in group


@pytest.mark.parametrize("words", [[*COSINE, "--model.warmup_steps=3"], PLATEAU, ["--optimizer=LBFGS"]], ids=str)
def test_resuming_goes_on_with_the_schedule(fpt: Fpt, tiny: list[str], words: list[str]) -> None:
    more = [*words, "--lr_scheduler.patience=0"] if words is PLATEAU else words
    call = ["run", "--config=bit_xor.yaml", *tiny, *more]
    assert fpt(*call, "--trainer.max_steps=8", "--run_folder=whole") == 0
    assert fpt(*call, "--trainer.max_steps=4", "--run_folder=part") == 0
    resumed = f"--ckpt_path=part/{LAST}"
    assert fpt(*call, "--trainer.max_steps=8", "--run_folder=part", "--overwrite", resumed) == 0
    whole, part = (read_checkpoint(f"{folder}/{LAST}") for folder in ("whole", "part"))
    assert whole["lr_schedulers"] == part["lr_schedulers"]
    for name, tensor in whole["state_dict"].items():
        assert torch.equal(tensor, part["state_dict"][name]), name


@pytest.mark.parametrize(
    ("words", "name"),
    [
        (["--optimizer=SGD"], "model.optimizer"),
        (["--optimizer=AdamW", "--optimizer.weight_decay=0.5"], "model.optimizer"),
        (["--optimizer=AdamW", *COSINE], "model.lr_scheduler"),
        (["--optimizer=AdamW", "--model.warmup_steps=3"], "model.warmup_steps"),
        (["--optimizer=AdamW", "--model.label_smoothing=0.1"], "model.label_smoothing"),
    ],
)
def test_a_change_on_resuming_is_refused(
    fpt: Fpt, tiny: list[str], capsys: pytest.CaptureFixture[str], words: list[str], name: str
) -> None:
    call = ["fit", "--config=bit_xor.yaml", *tiny, "--run_folder=run"]
    assert fpt(*call, "--optimizer=AdamW") == 0
    capsys.readouterr()
    assert fpt(*call, *words, "--trainer.max_steps=8", f"--ckpt_path=run/{LAST}") == 2
    assert f"{name} was " in capsys.readouterr().err


def test_a_language_model_has_an_optimizer_of_its_own(
    fpt: Fpt, small_language: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert fpt("fit", *small_language, "--optimizer=SGD") == 2
    assert "LanguageModel has optimizer and rates of its own: leave --optimizer away" in capsys.readouterr().err


class Focal(FPTClassifier):
    """The focal loss of Lin et al. 2017."""

    def __init__(self, *args: Any, gamma: float = 2.0, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.gamma = gamma

    def loss(self, logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        each = F.cross_entropy(logits, target, reduction="none")
        return ((1 - (-each).exp()) ** self.gamma * each).mean()


def test_another_loss_is_that_of_training_validation_and_test(fpt: Fpt, tiny: list[str]) -> None:
    figures = {}
    for gamma in (0, 8):  # at 0 it is the cross-entropy
        model = ["--model=test_optimizer.Focal", *tiny, f"--model.gamma={gamma}", "--model.lr=1e-8"]
        assert fpt("run", "--config=bit_xor.yaml", *model, f"--run_folder=run{gamma}") == 0
        result = json.loads(Path(f"run{gamma}/result.json").read_text())
        assert result["gamma"] == gamma
        first = float(read_rows(Path(f"run{gamma}/metrics.csv"))[0]["train_loss"])
        figures[gamma] = first, result["val_loss"], result["test_loss"]
    for plain, focal in zip(figures[0], figures[8], strict=True):
        assert focal < plain / 10


def test_smoothing_changes_the_loss_of_training_alone() -> None:
    logits, target = torch.randn(6, 2, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1, 0, 1, 1, 1])
    model = FPTClassifier(TASK, "tiny", label_smoothing=0.3)
    assert torch.equal(model.train().loss(logits, target), F.cross_entropy(logits, target, label_smoothing=0.3))
    assert torch.equal(model.eval().loss(logits, target), F.cross_entropy(logits, target))
    with pytest.raises(UsageError, match=r"model\.label_smoothing .* answers with numbers"):
        FPTClassifier(NUMBER, "tiny", label_smoothing=0.3)


def test_lbfgs_learns() -> None:
    data = BitMemory(n=8, patterns=2, patch_size=4, batch_size=64)
    model = FPTClassifier(data.task, "none", optimizer="LBFGS", lr=0.1, trainable=["output"])
    trainer = FPTTrainer(max_steps=4, accelerator="cpu", logger=False, enable_checkpointing=False,
                         enable_progress_bar=False, enable_model_summary=False, limit_val_batches=0)  # fmt: skip
    batch = data.sample(64, torch.device("cpu"))
    before = model.loss(model(batch.tokens).flatten(0, 1), batch.target.flatten()).item()
    trainer.fit(model, data)
    assert model.loss(model(batch.tokens).flatten(0, 1), batch.target.flatten()).item() < before - 0.01


@pytest.mark.skipif(torch.cuda.is_available(), reason="where there is a GPU it is found once")
def test_no_step_looks_for_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """As Adam has torch do, by loading the driver's library."""
    looked: list[int] = []
    data = BitMemory(n=8, patterns=2, patch_size=4, batch_size=4)
    trainer = FPTTrainer(max_steps=4, accelerator="cpu", logger=False, enable_checkpointing=False,
                         enable_progress_bar=False, limit_val_batches=0)  # fmt: skip
    monkeypatch.setattr(torch.cuda, "_device_count_nvml", lambda: looked.append(trainer.global_step) or -1)
    trainer.fit(FPTClassifier(data.task, backbone="tiny"), datamodule=data)
    assert trainer.global_step == 4
    assert set(looked) <= {0}
    assert len(looked) < 4
