"""Values that a type allows and no run could work with: refused in a line that names the option, before anything runs."""

from pathlib import Path

import pytest
import torch

from conftest import Fpt

OPTIONS = {
    "trainer.accumulate_grad_batches=0": "trainer.accumulate_grad_batches must be at least 1, got 0",
    "trainer.max_steps=0": "trainer.max_steps must be at least 1, or -1 for no limit, got 0",
    "trainer.max_steps=-1": "bit_xor is generated without end and has no epochs",
    "trainer.max_epochs=3": "set trainer.max_steps to say how long it trains, and leave trainer.max_epochs away",
    "trainer.max_epochs=0": "trainer.max_epochs must be at least 1, or -1 for no limit, got 0",
    "trainer.val_check_interval=0": "trainer.val_check_interval must be above 0, got 0",
    "trainer.check_val_every_n_epoch=0": "trainer.check_val_every_n_epoch must be at least 1, got 0",
    "trainer.limit_train_batches=0": "trainer.limit_train_batches must be above 0, got 0",
    "trainer.gradient_clip_val=-1": "trainer.gradient_clip_val must be at least 0, got -1",
    "trainer.gradient_clip_val=x": "trainer.gradient_clip_val: expected int, float or null, got 'x'",
    "trainer.num_nodes=0": "trainer.num_nodes must be at least 1, got 0",
    "trainer.devices=1.5": "trainer: `devices` selected with `CPUAccelerator` should be an int > 0",
    "trainer.devices=5000": "trainer.devices 5000: this machine has",
    "trainer.accelerator=nope": "trainer: You selected an invalid accelerator name",
    "trainer.accelerator=tpu": "trainer: Requirement 'torch_xla",
    "trainer.val_check_interval=1.0": "; add for a share of an epoch --trainer.check_val_every_n_epoch 1",
    "trainer.strategy=nope": "trainer: You selected an invalid strategy name",
    "trainer.strategy=ddp_spawn": "trainer.strategy ddp_spawn trains in processes of its own: use ddp",
    "trainer.strategy=ddp_notebook": "trainer.strategy ddp_notebook trains in processes of its own: use ddp",
    "trainer.limit_test_batches=0.0001": "trainer.limit_test_batches 0.0001 of 4 batches is none: say 0.25 or more",
    "trainer.precision=8": "trainer.precision: expected 64, 32, 16,",
    "trainer.precision=bf17": "'32-true', '64-true', 'bf16' or null, got 'bf17'",
    "trainer.callbacks=[3]": "trainer.callbacks: expected Callback, got '3'",
    "trainer.callbacks=[{class_path: lightning.pytorch.callbacks.ModelCheckpoint}]": "trainer: Found more than one",
    "trainer.callbacks=[{class_path: lightning.pytorch.callbacks.EarlyStopping, init_args: {monitor: nope}}]": "trainer.callbacks.monitor is one of",
    "trainer.callbacks=[{class_path: lightning.pytorch.callbacks.Timer, init_args: {duration: x}}]": "Timer: ",
    "trainer.callbacks=[{class_path: EMAWeightAveraging}]": "trainer.callbacks: EMAWeightAveraging needs all weights in",
    "trainer=3": "trainer holds options, or names a file that does; got",
    "checkpoint.monitor=nope": "checkpoint.monitor is one of val_loss, val_accuracy, not 'nope'",
    "checkpoint.monitor=val_loss": "checkpoint.monitor val_loss is better the smaller it is: set checkpoint.mode min",
    "early_stopping.mode=min": "early_stopping.monitor val_accuracy is better the larger it is: set early_stopping.mode",
    "checkpoint.mode=nope": "checkpoint.mode is one of min, max, not 'nope'",
    "checkpoint.filename={x": "checkpoint.filename '{x' is no pattern of a name",
    "checkpoint.save_on_exception=true": "checkpoint.save_on_exception saves a half-made step as if it were validated",
    "last_checkpoint.save_top_k=-2": "last_checkpoint.save_top_k must be at least -1, got -2",
    "early_stopping.monitor=train_loss": "early_stopping.monitor is one of val_loss, val_accuracy, not 'train_loss'",
    "early_stopping.patience=-1": "early_stopping.patience must be at least 0, got -1",
    "progress.refresh_rate=-1": "progress.refresh_rate must be at least 0, got -1",
    "model.lr=null": "model.lr: expected float, got null",
    "model.backbone=null": "model.backbone: expected str, got null",
    "model.layers=[1]": "model.layers: expected str, int or null, got '[1]'",
    "model.architecture=3": "model.architecture: expected dict[str, Any] or null, got '3'",
    "model.architecture={1: 2}": "model.architecture: gpt2 has no field '1'",
    "model.architecture={n_layer: -1}": "model.architecture does not make a gpt2: n_layer is 1 to 1,000, got -1",
    "model.architecture={n_head: 0}": "model.architecture does not make a gpt2: n_head is 1 to 4,096, got 0",
    "model.architecture={n_inner: 0}": "model.architecture does not make a gpt2: n_inner is 1 to 262,144, got 0",
    "model.architecture={n_embd: [32]}": "model.architecture: Field 'n_embd' expected int, got list",
    "model.architecture={n_layer: null}": "model.architecture: Field 'n_layer' expected int, got NoneType",
    "model.architecture={model_type: bert}": "model.architecture: gpt2 has no field 'model_type'",
    "model.architecture={dtype: float99}": "model.architecture: gpt2 has no field 'dtype'",
    "model.task=3": "model.task: no class is called '3'",
    "model=[]": "model: expected LightningModule, got '[]'",
    "data.batch_size=null": "data.batch_size: expected int, got null",
}  # fmt: skip


def _error(capsys: pytest.CaptureFixture[str]) -> str:
    error = capsys.readouterr().err
    message = error[error.index("fpt: error: ") :].rstrip("\n")
    assert message.count("\n") <= 1, message
    assert len(message) < 700, message
    return message


@pytest.mark.parametrize("option", OPTIONS)
def test_a_value_on_the_command_line(fpt: Fpt, capsys: pytest.CaptureFixture[str], option: str) -> None:
    words = ["--model.backbone=tiny", "--trainer.accelerator=cpu", "--trainer.max_steps=100", f"--{option}"]
    assert fpt("fit", "bit_xor.yaml", *words, "--trainer.enable_progress_bar=false") == 2
    assert OPTIONS[option] in _error(capsys)
    if "bit_xor is" not in OPTIONS[option] and "trainer.max_epochs away" not in OPTIONS[option]:  # known by its data
        assert not Path("runs").exists()


FILES = {
    "trainer: null": "trainer holds options, each with its value; got null",
    "trainer: 3": "trainer holds options, each with its value; got 3",
    "checkpoint: [1]": "checkpoint holds options, each with its value; got [1]",
    "data: null": "no task is chosen",
    "data: 3": "data: expected FPTDataModule, got '3'",
    "model: null": "model is null: leave it out, or name a class",
    "model: 3": "model: expected LightningModule, got '3'",
    "model: {init_args: 3}": "model: init_args holds the options of FPTClassifier, each with its value",
    "model: {class_path: os.system}": "model: os.system is not a LightningModule",
    "data: {class_path: BitXOR, init_args: null}": "data: init_args holds the options of BitXOR, each with its value",
    "null": "a config holds options, such as `trainer: {max_steps: 100}`; got 'null'",
    "[1]": "a config holds options, such as `trainer: {max_steps: 100}`; got '[1]'",
    f"model: {{positions: {'x' * 3000}}}": "model.positions: expected 'backbone', 'whole' or 'new', got 'xxx",
}


@pytest.mark.skipif(torch.cuda.is_available() or torch.backends.mps.is_available(), reason="this machine has one")
def test_a_machine_without_a_gpu(fpt: Fpt, capsys: pytest.CaptureFixture[str]) -> None:
    assert fpt("fit", "bit_xor.yaml", "--model.backbone=tiny", "--config=trainer/gpu.yaml") == 2
    assert "No supported gpu backend found!; add --trainer.accelerator cpu" in _error(capsys)


@pytest.mark.parametrize("content", FILES, ids=lambda content: content[:40])
def test_a_value_in_a_config(fpt: Fpt, capsys: pytest.CaptureFixture[str], content: str) -> None:
    Path("wrong.yaml").write_text(content + "\n")
    assert fpt("fit", "bit_xor.yaml", "wrong.yaml", "--trainer.enable_progress_bar=false") == 2
    assert FILES[content] in _error(capsys)
    assert not Path("runs").exists()


def test_a_name_does_not_command_the_terminal(fpt: Fpt, capsys: pytest.CaptureFixture[str]) -> None:
    assert fpt("run", "\x1b[31mred\x1b]0;title\x07.yaml") == 2
    error = capsys.readouterr().err
    assert "\\x1b[31mred\\x1b]0;title\\x07.yaml" in error
    assert "\x1b" not in error
