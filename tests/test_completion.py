"""The completion script of bash, as bash itself runs it."""

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
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bash_completes(script: Path, words: list[str], expected: set[str]) -> None:
    command = ["bash", "--norc", "-c", COMPLETE, "bash", *words]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=script)
    assert expected <= set(done.stdout.split())
    if words[-1]:
        assert {word for word in done.stdout.split() if word.startswith(words[-1])} == set(done.stdout.split())


def test_a_shell_that_there_is_no_script_for(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", "cmd"]) == 2
    assert "invalid choice: 'cmd'" in capsys.readouterr().err
