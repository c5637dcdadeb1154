import pytest

from fpt_lightning.errors import FPTError, UsageError
from fpt_lightning.models.backbones.families.gpt2 import GPT2
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
PLACES = place_parameters(NAMES, GPT2.parts, "gpt2")


def test_every_parameter_has_its_place() -> None:
    assert PLACES["input.bias"] == Place("input")
    assert PLACES["backbone.wpe.weight"] == Place("positions")
    assert PLACES["backbone.h.1.ln_2.bias"] == Place("layernorm", 1)
    assert PLACES["backbone.h.0.attn.c_proj.bias"] == Place("attention", 0)
    assert PLACES["backbone.h.2.mlp.c_fc.weight"] == Place("feedforward", 2)
    assert PLACES["backbone.ln_f.weight"] == Place("layernorm", 2), "the final layer norm counts with the last layer"


@pytest.mark.parametrize("name", ["backbone.h.0.crossattention.c_attn.weight", "backbone.ln_fx.weight", "head.weight"])
def test_an_unknown_parameter_is_an_error(name: str) -> None:
    with pytest.raises(FPTError, match=name.removeprefix("backbone.")):
        place_parameters([*NAMES, name], GPT2.parts, "gpt2")


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
        ("attention:bias", {f"backbone.h.{layer}.attn.c_proj.bias" for layer in range(3)}),
        ("all", set(NAMES)),
        (["output", "all"], set(NAMES)),
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
        ("attention:last0", "neither of the form attention:last2 nor attention:bias"),
        ("attention:first2", "neither of the form"),
        ("attention:last4", "more layers than the 3"),
        ("output:last1", "more layers than the 0"),
        ("positions:bias", "trains nothing: positions has no biases"),
        ("all:last2", "all takes neither :last nor :bias"),
        (["all", "bogus"], "no part is called 'bogus'"),
    ],
)
def test_a_wrong_part_is_refused(trainable: str | list[str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        select(PLACES, trainable)


def test_the_biases_of_a_recurrence_have_names_of_their_own() -> None:
    names = {f"backbone.layers.0.lstm.{kind}_{which}_l0" for kind in ("weight", "bias") for which in ("ih", "hh")}
    chosen = select(dict.fromkeys(names, Place("recurrence", 0)), "recurrence:bias")
    assert chosen == {name for name in names if "bias" in name}


def test_adapters_have_a_part_of_their_own_and_what_they_adapt_keeps_its_part() -> None:
    names = [
        "backbone.h.1.attn.c_attn.base_layer.weight",
        "backbone.h.1.attn.c_attn.lora_A.default.weight",
        "backbone.h.1.attn.c_attn.lora_B.default.weight",
    ]
    places = place_parameters(names, GPT2.parts, "gpt2")
    assert [place.part for place in places.values()] == ["attention", "lora", "lora"]
    assert {place.layer for place in places.values()} == {1}
