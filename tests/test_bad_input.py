"""Wrong input ends at once, in two lines that name the cause and the way out, and leaves nothing behind."""

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from conftest import Fpt, write_table

XOR = "--config=bit_xor.yaml"
QUIET = ["--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false"]


def _error(capsys: pytest.CaptureFixture[str]) -> str:
    """What `fpt` said: one error of at most two lines, no traceback."""
    error = capsys.readouterr().err
    assert "Traceback" not in error
    message = error[error.index("fpt: error: ") :].rstrip("\n")
    assert message.count("fpt: error: ") == 1
    assert message.count("\n") <= 1, message
    assert len(message) < 700, message
    return message


@pytest.fixture(autouse=True)
def _nothing_left_behind(tmp_path: Path) -> Iterator[None]:
    yield
    assert not list(tmp_path.rglob("result.json"))
    assert not (tmp_path / "runs").exists()


USAGE = {
    "a command that does not exist": (["rum"], "no command is called 'rum'; did you mean 'run'?"),
    "no task": (["run"], "no task is chosen"),
    "a config that does not exist": (["run", "--config=bit_xorr.yaml"], "did you mean 'bit_xor.yaml'?"),
    "a trainer option": (
        ["run", XOR, "--trainer.max_stepz=3"],
        "no option 'trainer.max_stepz'; did you mean 'trainer.max_steps'?",
    ),
    "a part of an option": (["run", XOR, "--trainer.max_step=3"], "no option 'trainer.max_step'; did you mean"),
    "a part of an option of its own": (["run", XOR, "--seed=3"], "no option 'seed'"),
    "a part of an option of a table": (["report", "table2", "--prof", "smoke"], "there is no option '--prof'"),
    "a run folder that is not there": (["predict", "runs/nothing"], "there is no run folder or config runs/nothing"),
    "an option of nothing": (["run", XOR, "--lr=3"], "no option 'lr'"),
    "a data option": (["run", XOR, "--data.nn=3"], "data: BitXOR has no option 'nn'; did you mean 'n'?"),
    "a model option": (
        ["run", XOR, "--model.bakbone=tiny"],
        "model: FPTClassifier has no option 'bakbone'; did you mean 'backbone'?",
    ),
    "a model option without its value": (
        ["run", XOR, "--model.lr", "--seed_everything=1"],
        "--model, or an option of it such as --model.NAME, stands without its value",
    ),
    "help of a class that there is not": (["run", "--model.help", "Nosuch"], "fpt: error: no class is called 'Nosuch'"),
    "a data option of the wrong type": (["run", XOR, "--data.n=five"], "data.n: expected int, got 'five'"),
    "a trainer option of the wrong type": (
        ["run", XOR, "--trainer.max_steps=x"],
        "trainer.max_steps: expected int",
    ),
    "a model option of the wrong type": (
        ["run", XOR, "--model.lr=fast"],
        "model.lr: expected float, got 'fast'",
    ),
    "an initialization that does not exist": (["run", XOR, "--model.initialization=pretraind"], "pretraind"),
    "a task that does not exist": (["run", XOR, "--data=BitXORR"], "data: no class is called 'BitXORR'"),
    "a random seed": (["run", XOR, "--seed_everything=true"], "seed_everything"),
    "a negative seed": (["run", XOR, "--seed_everything=-1"], "between 0 and 2**32 - 1, got -1"),
    "a part that the body has not": (
        ["run", XOR, "--model.backbone=tiny", "--model.trainable=[input,output,recurrence]"],
        "model.trainable: this backbone has no recurrence",
    ),
    "adapters that nobody adds": (
        ["run", XOR, "--model.backbone=tiny", "--model.trainable=[output,lora]"],
        "model.trainable: this backbone has no lora",
    ),
    "an adapter by peft's names": (["run", XOR, "--model.lora={r: 4}"], "its fields are rank, alpha, parts"),
    "a part": (["run", XOR, "--model.trainable=[layernrom]"], "did you mean 'layernorm'?"),
    "sizes that do not fit": (["run", "--config=bit_memory.yaml", "--data.patch_size=7"], "does not divide"),
    "a sequence longer than the positions": (
        ["run", "--config=bit_memory.yaml", "--data.n=20000"],
        "the task has 2400 tokens, backbone 'small' only 2048 positions",
    ),
    "pretrained weights that do not exist": (
        ["run", XOR, "--model.initialization=pretrained"],
        "no pretrained weights",
    ),
    "no checkpoints to choose among": (["run", XOR, "--trainer.enable_checkpointing=false"], "chooses among"),
    "a rate that is no number": (["run", XOR, "--model.lr=.nan"], "model.lr must be a finite number, got nan"),
    "a rate of a part that is none": (
        ["run", XOR, "--model.part_lr={input: .nan}"],
        "model.part_lr.input must be a finite number, got nan",
    ),
    "a least improvement that is infinite": (
        ["fit", XOR, "--early_stopping.min_delta=.inf"],
        "early_stopping.min_delta must be a finite number, got inf",
    ),
    "a figure of no validation that chooses": (
        ["run", XOR, "--model.backbone=tiny", "--checkpoint.monitor=train_loss"],
        "checkpoint.monitor must be a figure such as val_loss, got train_loss",
    ),
    **{
        f"a checkpoint that is not the best: {words}": (["run", XOR, "--model.backbone=tiny", *words.split()], message)
        for words, message in {
            "--checkpoint.save_top_k=2": "leave checkpoint.save_top_k away",
            "--checkpoint.save_top_k=-1": "leave checkpoint.save_top_k away",
            "--checkpoint.save_last=true": "leave checkpoint.save_last away",
            "--checkpoint.every_n_train_steps=3": "leave checkpoint.every_n_train_steps away",
            "--checkpoint.filename=last": "two callbacks would write last.ckpt",
            "--last_checkpoint.filename=best": "two callbacks would write best.ckpt",
        }.items()
    },
    **{
        f"more than memory holds: {words}": (["run", XOR, *words.split("|")], message)
        for words, message in {
            "--data.n=2147483648": "data.n 2,147,483,648 with 1,000 examples to judge takes at least 16,000 GiB",
            "--data.test_examples=1" + "0" * 60: "examples to judge takes at least",
            "--model.architecture={n_layer: 1000, n_embd: 32768}": "backbone 'small' of 1,000 blocks takes at least 48,0",
            "--model.architecture={n_layer: 1000, n_inner: 262144}": "backbone 'small' of 1,000 blocks takes at least 50",
            "--model.backbone=lstm|--model.architecture={layers: 1000000}": "backbone 'lstm' takes at least 17,6",
        }.items()
    },
    "a thousand thousand processes": (
        ["run", XOR, "--data.num_workers=1000000"],
        "data.num_workers must be at most 1,000",
    ),
    "an arm of a megabyte": (
        ["run", XOR, "--arm=" + "x" * 10**5],
        "arm: a name has at most 200 characters, this one has",
    ),
    "an arm of control characters": (
        ["run", XOR, "--arm=\x1b[31mred"],
        r"arm: a name has no control characters, got '\x1b[31mred'",
    ),
    "a key twice": (
        ["run", XOR, "--model.architecture={n_layer: 1, n_layer: 2}"],
        "n_layer: expected once, it stands there twice",
    ),
    "a value within itself": (
        ["run", XOR, "--model.architecture={n_layer: &a [*a]}"],
        "expected a value, got an alias of what",
    ),
    "a run for a trial": (
        ["run", XOR, "--trainer.fast_dev_run=true", "--model.backbone=tiny"],
        "use fpt fit",
    ),
}


@pytest.mark.parametrize("case", USAGE)
def test_wrong_usage(fpt: Fpt, capsys: pytest.CaptureFixture[str], case: str) -> None:
    words, message = USAGE[case]
    assert fpt(*words, *(QUIET if len(words) > 1 else [])) == 2
    assert message in _error(capsys)


FILES = {
    "trainer: {max_stepz: 3}": "no option 'trainer.max_stepz'; did you mean 'trainer.max_steps'?",
    "model: {learning_rate: 3}": "model: FPTClassifier has no option 'learning_rate'",
    "data: {class_path: BitXOR, init_args: {nn: 3}}": "data: BitXOR has no option 'nn'; did you mean 'n'?",
    "modle: {lr: 3}": "no option 'modle.lr'; did you mean 'model",
    "trainer: [": "broken.yaml",
    "model:\n  lr: 3\n  dropout: 0\n  lr: 4": "broken.yaml: model.lr: expected once, it stands there twice, on lines 2 and 4",
    "model: &model\n  part_lr: *model": "broken.yaml: model.part_lr: expected a value, got an alias of what it stands in",
    "[a, b] and more": "broken.yaml is not YAML",
    "model: " + "[" * 5000: "broken.yaml is nested too deep",
    "a: &a [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]\n"
    + "\n".join(
        f"{new}: &{new} [{', '.join([f'*{old}'] * 10)}]" for old, new in pairwise("abcdefghi")
    ): "expected at most 100,000 values",
    "#" * 2**20: "expected at most 1,048,576 characters",
}


@pytest.mark.parametrize("content", FILES, ids=lambda content: content[:30])
def test_a_wrong_config_file(fpt: Fpt, capsys: pytest.CaptureFixture[str], content: str) -> None:
    Path("broken.yaml").write_text(content + "\n")
    assert fpt("run", XOR, "--config=broken.yaml", *QUIET) == 2
    assert FILES[content] in _error(capsys)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["--model.backbone=nobody/nothing"],
            "neither a folder here nor in the Hugging Face cache or hub",
        ),
        (["--model.backbone=gpt2"], "cached files).\nDownload it once"),
        (["--model.backbone=lsmt"], "did you mean 'lstm'?"),
        (["--model.backbone=."], "has no config.json"),
        (["--ckpt_path=nowhere.ckpt"], "there is no checkpoint nowhere.ckpt"),
        (["--model.trained_parts=nowhere.safetensors"], "nowhere.safetensors"),
        (
            ["--config=mnist.yaml", "--data.root=empty", "--data.download=false"],
            "not found in empty/MNIST/raw",
        ),
        (
            ["--config=cifar.yaml", "--data.root=empty", "--data.download=false"],
            "not found in empty/cifar-10-batches-py",
        ),
        (
            ["--config=image_folder.yaml", "--data.root=empty"],
            "there is no folder empty",
        ),
    ],
    ids=lambda value: value[-1] if isinstance(value, list) else None,
)
@pytest.mark.parametrize("command", ["run", "test"])
def test_something_is_missing(
    fpt: Fpt, capsys: pytest.CaptureFixture[str], command: str, words: list[str], message: str
) -> None:
    assert fpt(command, XOR, *words, *QUIET) == 1
    assert message in _error(capsys)


def test_damaged_weights(fpt: Fpt, capsys: pytest.CaptureFixture[str], gpt2_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "copy").mkdir()
    for file in gpt2_folder.iterdir():
        (tmp_path / "copy" / file.name).write_bytes(file.read_bytes()[:-50])
    (tmp_path / "copy" / "config.json").write_bytes((gpt2_folder / "config.json").read_bytes())
    assert fpt("run", XOR, "--model.backbone=copy", *QUIET) == 1
    assert "model.safetensors is damaged" in _error(capsys)


def test_a_download_that_fails(fpt: Fpt, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "fpt_lightning.data.images.mnist.MNIST.MIRRORS", ("http://127.0.0.1:9/", "http://127.0.0.1:9/b/")
    )
    assert fpt("prepare", "--config=mnist.yaml", "--data.root=empty") == 1
    assert "put the file into empty/MNIST/raw by hand" in _error(capsys)


def test_a_truncated_mnist_file(fpt: Fpt, capsys: pytest.CaptureFixture[str], mnist_root: Path) -> None:
    file = mnist_root / "MNIST/raw/t10k-labels-idx1-ubyte"
    file.write_bytes(file.read_bytes()[:-3])
    words = ["--config=mnist.yaml", f"--data.root={mnist_root}", "--model.backbone=tiny", *QUIET]
    assert fpt("run", *words) == 1
    assert "t10k-labels-idx1-ubyte has 35 bytes where its header promises 38" in _error(capsys)


LISTOPS = {
    "( ( ( [MAX 4 ) 3 ) ] )\t3": "basic_val.tsv, line 3: the target is 3 where the expression is worth 4",
    "( ( ( [MAX 4 ) 3 )": "basic_val.tsv, line 3: there is no tab",
    "( ( ( [MAXX 4 ) 3 ) ] )\t4": "basic_val.tsv, line 3: unknown token '[MAXX'",
    "( ( ( [MAX 4 ) 3 ) ] ] )\t4": "basic_val.tsv, line 3: the expression goes on behind its end",
    "[MAX " * 200_000 + "\t4": "basic_val.tsv, line 3: brackets nest deeper than 1,000",
}


@pytest.mark.parametrize("line", LISTOPS, ids=lambda line: line[:30])
def test_a_wrong_line_of_listops(fpt: Fpt, capsys: pytest.CaptureFixture[str], line: str) -> None:
    Path("official").mkdir()
    for name in ("train", "val", "test"):
        lines = ["Source\tTarget", *["( ( ( [MIN 4 ) 3 ) ] )\t3"] * 4]
        if name == "val":
            lines[2] = line
        Path(f"official/basic_{name}.tsv").write_text("\n".join(lines) + "\n")
    words = ["--config=listops.yaml", "--data.source=official", "--data.limit=100", "--model.backbone=tiny", *QUIET]
    assert fpt("run", *words) == 1
    assert LISTOPS[line] in _error(capsys)
    assert not Path("data").exists()


def test_more_listops_than_there_are(fpt: Fpt, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--config=listops.yaml", "--data.min_length=0", "--data.max_length=5", "--model.backbone=tiny", *QUIET]
    assert fpt("run", *words) == 2
    assert "of 100,000 different examples" in _error(capsys)


def test_a_batch_that_the_devices_cannot_share(fpt: Fpt, capsys: pytest.CaptureFixture[str], mnist_root: Path) -> None:
    words = ["--config=mnist.yaml", f"--data.root={mnist_root}", "--data.validation_examples=20", *QUIET]
    assert fpt("fit", *words, "--model.backbone=tiny", "--data.batch_size=50", "--run_folder=other") == 2
    assert "data.batch_size 50 is more than the 40 training examples" in _error(capsys)


def test_a_batch_that_no_memory_holds(fpt: Fpt, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--model.backbone=tiny", "--data.batch_size=2147483648", "--run_folder=other"]
    assert fpt("fit", XOR, *words, *QUIET) == 2
    assert "a batch of 2,147,483,648 examples takes at least 240 GiB of memory" in _error(capsys)


def test_ids_that_no_memory_has_room_for(fpt: Fpt, capsys: pytest.CaptureFixture[str]) -> None:
    file = write_table(Path("ids.csv"), {"x": [*range(19), 2**31 - 2], "label": ["a", "b"] * 10})
    words = ["--config=table.yaml", "--data.kind=ids", "--data.unknown=true", f"--data.train_file={file}", *QUIET]
    assert fpt("fit", *words) == 2
    error = _error(capsys)
    assert "an embedding for every id below 2,147,483,648" in error
    assert "data.kind words" in error


def test_debug_shows_the_traceback(fpt: Fpt) -> None:
    from fpt_lightning.errors import UsageError

    with pytest.raises(UsageError, match="no task"):
        fpt("run", "--debug")


def test_memory_that_runs_out_is_named(fpt: Fpt, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--model.backbone=two_layer", "--model.architecture={width: 109951162777600}"]
    assert fpt("run", XOR, *words, *QUIET) == 1
    assert "out of memory (can't allocate memory: you tried to allocate 4398046511104000 bytes" in _error(capsys)


def test_a_container_has_less_memory_than_its_machine(
    fpt: Fpt, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "memory.max").write_text(f"{2**20}\n")
    monkeypatch.setattr("fpt_lightning.machine.CGROUPS", (tmp_path / "none", tmp_path / "memory.max"))
    assert fpt("run", XOR, *QUIET) == 2
    assert "backbone 'small' of 4 blocks takes at least 14 MiB of memory, and there are 1 MiB" in _error(capsys)
