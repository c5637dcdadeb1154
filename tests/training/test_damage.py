"""What is kept of a training is believed only as it was written."""

import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from conftest import Fpt
from fpt_lightning.data.spec import TaskSpec
from fpt_lightning.errors import FPTError
from fpt_lightning.models.backbones.choice import BackboneChoice
from fpt_lightning.models.fpt import FrozenPretrainedTransformer
from fpt_lightning.training.artifacts.checkpoint import read_checkpoint
from fpt_lightning.training.artifacts.export import export_trained, load_trained

BITS = ("--config=bit_memory.yaml", "--data.n=20", "--data.patch_size=5", "--data.batch_size=4", "--run_folder=run")
Change = Callable[[bytes, random.Random], bytes]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """That of a training of three steps."""
    from fpt_lightning.main import main

    folder = tmp_path_factory.mktemp("trained") / "run"
    quiet = ["--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false", "--trainer.limit_val_batches=1"]
    words = [*BITS[:-1], *quiet, "--model.backbone=tiny", "--trainer.max_steps=3", f"--run_folder={folder}"]
    assert main(["fit", *words]) == 0
    return (folder / "checkpoints/last.ckpt").read_bytes()


def _same(ours: Any, theirs: Any) -> bool:
    if isinstance(ours, torch.Tensor):
        return isinstance(theirs, torch.Tensor) and torch.equal(ours, theirs)
    if isinstance(ours, dict):
        return list(ours) == list(theirs) and all(_same(ours[key], theirs[key]) for key in ours)
    if isinstance(ours, list | tuple):
        return len(ours) == len(theirs) and all(map(_same, ours, theirs))
    return type(ours) is type(theirs) and bool(ours == theirs)


def _flip(content: bytes, moments: random.Random) -> bytes:
    changed = bytearray(content)
    changed[moments.randrange(len(changed))] ^= 1 << moments.randrange(8)
    return bytes(changed)


def _cut(content: bytes, moments: random.Random) -> bytes:
    return content[: moments.randrange(len(content))]


def _scramble(content: bytes, moments: random.Random) -> bytes:
    place = moments.randrange(len(content))
    return content[:place] + moments.randbytes(moments.randrange(1, 40)) + content[place + moments.randrange(40) :]


def _repeat(content: bytes, moments: random.Random) -> bytes:
    first, second, third = (moments.randrange(len(content)) for _ in range(3))
    return content[:first] + content[min(second, third) : max(second, third)] + content[first:]


def _believed(content: bytes, changes: list[Change], count: int, read: Callable[[Path], Any]) -> tuple[int, int]:
    """How many of so many changed files are refused, and how many read as if nothing were changed."""
    moments, file = random.Random(0), Path("file")
    file.write_bytes(content)
    whole = read(file)
    said, equal = list[str](), 0
    for number in range(count):
        file.write_bytes(changes[number % len(changes)](content, moments))
        try:
            found = read(file)
        except FPTError as error:
            said.append(str(error))
        else:
            assert _same(found, whole), f"change {number} was believed"
            equal += 1
    assert all(text.startswith("file") and "\n" not in text for text in said), said
    return len(said), equal


TASK = TaskSpec("image", max_length=6, classes=3, token_width=4)


def _model() -> FrozenPretrainedTransformer:
    return FrozenPretrainedTransformer(TASK, BackboneChoice("tiny", seed=0), ["input", "output"])


def _read_trained(path: Path, model: FrozenPretrainedTransformer) -> dict[str, torch.Tensor]:
    """What the trained parts of the model, none of whose values it had before, are afterwards."""
    with torch.no_grad():
        for parameter in model.trained_parameters().values():
            parameter.fill_(torch.nan)
    load_trained(model, path)
    return {name: parameter.detach().clone() for name, parameter in model.trained_parameters().items()}


def test_no_flipped_bit_of_a_checkpoint_changes_a_tensor(checkpoint: bytes) -> None:
    refused, equal = _believed(checkpoint, [_flip], 300, read_checkpoint)
    assert refused > 200
    assert equal > 0, "padding and names that torch does not read"


@pytest.mark.slow
def test_no_mutated_checkpoint_is_believed(checkpoint: bytes) -> None:
    _believed(checkpoint, [_flip, _cut, _scramble, _repeat], 800, read_checkpoint)


def test_no_flipped_bit_of_trained_parts_changes_a_tensor() -> None:
    model = _model()
    content = export_trained(model, "trained.safetensors").read_bytes()
    refused, _ = _believed(content, [_flip, _cut], 300, lambda path: _read_trained(path, model))
    assert refused > 250


def test_trained_parts_are_the_same_bytes_again() -> None:
    model = _model()
    assert len({export_trained(model, f"{number}.safetensors").read_bytes() for number in range(8)}) == 1


def test_trained_parts_of_earlier_versions_are_read() -> None:
    model = _model()
    path = export_trained(model, "trained.safetensors")
    with safe_open(path, framework="pt") as file:
        frozen = file.metadata()["frozen"]
    save_file(load_file(path), "old.safetensors", metadata={"format": "pt", "frozen": frozen})
    assert _same(_read_trained(Path("old.safetensors"), model), _read_trained(path, model))


@pytest.mark.parametrize("damage", ["truncated", "empty", "text", "foreign", "a tensor alone"])
@pytest.mark.parametrize("word", ["last", "best", "run/checkpoints/last.ckpt"])
def test_a_run_does_not_go_on_from_what_is_none(
    fpt: Fpt, tiny: list[str], capsys: pytest.CaptureFixture[str], checkpoint: bytes, word: str, damage: str
) -> None:
    file = Path("run/checkpoints") / f"{'best' if word == 'best' else 'last'}.ckpt"
    file.parent.mkdir(parents=True)
    file.write_bytes({"truncated": checkpoint[:-500], "text": b"not one"}.get(damage, b""))
    if damage in ("foreign", "a tensor alone"):
        torch.save({"weights": torch.zeros(3)} if damage == "foreign" else torch.zeros(3), file)
    before = file.read_bytes()
    for command in ("run", "fit", "test"):
        assert fpt(command, *BITS, *tiny, f"--ckpt_path={word}") == 1
        error = capsys.readouterr().err
        assert f"fpt: error: {file} is not a checkpoint of fpt-lightning, or not whole (" in error
        assert "Traceback" not in error
        assert [path for path in Path("run").rglob("*") if path.is_file()] == [file]
        assert file.read_bytes() == before


def test_a_word_without_a_run_folder_is_refused(fpt: Fpt, tiny: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    for command in ("run", "test"):
        assert fpt(command, *BITS[:-1], *tiny, "--ckpt_path=last") == 2
        assert "--ckpt_path last is one of a run folder: add --run_folder RUN" in capsys.readouterr().err
    assert fpt("test", *BITS, *tiny, "--ckpt_path=last") == 1
    assert "there is no checkpoint run/checkpoints/last.ckpt" in capsys.readouterr().err


def test_last_is_the_best_where_a_kill_came_between_the_two(fpt: Fpt, tiny: list[str]) -> None:
    assert fpt("fit", *BITS, *tiny, "--trainer.max_steps=2") == 0
    shutil.copytree("run", "killed")
    Path("killed/checkpoints/last.ckpt").unlink()
    for folder in ("run", "killed"):
        assert fpt("fit", *BITS[:-1], *tiny, f"--run_folder={folder}", "--ckpt_path=last") == 0
    ours, theirs = (read_checkpoint(f"{folder}/checkpoints/last.ckpt") for folder in ("killed", "run"))
    assert ours["global_step"] == theirs["global_step"] == 4
    for name in ("state_dict", "optimizer_states", "random_states"):
        assert _same(ours[name], theirs[name]), name


def test_weights_alone_are_no_place_to_go_on(fpt: Fpt, tiny: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert fpt("fit", *BITS, *tiny, "--last_checkpoint.save_weights_only=true") == 0
    assert fpt("fit", *BITS, *tiny, "--trainer.max_steps=8", "--ckpt_path=last") == 2
    assert "this checkpoint holds weights alone" in capsys.readouterr().err
