"""The LSTMs of the paper and the controls, through the same door as every backbone."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fpt_lightning.data.spec import TaskSpec
from fpt_lightning.errors import UsageError
from fpt_lightning.models.backbones.build import build_backbone
from fpt_lightning.models.backbones.choice import BackboneChoice
from fpt_lightning.models.fpt import FrozenPretrainedTransformer

TASK = TaskSpec("words", max_length=12, classes=7, vocabulary_size=9)
SIZES = {
    "lstm": {"width": 24},
    "lstm_star": {"width": 24},
    "none": {},
    "two_layer": {"width": 24},
    "one_attention": {"width": 24, "heads": 3},
    "one_block": {"n_embd": 24, "n_head": 3},
}
NORMS = ("weight", "bias")
TRAINED = {
    "lstm": {*(f"layers.{n}.norm.{kind}" for n in range(3) for kind in NORMS), "norm.weight", "norm.bias"},
    "lstm_star": {
        "positions.weight",
        *(f"layers.{n}.norm.{kind}" for n in range(12) for kind in NORMS),
        *(f"norm.{kind}" for kind in NORMS),
    },
    "none": set(),
    "two_layer": set(),
    "one_attention": {"positions.weight", *(f"layers.0.norm.{kind}" for kind in NORMS), *(f"norm.{k}" for k in NORMS)},
    "one_block": {
        "wpe.weight",
        *(f"h.0.ln_{n}.{kind}" for n in (1, 2) for kind in NORMS),
        *(f"ln_f.{kind}" for kind in NORMS),
    },
}


def _model(name: str, trainable: str | list[str] | None = None, **options: object) -> FrozenPretrainedTransformer:
    choice = BackboneChoice(name, architecture=SIZES[name], **options)  # type: ignore[arg-type]
    parts = ["input", "output", "layernorm", "positions"] if trainable is None else trainable
    return FrozenPretrainedTransformer(TASK, choice, parts, dropout=0.0)


def _tokens() -> torch.Tensor:
    return torch.randint(9, (4, 12), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", SIZES)
def test_the_exact_names_that_train(name: str) -> None:
    trained = set(_model(name).trained_parameters())
    layers = {"input.weight", "output.weight", "output.bias"}
    layers = (
        layers - {"input.weight"} if name == "none" else layers | ({"input.bias"} if name == "two_layer" else set())
    )
    assert trained == layers | {f"backbone.{key}" for key in TRAINED[name]}


@pytest.mark.parametrize("name", SIZES)
def test_everything_takes_part_in_a_step(name: str) -> None:
    model = _model(name, "all")
    F.cross_entropy(model(_tokens()).flatten(0, 1), torch.zeros(4, dtype=torch.long)).backward()
    assert not [key for key, parameter in model.named_parameters() if parameter.grad is None]


@pytest.mark.parametrize("name", SIZES)
def test_bodies_follow_the_seed(name: str) -> None:
    first, same, other = (_model(name, seed=seed).state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(value, same[key]) for key, value in first.items())
    assert any(not torch.equal(value, other[key]) for key, value in first.items())


@pytest.mark.parametrize("name", SIZES)
def test_padding_does_not_reach_the_answer(name: str) -> None:
    model = _model(name).eval()
    mask = torch.arange(12) < torch.tensor([3, 12, 7, 1])[:, None]
    changed = torch.where(mask, _tokens(), (_tokens() + 1) % 9)
    torch.testing.assert_close(model(_tokens(), mask), model(changed, mask), atol=1e-6, rtol=0)


@pytest.mark.parametrize("name", ["none", "two_layer"])
def test_without_a_backbone_the_answer_depends_on_every_token(name: str) -> None:
    model = _model(name).eval()
    for place in range(12):
        other = _tokens()
        other[:, place] = (other[:, place] + 1) % 9
        assert (model(_tokens()) != model(other)).any(dim=(1, 2)).all()


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("ids", [False, True])
@pytest.mark.parametrize("name", ["none", "two_layer"])
def test_without_a_backbone_all_tokens_enter_as_one_vector(name: str, ids: bool, padded: bool) -> None:
    """Written out with one-hot vectors, on a batch that is shorter than the task may be."""
    sizes = {"vocabulary_size": 9} if ids else {"token_width": 9}
    task = TaskSpec("flat", 12, 7, answer_tokens=2, answers_per_token=3, **sizes)  # type: ignore[arg-type]
    model: Any = FrozenPretrainedTransformer(task, BackboneChoice(name, architecture=SIZES[name]))
    tokens = _tokens()[:, :10] if ids else torch.randn(4, 10, 9)
    mask = torch.arange(10) < torch.tensor([3, 10, 7, 2])[:, None]
    flat = F.pad((F.one_hot(tokens, 9) if ids else tokens).float(), (0, 0, 0, 2))
    if padded:
        flat[:, :10][~mask] = 0
    hidden = flat.flatten(1)
    for layer in [model.output] if name == "none" else [model.input, F.gelu, model.output]:
        if layer is F.gelu:
            hidden = F.gelu(hidden)
        else:
            weight = layer.weight.T if isinstance(layer, nn.Linear) else layer.weight
            hidden = hidden @ weight + layer.bias
    torch.testing.assert_close(model(tokens, mask if padded else None), hidden.view(4, 6, 7), atol=1e-5, rtol=1e-5)


def test_a_slice_of_layers() -> None:
    whole = build_backbone(BackboneChoice("lstm_star", architecture=SIZES["lstm"]), 12, 0.0).body
    part = build_backbone(BackboneChoice("lstm_star", architecture=SIZES["lstm"], layers="2:4"), 12, 0.0).body
    ours, theirs = part.get_submodule("layers"), whole.get_submodule("layers")
    assert len(ours) == 2  # type: ignore[arg-type]
    for index, layer in zip((2, 3), ours, strict=True):  # type: ignore[arg-type]
        assert torch.equal(layer.lstm.weight_ih_l0, theirs[index].lstm.weight_ih_l0)  # type: ignore[index]


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        (BackboneChoice("lstm", architecture={"widht": 3}), "did you mean 'width'"),
        (BackboneChoice("lstm", architecture={"width": 0}), "width is a whole number of at least 1"),
        (BackboneChoice("lstm", architecture={"width": "x"}), "width is a whole number of at least 1"),
        (BackboneChoice("lstm", architecture={"width": True}), "width is a whole number of at least 1"),
        (BackboneChoice("one_attention", architecture={"heads": 5}), "cannot have 5 heads"),
        (BackboneChoice("none", layers=1), "does not choose from the 0 blocks"),
        (BackboneChoice("none", architecture={"width": 3}), "has no field 'width'. Its fields are none"),
        (BackboneChoice("two_layer", architecture={"width": 0}), "width is a whole number of at least 1"),
        (BackboneChoice("two_layer", positions="new"), "has none, or new ones"),
        (BackboneChoice("lstm", layers=4), "does not choose from the 3 blocks"),
        (BackboneChoice("lstm", "pretrained"), "has no pretrained weights"),
        (BackboneChoice("lstm", positions="new"), "has none, or new ones"),
    ],
    ids=lambda value: value.name if isinstance(value, BackboneChoice) else None,
)
def test_a_choice_that_does_not_fit(choice: BackboneChoice, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        build_backbone(choice, 12, 0.0)


def test_shuffled_tokens_leave_only_the_set() -> None:
    """A model that reads the mean of all tokens answers the same; one that reads the order does not."""
    plain = _model("one_block").eval()
    shuffled = FrozenPretrainedTransformer(
        TASK, BackboneChoice("one_block", architecture=SIZES["one_block"]), dropout=0.0, shuffle_tokens=True
    ).eval()
    assert not torch.allclose(plain(_tokens()), shuffled(_tokens()))
    assert torch.equal(shuffled(_tokens()), shuffled(_tokens())), "evaluation repeats its orders"
    same = torch.full((4, 12), 3)
    torch.testing.assert_close(plain(same), shuffled(same))
