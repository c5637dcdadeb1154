"""Small checkpoints: resume equals never stopping, and nothing loads where it does not belong."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import GPT2Config, GPT2Model

from conftest import Fpt, read_rows, write_table
from fpt_lightning.errors import FPTError
from fpt_lightning.main import main
from fpt_lightning.training.artifacts.checkpoint import read_checkpoint

LAST = "checkpoints/last.ckpt"


def _load(path: Path) -> dict[str, Any]:
    checkpoint: dict[str, Any] = torch.load(path, weights_only=True)
    return checkpoint


def _train(fpt: Fpt, folder: str, steps: int, *words: str, config: str = "bit_memory.yaml") -> Path:
    status = fpt(
        "fit",
        "--config",
        config,
        "--model.backbone=tiny",
        "--trainer.val_check_interval=3",
        "--trainer.limit_val_batches=1",
        "--trainer.log_every_n_steps=1",
        "--trainer.accelerator=cpu",
        "--trainer.enable_progress_bar=false",
        f"--trainer.max_steps={steps}",
        f"--run_folder={folder}",
        *words,
    )
    assert status == 0
    return Path(folder)


def _assert_same(left: Any, right: Any, where: str = "") -> None:
    """Bit for bit, through dicts and lists."""
    if isinstance(left, torch.Tensor):
        assert torch.equal(left, right), where
    elif isinstance(left, dict):
        assert left.keys() == right.keys(), where
        for key in left:
            _assert_same(left[key], right[key], f"{where}.{key}")
    elif isinstance(left, list | tuple):
        assert len(left) == len(right), where
        for index, pair in enumerate(zip(left, right, strict=True)):
            _assert_same(*pair, f"{where}[{index}]")
    else:
        assert left == right, where


BITS = ("--data.n=20", "--data.patch_size=5", "--data.batch_size=4")


def _mnist_words(root: Path) -> tuple[str, ...]:
    # 40 training images, 4 a batch: stopping at step 13 is in the middle of the second epoch
    return (f"--data.root={root}", "--data.validation_examples=20", "--data.batch_size=4")


@pytest.mark.parametrize("stop", [3, 13])
@pytest.mark.parametrize("task", ["bit_memory.yaml", "mnist.yaml", "cifar.yaml"])
def test_resuming_equals_never_stopping(fpt: Fpt, mnist_root: Path, cifar_root: Path, task: str, stop: int) -> None:
    """Of CIFAR-10, the augmentation too."""
    words = BITS if task == "bit_memory.yaml" else _mnist_words(mnist_root if task == "mnist.yaml" else cifar_root)
    whole = _train(fpt, "whole", 21, *words, config=task)
    part = _train(fpt, "part", stop, *words, config=task)
    _train(fpt, "part", 21, *words, f"--ckpt_path={part / LAST}", config=task)
    ours, theirs = _load(part / LAST), _load(whole / LAST)
    for key in ("state_dict", "optimizer_states", "random_states", "global_step", "epoch"):
        _assert_same(ours[key], theirs[key], key)
    assert ours["global_step"] == 21
    losses = [
        [(row["step"], row["train_loss"]) for row in read_rows(folder / "metrics.csv") if row["train_loss"]]
        for folder in (whole, part)
    ]
    assert losses[0] == losses[1]
    assert len(losses[0]) == 21


@pytest.mark.parametrize("stop", [4, 12])
def test_a_checkpoint_between_validations_resumes_as_exactly(fpt: Fpt, mnist_root: Path, stop: int) -> None:
    words = (*_mnist_words(mnist_root), "--last_checkpoint.every_n_train_steps=4")
    whole = _train(fpt, "whole", 16, *words, config="mnist.yaml")
    part = _train(fpt, "part", stop, *words, config="mnist.yaml")
    assert _load(part / LAST)["global_step"] == stop
    _train(fpt, "part", 16, *words, f"--ckpt_path={part / LAST}", config="mnist.yaml")
    for key in ("state_dict", "optimizer_states", "random_states", "global_step", "epoch"):
        _assert_same(_load(part / LAST)[key], _load(whole / LAST)[key], key)


def test_a_checkpoint_by_steps_passes_no_validation_over(fpt: Fpt, tiny: list[str]) -> None:
    """That of a step behind which a validation follows is written behind it."""
    words = ["--config=bit_xor.yaml", *tiny, "--model.lr=1e-30", "--last_checkpoint.every_n_train_steps=2"]
    assert fpt("run", *words, "--trainer.max_steps=6", "--run_folder=whole") == 0
    assert fpt("run", *words, "--trainer.max_steps=6", "--run_folder=part", "--pause_at=2") == 0
    assert fpt("run", *words, "--trainer.max_steps=6", "--run_folder=part", "--ckpt_path=last") == 0
    steps = [json.loads(Path(folder, "result.json").read_text())["best_step"] for folder in ("whole", "part")]
    assert steps == [2, 2]


def test_a_schedule_by_epochs_goes_on_amid_one(fpt: Fpt, mnist_root: Path) -> None:
    words = (*_mnist_words(mnist_root), "--lr_scheduler=StepLR", "--lr_scheduler.step_size=5", "--trainer.max_epochs=3")
    whole = _train(fpt, "whole", 21, *words, config="mnist.yaml")
    part = _train(fpt, "part", 13, *words, config="mnist.yaml")
    _train(fpt, "part", 21, *words, f"--ckpt_path={part / LAST}", config="mnist.yaml")
    for key in ("state_dict", "optimizer_states", "random_states", "global_step", "epoch"):
        _assert_same(_load(part / LAST)[key], _load(whole / LAST)[key], key)


def test_a_training_without_validation_leaves_its_last_state(fpt: Fpt) -> None:
    folder = _train(fpt, "run", 5, *BITS, "--trainer.limit_val_batches=0")
    assert _load(folder / LAST)["global_step"] == 5


def test_epochs_that_are_not_all_validated_end_with_a_validation(fpt: Fpt, mnist_root: Path) -> None:
    words = ("--trainer.check_val_every_n_epoch=2", "--trainer.val_check_interval=1.0", "--trainer.max_epochs=3")
    folder = _train(fpt, "run", -1, *_mnist_words(mnist_root), *words, config="mnist.yaml")
    rows = read_rows(folder / "metrics.csv")
    assert [row["step"] for row in rows if row["val_loss"]] == ["19", "29"]
    assert _load(folder / LAST)["global_step"] == 30


def test_a_run_killed_between_checkpoints_loses_only_the_steps_since(fpt: Fpt) -> None:
    whole = _train(fpt, "whole", 9, *BITS)
    part = _train(fpt, "part", 8, *BITS)  # the checkpoint is of step 6
    assert _load(part / LAST)["global_step"] == 6
    _train(fpt, "part", 9, *BITS, f"--ckpt_path={part / LAST}")
    _assert_same(_load(part / LAST)["state_dict"], _load(whole / LAST)["state_dict"])
    assert [row["step"] for row in read_rows(part / "metrics.csv") if row["train_loss"]] == [str(n) for n in range(9)]


def test_a_checkpoint_holds_what_trains_and_no_more(fpt: Fpt) -> None:
    checkpoint = _load(_train(fpt, "run", 3, *BITS) / LAST)
    names = {"input.weight", "input.bias", "output.weight", "output.bias", "backbone.wpe.weight"}
    names |= {f"backbone.{norm}.{kind}" for norm in ("ln_f", "h.0.ln_1", "h.0.ln_2") for kind in ("weight", "bias")}
    names |= {f"backbone.h.1.ln_{n}.{kind}" for n in (1, 2) for kind in ("weight", "bias")}
    assert set(checkpoint["state_dict"]) == {f"model.{name}" for name in names}
    assert len(checkpoint["optimizer_states"][0]["state"]) == len(names)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The last checkpoint of a run, for tests that only read it."""
    folder = tmp_path_factory.mktemp("trained") / "run"
    return _train(lambda *words: main([*words]), str(folder), 3, *BITS) / LAST


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--seed_everything=1",), "was trained on the frozen weights"),
        (("--data.patterns=4",), "is of another task: max_length 24 there, 20 here"),
        (("--model.trainable=[output]",), "holds other trained parts"),
        (("--model.architecture={activation_function: relu}",), "of another model.architecture"),
        (("--model.positions=whole",), "backbone.wpe.weight is only in one of them, or of another shape"),
    ],
)
@pytest.mark.parametrize("command", ["fit", "validate", "test", "predict"])
def test_a_checkpoint_of_something_else_is_refused(
    fpt: Fpt, capsys: pytest.CaptureFixture[str], trained: Path, command: str, words: tuple[str, ...], message: str
) -> None:
    common = ["--config=bit_memory.yaml", "--model.backbone=tiny", *BITS, "--trainer.accelerator=cpu"]
    status = fpt(command, *common, *words, f"--ckpt_path={trained}", "--trainer.enable_progress_bar=false")
    error = capsys.readouterr().err
    assert status == 1
    assert message in error
    assert "Traceback" not in error


def test_nor_where_the_config_of_a_folder_was_changed(
    fpt: Fpt, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    folder = tmp_path / "body"
    body = GPT2Model(GPT2Config(n_embd=16, n_layer=2, n_head=2, n_positions=64, vocab_size=8))
    body.save_pretrained(folder)
    words = (f"--model.backbone={folder}", *BITS)
    trained = _train(fpt, "run", 3, *words) / LAST
    told = ["test", "--config=run/config.yaml", f"--ckpt_path={trained}", "--trainer.enable_progress_bar=false"]
    body.config.bos_token_id, body.config.label2id = 3, {"cat": 0, "dog": 1}  # of which hidden states show nothing
    body.config.save_pretrained(folder)
    assert fpt(*told) == 0
    capsys.readouterr()
    body.config.layer_norm_epsilon, body.config.n_head = 0.1, 4  # of which weights show nothing
    body.config.save_pretrained(folder)
    assert fpt(*told) == 1
    error = capsys.readouterr().err
    assert "layer_norm_epsilon 1e-05 there, 0.1 here, n_head 2 there, 4 here" in error
    assert "config.json" in error


def test_the_refusal_names_both_frozen_weights(fpt: Fpt, capsys: pytest.CaptureFixture[str], trained: Path) -> None:
    words = ["--config=bit_memory.yaml", "--model.backbone=tiny", *BITS, "--seed_everything=1"]
    fpt("test", *words, f"--ckpt_path={trained}")
    error = capsys.readouterr().err
    assert "tiny (random, seed 0)" in error
    assert "tiny (random, seed 1)" in error


def test_validate_test_and_predict_read_the_checkpoint(fpt: Fpt, capsys: pytest.CaptureFixture[str]) -> None:
    folder = _train(fpt, "run", 3, *BITS)
    words = [
        f"--config={folder / 'config.yaml'}",
        f"--ckpt_path={folder / LAST}",
        "--trainer.enable_progress_bar=false",
    ]
    for command, figure in (("validate", "val_accuracy"), ("test", "test_accuracy")):
        capsys.readouterr()
        assert fpt(command, *words) == 0
        assert figure in capsys.readouterr().out
    assert fpt("predict", *words, "--data.test_examples=7", "--predictions.path=answers.csv") == 0
    rows = read_rows(Path("answers.csv"))
    assert len(rows) == 7
    assert {len(row["prediction"].split()) for row in rows} == {20}
    assert {path.name for path in Path().iterdir()} == {"run", "answers.csv"}, "no run folder for these commands"


@pytest.mark.parametrize("damage", ["missing", "truncated", "other"])
def test_a_damaged_checkpoint_is_named(fpt: Fpt, capsys: pytest.CaptureFixture[str], damage: str) -> None:
    last = _train(fpt, "run", 3, *BITS) / LAST
    if damage == "missing":
        last.unlink()
    elif damage == "truncated":
        last.write_bytes(last.read_bytes()[:2000])
    else:
        last.write_bytes(b"not a checkpoint")
    capsys.readouterr()
    status = fpt("test", "--config=bit_memory.yaml", "--model.backbone=tiny", *BITS, f"--ckpt_path={last}")
    error = capsys.readouterr().err
    assert status == 1
    assert "last.ckpt" in error
    assert "Traceback" not in error


@given(content=st.binary(max_size=200))
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_bytes_are_taken_for_a_checkpoint(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "some.ckpt"
    file.write_bytes(content)
    with pytest.raises(FPTError, match=r"some\.ckpt is not a checkpoint"):
        read_checkpoint(file)


def test_a_checkpoint_that_runs_code_is_refused(fpt: Fpt, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (tmp_path / "owned",)

    torch.save({"state_dict": Evil()}, "evil.ckpt")
    assert fpt("test", "--config=bit_xor.yaml", "--model.backbone=tiny", "--ckpt_path=evil.ckpt") == 1
    assert "evil.ckpt" in capsys.readouterr().err
    assert not (tmp_path / "owned").exists()


def test_a_checkpoint_of_weights_alone_is_chosen_and_tested_too(fpt: Fpt, tiny: list[str]) -> None:
    words = ["--config=bit_memory.yaml", *tiny, *BITS, "--checkpoint.save_weights_only=true"]
    assert fpt("run", *words, "--run_folder=run") == 0
    best = _load(Path("run/checkpoints/best.ckpt"))
    assert "optimizer_states" not in best
    result = json.loads(Path("run/result.json").read_text())
    assert best["validation"]["val_accuracy"] == result["val_accuracy"]
    assert "test_accuracy" in result


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("--model.lr=0.1", "model.lr was 0.001 up to this checkpoint and is 0.1 here"),
        ("--model.part_lr={input: 0.1}", "model.part_lr was None up to this checkpoint and is {'input': 0.1} here"),
        ("--model.dropout=0.2", "model.dropout was 0.1 up to this checkpoint and is 0.2 here"),
        ("--model.shuffle_tokens=true", "model.shuffle_tokens was False up to this checkpoint and is True here"),
        ("--data.batch_size=8", "data.batch_size was 4 up to this checkpoint and is 8 here"),
        (
            "--trainer.precision=bf16-mixed",
            "trainer.precision was 32-true up to this checkpoint and is bf16-mixed here",
        ),
        ("--seed_everything=1", "up to this checkpoint and is 1 here"),
        ("--trainer.limit_val_batches=2", "trainer.limit_val_batches was 1 up to this checkpoint and is 2 here"),
        (
            "--model.positions=new",
            "model.backbone was pretrained up to this checkpoint and is pretrained, new positions",
        ),
        ("--model.initialization={layernorm: statistics}", "is pretrained, layernorm statistics, seed 0 here"),
    ],
)
def test_a_run_goes_on_as_it_began(
    fpt: Fpt, capsys: pytest.CaptureFixture[str], gpt2_folder: Path, change: str, message: str
) -> None:
    words = [
        "--config=bit_memory.yaml",
        f"--model.backbone={gpt2_folder}",
        *BITS,
        "--trainer.enable_progress_bar=false",
    ]
    words += ["--trainer.accelerator=cpu", "--trainer.limit_val_batches=1", "--trainer.limit_test_batches=1"]
    assert fpt("run", *words, "--trainer.max_steps=2", "--run_folder=run") == 0
    kept = ("result.json", "config.yaml", "metrics.csv", LAST)
    before = [Path("run", name).read_bytes() for name in kept]
    capsys.readouterr()
    longer = [*words, "--trainer.max_steps=4", f"--ckpt_path=run/{LAST}", "--overwrite"]
    assert fpt("run", *longer, change) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "leave it as it was, or start another run" in error
    assert [Path("run", name).read_bytes() for name in kept] == before
    assert fpt("test", *words, change, f"--ckpt_path=run/{LAST}") == 0


@pytest.mark.parametrize("change", ["--trainer.precision=bf16-mixed", "--model.shuffle_tokens=true"])
def test_a_test_that_is_made_later_is_of_the_same_run(
    fpt: Fpt, tiny: list[str], capsys: pytest.CaptureFixture[str], change: str
) -> None:
    """Its figure stands in the result, which says how the run was trained."""
    assert fpt("run", "--config=bit_memory.yaml", *BITS, *tiny, "--run_folder=run", "--test=never") == 0
    before = Path("run/result.json").read_bytes()
    assert fpt("run", "run", "--test=only", change) == 2
    assert f"{change.split('=')[0].removeprefix('--')} was" in capsys.readouterr().err
    assert Path("run/result.json").read_bytes() == before
    assert fpt("run", "run", "--test=only") == 0
    assert "test_accuracy" in json.loads(Path("run/result.json").read_text())


OWN = """
from fpt_lightning import FPTClassifier

class Focal(FPTClassifier):
    def __init__(self, *args, gamma: float = 2.0, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self.gamma = gamma

class Other(Focal):
    pass
"""


def test_a_run_goes_on_with_the_class_and_the_options_that_are_ones_own(
    fpt: Fpt, tiny: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    Path("own_losses.py").write_text(OWN)
    words = ["--config=bit_memory.yaml", *BITS, "--model=own_losses.Focal", *tiny, "--run_folder=run"]
    assert fpt("fit", *words, "--model.gamma=1", "--trainer.max_steps=2") == 0
    for change, message in (
        (["--model.gamma=5"], "model.gamma was 1.0 up to this checkpoint and is 5.0 here"),
        (["--model=own_losses.Other", "--model.gamma=1"], "model was Focal up to this checkpoint and is Other here"),
        (["--model=FPTClassifier"], "model was Focal up to this checkpoint and is FPTClassifier here"),
    ):
        capsys.readouterr()
        assert fpt("fit", *words, *change, f"--ckpt_path=run/{LAST}") == 2
        assert message in capsys.readouterr().err
    assert fpt("fit", *words, "--model.gamma=1", f"--ckpt_path=run/{LAST}") == 0


def test_a_run_goes_on_with_its_data_and_its_steps(fpt: Fpt, capsys: pytest.CaptureFixture[str]) -> None:
    last = _train(fpt, "run", 3, *BITS) / LAST
    words = ["--config=bit_memory.yaml", "--model.backbone=tiny", *BITS, "--trainer.accelerator=cpu"]
    words += ["--trainer.enable_progress_bar=false", "--trainer.max_steps=6", "--trainer.val_check_interval=3"]
    for change, message in (
        ("--data_seed=9", "data_seed was 0 up to this checkpoint and is 9 here"),
        ("--data.test_examples=500", "the data was "),
        ("--trainer.accumulate_grad_batches=2", "trainer.accumulate_grad_batches was 1 up to this checkpoint and is 2"),
        ("--trainer.gradient_clip_val=0.1", "trainer.gradient_clip_val was 1.0 up to this checkpoint and is 0.1 here"),
        ("--trainer.gradient_clip_algorithm=value", "trainer.gradient_clip_algorithm was norm up to this checkpoint"),
        ("--checkpoint={monitor: val_loss, mode: min}", "checkpoint.monitor was val_accuracy up to this checkpoint"),
    ):
        capsys.readouterr()
        assert fpt("fit", *words, change, f"--ckpt_path={last}") == 2
        assert message in capsys.readouterr().err
    checkpoint = _load(last)  # what an earlier version did not keep is not asked of it
    del checkpoint["settings"], checkpoint["callbacks"]["SameData"]
    torch.save(checkpoint, last)
    assert fpt("fit", *words, "--data.test_examples=500", f"--ckpt_path={last}") == 0
    assert _load(last)["global_step"] == 6


def test_a_schedule_of_accumulation_is_gone_on_with(fpt: Fpt, mnist_root: Path) -> None:
    kind = "lightning.pytorch.callbacks.GradientAccumulationScheduler"
    schedule = json.dumps({"class_path": kind, "init_args": {"scheduling": {"0": 1, "1": 2}}})
    words = (*_mnist_words(mnist_root), f"--trainer.callbacks+={schedule}")  # 10 batches an epoch
    last = _train(fpt, "run", 13, *words, config="mnist.yaml") / LAST
    _train(fpt, "run", 15, *words, f"--ckpt_path={last}", config="mnist.yaml")
    assert _load(last)["global_step"] == 15


def test_a_split_that_is_cut_from_the_training_data_is_not_judged_on_other_data(
    fpt: Fpt, tiny: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    def table(name: str, rows: int) -> Path:
        columns: dict[str, list[object]] = {"x": list(range(rows)), "label": ["a", "b"] * (rows // 2)}
        return write_table(Path(name), columns)

    table("train.csv", 60)
    words = ["--config=table.yaml", *tiny, "--data.batch_size=4", "--run_folder=run", "--test=never"]
    assert fpt("run", *words) == 0
    untested = Path("run/result.json").read_bytes()
    assert fpt("predict", "run") == 0
    table("train.csv", 80)
    for words, split, way_out in (
        (["run", "run", "--test=only"], "test", "test RUN --data.test_file"),
        (["test", "run"], "test", "test RUN --data.test_file"),
        (["validate", "run"], "validation", "validate RUN --data.validation_file"),
        (["predict", "run"], "test", "predict RUN --data.predict_file"),
    ):
        capsys.readouterr()
        assert fpt(*words) == 2
        error = capsys.readouterr().err
        assert f"the {split} split may hold what was trained on" in error
        assert f"put it back as it was, or name other data: `fpt {way_out} FILE`" in error
    assert Path("run/result.json").read_bytes() == untested
    new = table("new.csv", 10)
    assert fpt("test", "run", f"--data.test_file={new}") == 0
    assert fpt("validate", "run", f"--data.validation_file={new}") == 0
    assert fpt("predict", "run", f"--data.predict_file={new}") == 0
    assert fpt("run", "run", "--test=only", f"--data.test_file={new}") == 2  # which would be the run's own figure
    table("train.csv", 60)
    assert fpt("test", "run") == 0
    assert fpt("run", "run", "--test=only") == 0


@pytest.mark.parametrize(
    ("config", "change", "command"),
    [
        ("listops.yaml", "--data.test_examples=40", "test"),
        ("mnist.yaml", "--data.split_seed=1", "validate"),
        ("mnist.yaml", "--data.validation_examples=12", "validate"),
    ],
)
def test_nor_where_it_is_cut_from_what_is_generated_or_published(
    fpt: Fpt,
    tiny: list[str],
    mnist_root: Path,
    capsys: pytest.CaptureFixture[str],
    config: str,
    change: str,
    command: str,
) -> None:
    """Examples of ListOps are drawn together, so that more to test on were mostly trained on."""
    expressions = ("train", 60), ("validation", 8), ("test", 8)
    listops = ["--data.min_length=5", "--data.max_length=30", *(f"--data.{s}_examples={n}" for s, n in expressions)]
    words = _mnist_words(mnist_root) if config == "mnist.yaml" else listops
    assert fpt("run", f"--config={config}", *words, *tiny, "--run_folder=run", "--data.batch_size=4") == 0
    assert fpt(command, "run") == 0
    assert fpt(command, "run", change) == 2
    error = capsys.readouterr().err
    assert f"the {'validation' if command == 'validate' else 'test'} split may hold what was trained on:" in error
    assert error.endswith("put it back as it was\n")
