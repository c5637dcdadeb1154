"""The completion script of bash, as bash itself runs it."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from fpt_lightning.main import COMMANDS, main

pytest.importorskip("shtab")

COMPLETE = """
source ./script
function=$(complete -p fpt | sed 's/.*-F \\([^ ]*\\).*/\\1/')
COMP_WORDS=("$@"); COMP_CWORD=$(( $# - 1 ))
"$function" fpt "${@: -1}" "${@: -2:1}"
printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.fixture(scope="module")
def script(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import contextlib

    folder = tmp_path_factory.mktemp("completion")
    with (folder / "script").open("w") as file, contextlib.redirect_stdout(file):
        assert main(["completion", "bash"]) == 0
    (folder / "mine.yaml").touch()
    (folder / "runs").mkdir()
    return folder


@pytest.mark.skipif(shutil.which("bash") is None, reason="this machine has no bash")
@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["fpt", ""], set(COMMANDS)),
        (["fpt", "run", "bit"], {"bit_memory.yaml", "bit_xor.yaml"}),
        (["fpt", "run", "mi"], {"mine.yaml"}),
        (["fpt", "run", "--config", "backbones/gpt2_l"], {"backbones/gpt2_large.yaml"}),
        (["fpt", "run", "mnist.yaml", "--model.input_"], {"--model.input_dropout", "--model.input_initialization"}),
        (["fpt", "fit", "--data.patch"], {"--data.patch_size"}),
        (["fpt", "run", "--model.positions", ""], {"backbone", "whole", "new"}),
        (["fpt", "predict", "--trainer.max_"], {"--trainer.max_epochs", "--trainer.max_steps", "--trainer.max_time"}),
        (["fpt", "sweep", "--launcher", ""], {"local", "ray", "slurm"}),
        (["fpt", "report", "pock"], {"pocket"}),
        (["fpt", "sweep", "--dry-run", "pock"], {"pocket"}),
        (["fpt", "report", "pocket", "--folder", "run"], {"runs"}),
        (["fpt", "run", "--run_folder", "run"], {"runs"}),
        (["fpt", "report", "--experiments", "mi"], {"mine.yaml"}),
        (["fpt", "completion", ""], {"bash", "zsh"}),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bash_completes(script: Path, words: list[str], expected: set[str]) -> None:
    found = _completed(script, words)
    assert expected <= found
    if words[-1]:
        assert {word for word in found if word.startswith(words[-1])} == found


@pytest.mark.skipif(shutil.which("bash") is None, reason="this machine has no bash")
@pytest.mark.parametrize("command", ["attention", "analyze"])
def test_a_command_that_reads_a_run_is_offered_no_config(script: Path, command: str) -> None:
    assert _completed(script, ["fpt", command, ""]) == {"mine.yaml", "runs", "script"}  # what lies here


@pytest.mark.skipif(shutil.which("bash") is None, reason="this machine has no bash")
def test_one_table_is_all_that_a_command_takes(script: Path) -> None:
    assert not _completed(script, ["fpt", "sweep", "pocket", "pock"])
    assert "mnist.yaml" in _completed(script, ["fpt", "run", "mnist.yaml", "mnist"])


@pytest.mark.skipif(shutil.which("bash") is None, reason="this machine has no bash")
def test_a_name_of_a_table_is_a_word_and_no_command(capsys: pytest.CaptureFixture[str]) -> None:
    names = ["plain", "it's", 'say "hi"', "$(touch owned)", "`touch owned`", "two words"]
    table = {"title": "T", "source": "ours", "tasks": ["bit_xor"], "arms": {"a": {"backbone": "language"}}}
    declared = {
        "tasks": {"bit_xor": {"title": "bit-xor", "config": "bit_xor.yaml", "lr": 1e-3, "chance": 50}},
        "protocols": {"paper": {}},
        "profiles": {"laptop": {"backbones": {"language": {}}}},
        "tables": dict.fromkeys(names, table),
    }
    Path("experiments.yaml").write_text(json.dumps(declared))
    assert main(["completion", "bash"]) == 0
    Path("script").write_text(capsys.readouterr().out)
    assert _completed(Path(), ["fpt", "report", ""]) == {"plain"}
    assert not Path("owned").exists()


def _completed(folder: Path, words: list[str]) -> set[str]:
    """What bash offers in a folder for the last of these words."""
    command = ["bash", "--norc", "-c", COMPLETE, "bash", *words]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=folder)
    return set(done.stdout.split())


def test_a_shell_that_there_is_no_script_for(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", "cmd"]) == 2
    assert "invalid choice: 'cmd'" in capsys.readouterr().err
