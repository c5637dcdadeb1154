"""Initialisation part by part: which half of a block carries the transfer."""

from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
from test_families import MODELS
from torch import nn

from conftest import Fpt
from fpt_lightning.errors import UsageError
from fpt_lightning.models.backbones import build
from fpt_lightning.models.backbones.build import build_backbone, built_once
from fpt_lightning.models.backbones.choice import BackboneChoice
from fpt_lightning.models.parts import place_parameters


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("parts")
    for name in ("gpt2", "bert", "vit", "t5", "llama"):
        torch.manual_seed(1)
        model = MODELS[name]()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.1)
        model.save_pretrained(root / name)
    return {path.name: path for path in root.iterdir()}


def _body(folder: Path, initialization: Any, **options: Any) -> tuple[nn.Module, dict[str, str]]:
    built = build_backbone(BackboneChoice(str(folder), initialization, **options), 12, 0.0)
    names = [f"backbone.{name}" for name, _ in built.body.named_parameters()]
    places = place_parameters(names, built.family.parts, "")
    return built.body, {name.removeprefix("backbone."): place.part for name, place in places.items()}


@pytest.mark.parametrize(
    "chosen",
    [
        {"feedforward": "random"},
        {"attention": "pretrained", "feedforward": "random"},
        {"attention": "statistics", "feedforward": "random", "layernorm": "random"},
        {"positions": "random"},
    ],
    ids=str,
)
@pytest.mark.parametrize("name", ["gpt2", "bert", "vit", "t5", "llama"])
def test_every_tensor_is_that_of_its_parts_initialization(
    folders: dict[str, Path], name: str, chosen: dict[str, str]
) -> None:
    if name == "llama" and "positions" in chosen:
        pytest.skip("a llama has no positions that are parameters")
    mixed, parts = _body(folders[name], chosen, backbone_seed=3)
    whole = {kind: _body(folders[name], kind, seed=3)[0] for kind in ("pretrained", "random", "statistics")}
    for key, value in mixed.named_parameters():
        kind = chosen.get(parts[key], "pretrained")
        assert torch.equal(value, whole[kind].get_parameter(key)), key
        others = [body for other, body in whole.items() if other != kind]
        assert not any(torch.equal(value, body.get_parameter(key)) for body in others), key


def test_what_it_is_called(folders: dict[str, Path]) -> None:
    def words(initialization: Any) -> str:
        return BackboneChoice("gpt2", initialization).resolved_initialization

    assert (
        words({"feedforward": "random", "attention": "statistics"})
        == "pretrained, attention statistics, feedforward random"
    )
    assert words({"attention": "pretrained", "feedforward": "random"}) == words({"feedforward": "random"})
    assert words({"attention": "pretrained"}) == words({}) == words("pretrained") == "pretrained"
    assert (
        str(BackboneChoice("gpt2", {"feedforward": "random"}, seed=4))
        == "gpt2 (pretrained, feedforward random, seed 4)"
    )


@pytest.mark.parametrize(
    ("initialization", "message"),
    [
        ({"atention": "random"}, r"no part of this backbone is called 'atention'; did you mean 'attention'\?"),
        ({"output": "random"}, r"no part of this backbone is called 'output'\. Its parts are attention, feedforward"),
        ({"attention": "randm"}, r"is one of .*, not 'randm'; did you mean 'random'\?"),
        ("randm", r"is one of .*, not 'randm'; did you mean 'random'\?"),
        ({"attention": None}, r"is one of"),
    ],
    ids=str,
)
def test_a_name_that_is_none(folders: dict[str, Path], initialization: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        _body(folders["gpt2"], initialization)
    assert "\n" not in str(caught.value)


def test_parts_need_weights() -> None:
    with pytest.raises(UsageError, match="has no pretrained weights"):
        build_backbone(BackboneChoice("tiny", {"attention": "random"}), 12, 0.0)
    with pytest.raises(UsageError, match="cannot follow"):
        build_backbone(BackboneChoice("gpt2", {"attention": "random"}, {"n_layer": 2}), 12, 0.0)


def test_on_the_command_line(
    fpt: Fpt, tiny: list[str], folders: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--config=bit_xor.yaml", *tiny, f"--model.backbone={folders['gpt2']}", "--run_folder=run"]
    assert fpt("fit", *words, "--model.initialization={feedforward: random}") == 0
    assert fpt("fit", *words, "--model.initialization={feedforwad: random}") == 2
    assert "did you mean 'feedforward'?" in capsys.readouterr().err
    assert fpt("fit", *words, "--model.initialization=randm") == 2
    assert "did you mean 'random'?" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["gpt2", "t5", "lstm"])
@pytest.mark.parametrize(
    ("options", "drawn_anew"),
    [
        ({"seed": 2}, True),
        ({"seed": 2, "backbone_seed": 1}, False),
        ({"layers": "1:2"}, True),
        ({"initialization": "pretrained"}, True),
        ({"initialization": "pretrained", "seed": 2}, True),
    ],
    ids=str,
)
def test_a_body_that_was_built_is_copied_where_it_is_the_same(
    folders: dict[str, Path], name: str, options: dict[str, Any], drawn_anew: bool
) -> None:
    """Values and random numbers are those of bodies that are all built, and a copy has tensors of its own."""
    if name == "lstm" and "initialization" in options:
        pytest.skip("an lstm has no weights")
    usual: dict[str, Any] = {"initialization": "random", "seed": 1}
    choices = [BackboneChoice(str(folders.get(name, name)), **usual | more) for more in ({}, {}, options, options)]
    alone = [build_backbone(choice, 12, 0.0) for choice in choices]
    state = torch.get_rng_state()
    with built_once(), patch.object(build, "_built", wraps=build._built) as builds:
        first, *others = (build_backbone(choice, 12, 0.0) for choice in choices)
        assert builds.call_count == 1 + drawn_anew
    assert torch.equal(state, torch.get_rng_state())
    for own, built in zip(alone, [first, *others], strict=True):
        values = own.body.state_dict()
        assert values.keys() == built.body.state_dict().keys()
        assert all(torch.equal(value, built.body.state_dict()[key]) for key, value in values.items())
    for parameter in [*first.body.parameters(), *others[1].body.parameters()]:
        parameter.data.fill_(torch.nan)
    assert not any(parameter.isnan().any() for other in others[::2] for parameter in other.body.parameters())
    build_backbone(choices[0], 12, 0.0)
    assert builds.call_count == 1 + drawn_anew, "a copy is for the block"


def test_no_body_is_kept_for_which_there_is_little_room(folders: dict[str, Path]) -> None:
    """A pack holds two at a time while its runs are built, and would hold a third."""
    choice = BackboneChoice(str(folders["gpt2"]), seed=1)
    for memory, number in ((2**40, 1), (2**10, 3)):
        with (
            built_once(), patch.object(build, "usable_memory", lambda memory=memory: memory),
            patch.object(build, "_built", wraps=build._built) as builds,
        ):  # fmt: skip
            bodies = [build_backbone(choice, 12, 0.0).body for _ in range(3)]
        assert builds.call_count == number
        assert all(torch.equal(*pair) for pair in zip(bodies[0].parameters(), bodies[2].parameters(), strict=True))
