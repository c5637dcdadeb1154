import pytest

from fpt_lightning.errors import FPTError, UsageError
from fpt_lightning.models.parts import PAPER, Place, place_parameters, select

NAMES = [
    "input.weight",
    "input.bias",
    "backbone.wpe.weight",
    *(
        f"backbone.h.{layer}.{name}"
        for layer in range(3)
        for name in ("ln_1.weight", "ln_2.bias", "attn.c_attn.weight", "attn.c_proj.bias", "mlp.c_fc.weight")
    ),
    "backbone.ln_f.weight",
    "output.weight",
]
PLACES = place_parameters(NAMES, "gpt2")


def test_every_parameter_has_its_place() -> None:
    assert PLACES["input.bias"] == Place("input")
    assert PLACES["backbone.wpe.weight"] == Place("positions")
    assert PLACES["backbone.h.1.ln_2.bias"] == Place("layernorm", 1)
    assert PLACES["backbone.h.0.attn.c_proj.bias"] == Place("attention", 0)
    assert PLACES["backbone.h.2.mlp.c_fc.weight"] == Place("feedforward", 2)
    assert PLACES["backbone.ln_f.weight"] == Place("layernorm", 2), "the final layer norm counts with the last layer"


@pytest.mark.parametrize("name", ["backbone.h.0.crossattention.c_attn.weight", "backbone.ln_fx.weight", "head.weight"])
def test_an_unknown_parameter_is_an_error(name: str) -> None:
    with pytest.raises(FPTError, match=name):
        place_parameters([*NAMES, name], "gpt2")


@pytest.mark.parametrize(
    ("trainable", "expected"),
    [
        ("output", {"output.weight"}),
        (["positions", "output"], {"backbone.wpe.weight", "output.weight"}),
        (["layernorm:last1"], {"backbone.h.2.ln_1.weight", "backbone.h.2.ln_2.bias", "backbone.ln_f.weight"}),
        (
            "attention:last2",
            {f"backbone.h.{layer}.attn.{name}" for layer in (1, 2) for name in ("c_attn.weight", "c_proj.bias")},
        ),
        ("all", set(NAMES)),
        ([], set()),
        (PAPER, {name for name in NAMES if ".attn." not in name and ".mlp." not in name}),
    ],
)
def test_the_exact_set_that_trains(trainable: str | list[str], expected: set[str]) -> None:
    assert select(PLACES, trainable) == expected


@pytest.mark.parametrize(
    ("trainable", "message"),
    [
        ("layernrom", "did you mean 'layernorm'"),
        ("ln", "The parts are input, positions"),
        ("attention:last0", "not of the form attention:last2"),
        ("attention:first2", "not of the form"),
        ("attention:last4", "more layers than the 3"),
        ("output:last1", "more layers than the 0"),
    ],
)
def test_a_wrong_part_is_refused(trainable: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        select(PLACES, trainable)
