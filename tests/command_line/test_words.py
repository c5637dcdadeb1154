"""Configs and run folders without an option before them, and the config of a run with every command."""

import json
import re
from pathlib import Path

import pytest
import yaml

from conftest import Fpt, read_rows
from fpt_lightning.command_line.words import with_configs_found
from fpt_lightning.config_files import shipped
from fpt_lightning.errors import FPTError, UsageError

BIT_XOR, MNIST = (str(shipped("configs") / name) for name in ("bit_xor.yaml", "mnist.yaml"))


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["bit_xor.yaml"], ["--config", BIT_XOR]),
        (
            ["bit_xor.yaml", "mnist.yaml", "--model.lr", "1"],
            ["--config", BIT_XOR, "--config", MNIST, "--model.lr", "1"],
        ),
        (["--trainer.max_steps", "-1", "mnist.yaml"], ["--config", MNIST, "--trainer.max_steps", "-1"]),
        (["--model.lr=1", "mnist.yaml"], ["--config", MNIST, "--model.lr=1"]),
        (["--model.lr=1", "--config", "mnist.yaml"], ["--config", MNIST, "--model.lr=1"]),
        (
            ["--model.lr=1", "--config=mnist.yaml", "-c", "bit_xor.yaml"],
            [f"--config={MNIST}", "-c", BIT_XOR, "--model.lr=1"],
        ),
        (["mnist.yaml", "--config"], ["--config", MNIST, "--config"]),
        (["--trainer.default_root_dir", "mnist.yaml"], ["--trainer.default_root_dir", "mnist.yaml"]),
        (["--print_config", "mnist.yaml"], ["--config", MNIST, "--print_config"]),
        (["--overwrite", "mnist.yaml"], ["--config", MNIST, "--overwrite"]),
        (["mnist.yaml", "--help", "data"], ["--config", MNIST, "--help", "data"]),
        (["-c", "mnist.yaml", "bit_xor.yaml"], ["-c", MNIST, "--config", BIT_XOR]),
    ],
    ids=lambda words: " ".join(words)[:30],
)
def test_a_word_that_is_no_value_is_a_config(words: list[str], expected: list[str]) -> None:
    Path("data").mkdir()  # where data.root is by default
    assert with_configs_found(["run", *words]) == ["run", *expected]


def test_a_word_that_is_nothing_is_said_to_be_no_config() -> None:
    with pytest.raises(UsageError, match=r"config 'mnsit.yaml' is neither .* did you mean 'mnist.yaml'"):
        with_configs_found(["run", "--model.lr=1", "mnsit.yaml"])
    Path("folder").mkdir()
    with pytest.raises(FPTError, match=r"folder has no config.yaml: it is not a run folder"):
        with_configs_found(["test", "folder"])


def test_a_command_is_about_one_run() -> None:
    for name in ("one", "other"):
        Path(name, "checkpoints").mkdir(parents=True)
        Path(name, "config.yaml").write_text("{}")
        Path(name, "checkpoints", "best.ckpt").touch()
    with pytest.raises(UsageError, match="fpt test is about one run, got one and other"):
        with_configs_found(["test", "one", "other"])
    words = ["--config", "one/config.yaml", "--run_folder", "one", "--ckpt_path", "last"]
    assert with_configs_found(["run", "one", "one/checkpoints/best.ckpt"])[1:7] == words


@pytest.fixture
def run_folder(fpt: Fpt, tiny: list[str]) -> Path:
    words = ["--data.validation_examples=20", "--data.test_examples=20", "--arm=mine", "--protocol=fair"]
    assert fpt("run", "bit_xor.yaml", *tiny, *words, "--run_folder=RUN") == 0
    return Path("RUN")


def test_answers_of_another_checkpoint_lie_beside_those_of_the_run(fpt: Fpt, run_folder: Path) -> None:
    assert fpt("predict", run_folder / "checkpoints" / "last.ckpt") == 0
    assert [path.name for path in run_folder.glob("predictions*")] == ["predictions-last.csv"]
    for name in ("best", "last"):
        words = ["--config", run_folder / "config.yaml", "--ckpt_path", run_folder / f"checkpoints/{name}.ckpt"]
        (run_folder / "predictions-last.csv").unlink(missing_ok=True)
        assert fpt("predict", *words) == 0
    assert sorted(path.name for path in run_folder.glob("predictions*")) == ["predictions-last.csv", "predictions.csv"]


def test_an_option_has_the_last_word_wherever_it_stands(fpt: Fpt, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match=r"^0$"):
        fpt("run", "--trainer.max_steps=7", "--seed_everything", "3", "bit_xor.yaml", "--print_config")
    config = yaml.safe_load(capsys.readouterr().out)
    assert (config["trainer"]["max_steps"], config["seed_everything"]) == (7, 3)


def test_a_checkpoint_without_a_name_has_its_usual_one(fpt: Fpt, tiny: list[str]) -> None:
    names = ["--checkpoint.filename=null", "--last_checkpoint.filename=null"]
    assert fpt("run", "bit_xor.yaml", *tiny, *names, "--run_folder=RUN") == 0
    assert {path.name for path in Path("RUN/checkpoints").iterdir()} == {"best.ckpt", "last.ckpt"}
    assert fpt("test", "RUN") == 0


def test_a_run_folder_is_enough_for_every_command(
    fpt: Fpt, run_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    accuracy = json.loads((run_folder / "result.json").read_text())["test_accuracy"]
    capsys.readouterr()
    assert fpt("test", run_folder) == 0
    measured = re.search(r"test_accuracy\W+([\d.]+)", capsys.readouterr().out)
    assert measured is not None
    assert float(measured[1]) == pytest.approx(accuracy)
    assert fpt("validate", run_folder / "checkpoints/last.ckpt") == 0
    for words in ([run_folder, "--predictions.path=answers.csv"], ["--predictions.path", "before.csv", run_folder]):
        assert fpt("predict", *words, "--data.test_examples=10") == 0
    assert Path("before.csv").read_bytes() == Path("answers.csv").read_bytes()
    assert len(read_rows(Path("answers.csv"))) == 10
    assert fpt("prepare", run_folder) == 0
    assert "20 test" in capsys.readouterr().out
    assert fpt("fit", run_folder, "--trainer.max_steps=6", "--overwrite") == 0
    steps = [row["step"] for row in read_rows(run_folder / "metrics.csv") if row["train_loss"]]
    assert steps == ["0", "1", "2", "3", "4", "5"]


@pytest.mark.parametrize("command", ["fit", "validate", "test", "predict", "prepare"])
def test_the_config_of_a_run_serves_every_command(fpt: Fpt, run_folder: Path, command: str) -> None:
    config = yaml.safe_load((run_folder / "config.yaml").read_text())
    assert config["arm"] == "mine"
    assert fpt(command, "--config", run_folder / "config.yaml") == 0
    if command == "fit":
        saved = yaml.safe_load(Path("runs/bit_xor/000/config.yaml").read_text())
        assert "arm" not in saved
        assert fpt("run", "--config=runs/bit_xor/000/config.yaml", "--run_folder=again") == 0


def test_an_option_of_another_command_is_refused_where_somebody_types_it(
    fpt: Fpt, run_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert fpt("predict", "--config", run_folder / "config.yaml", "--arm=other") == 2
    assert "there is no option 'arm'" in capsys.readouterr().err
    Path("typo.yaml").write_text("amr: mine\n")
    assert fpt("predict", run_folder, "typo.yaml") == 2
    assert "there is no option 'amr'" in capsys.readouterr().err
