"""An index of several weight files names safetensors files beside it, or the backbone is refused."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from conftest import Fpt

WORDS = ["fit", "bit_xor.yaml", "--trainer.max_steps=1", "--trainer.enable_progress_bar=false"]


class Trap:
    """What a pickle may do when it is read."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (Path.touch, (Path("executed"),))  # type: ignore[return-value]


@pytest.fixture
def sharded(gpt2_folder: Path, tmp_path: Path) -> Path:
    """The body in one shard with an index."""
    folder = tmp_path / "sharded"
    shutil.copytree(gpt2_folder, folder)
    (folder / "model.safetensors").rename(folder / "model-00001-of-00001.safetensors")
    from safetensors import safe_open

    with safe_open(folder / "model-00001-of-00001.safetensors", framework="pt") as file:
        names = list(file.keys())
    _write_index(folder, dict.fromkeys(names, "model-00001-of-00001.safetensors"))
    return folder


def _write_index(folder: Path, weight_map: object) -> None:
    index = {"metadata": {"total_size": 1}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def test_shards_are_read(fpt: Fpt, sharded: Path) -> None:
    assert fpt(*WORDS, f"--model.backbone={sharded}") == 0


@pytest.mark.parametrize("name", ["pytorch_model.bin", "../other.safetensors", "/etc/x.safetensors"])
def test_another_file_is_refused(fpt: Fpt, sharded: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    torch.save({"wte.weight": Trap()}, sharded / "pytorch_model.bin")
    _write_index(sharded, {"transformer.wte.weight": name})
    assert fpt(*WORDS, f"--model.backbone={sharded}") == 1
    error = capsys.readouterr().err
    assert f"model.safetensors.index.json names '{name}': only safetensors files beside it are read" in error
    assert not Path("executed").exists()


@pytest.mark.parametrize("weight_map", [None, [1], "x"])
def test_an_index_that_is_none(fpt: Fpt, sharded: Path, capsys: pytest.CaptureFixture[str], weight_map: object) -> None:
    _write_index(sharded, weight_map)
    assert fpt(*WORDS, f"--model.backbone={sharded}") == 1
    assert "model.safetensors.index.json is damaged" in capsys.readouterr().err
