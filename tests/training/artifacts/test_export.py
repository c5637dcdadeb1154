import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from fpt_lightning.data.spec import TaskSpec
from fpt_lightning.errors import FPTError
from fpt_lightning.models.backbones.choice import BackboneChoice
from fpt_lightning.models.fpt import FrozenPretrainedTransformer
from fpt_lightning.training.artifacts.export import export_trained, load_trained

TASK = TaskSpec("image", max_length=6, classes=3, token_width=4)


def _model(seed: int = 0, trainable: str | list[str] = "output", task: TaskSpec = TASK) -> FrozenPretrainedTransformer:
    return FrozenPretrainedTransformer(task, BackboneChoice("tiny", seed=seed), trainable)


def test_there_and_back() -> None:
    model = _model()
    with torch.no_grad():
        model.output.weight.add_(1)
    path = export_trained(model, "out/trained.safetensors")
    assert set(load_file(path)) == {"output.weight", "output.bias"}
    other = _model()
    load_trained(other, path)
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, dict(other.named_parameters())[name])


def test_the_json_says_what_it_belongs_to() -> None:
    model = _model()
    path = export_trained(model, "trained.safetensors", ["a", "b", "c"])
    card = json.loads(path.with_suffix(".json").read_text())
    assert card["task"] == TASK.as_dict()
    assert card["backbone"] == "tiny (random, seed 0)"
    assert card["frozen"] == model.frozen_hash()
    assert card["class_names"] == ["a", "b", "c"]
    assert card["trained"] == {"output.weight": [3, 32], "output.bias": [3]}


def test_a_name_with_a_dot_keeps_all_of_it() -> None:
    for name in ("parts.v1", "parts.v2", "parts.json"):
        load_trained(_model(), export_trained(_model(), f"out/{name}"))
        assert Path("out", f"{name}.json").is_file()
    assert len(list(Path("out").iterdir())) == 6


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"seed": 1}, "was trained on the frozen weights"),
        ({"trainable": ["output", "input"]}, "input.bias differs"),
        ({"task": TaskSpec("image", max_length=6, classes=4, token_width=4)}, "output.bias differs"),
    ],
)
def test_parts_of_another_model_are_refused(other: dict[str, object], message: str) -> None:
    path = export_trained(_model(), "trained.safetensors")
    model = _model(**other)  # type: ignore[arg-type]
    before = model.output.weight.detach().clone()
    with pytest.raises(FPTError, match=message):
        load_trained(model, path)
    assert torch.equal(before, model.output.weight)


def test_parts_of_the_same_weights_under_another_config_are_refused() -> None:
    path = export_trained(_model(), "trained.safetensors")
    choice = BackboneChoice("tiny", architecture={"layer_norm_epsilon": 0.1})
    with pytest.raises(FPTError, match=r"another config.*layer_norm_epsilon 1e-05 there, 0\.1 here"):
        load_trained(FrozenPretrainedTransformer(TASK, choice, "output"), path)


def test_a_damaged_file_is_named() -> None:
    path = export_trained(_model(), "trained.safetensors")
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(FPTError, match=r"trained\.safetensors: no trained parts"):
        load_trained(_model(), path)


def test_a_foreign_file_is_refused() -> None:
    model = _model()
    tensors = {name: parameter.detach() for name, parameter in model.trained_parameters().items()}
    save_file(tensors, "foreign.safetensors")
    with pytest.raises(FPTError, match="frozen weights None"):
        load_trained(model, Path("foreign.safetensors"))
