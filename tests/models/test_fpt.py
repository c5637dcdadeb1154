"""Our forward and gradients beside a plain forward through transformers' own model."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from transformers import GPT2Model

from fpt_lightning.data.spec import TaskSpec
from fpt_lightning.models.backbones.choice import BackboneChoice
from fpt_lightning.models.fpt import FrozenPretrainedTransformer

CONTINUOUS = TaskSpec("bits", max_length=12, classes=2, token_width=5, answer_tokens=4, answers_per_token=5)
PATCHES = TaskSpec("image", max_length=16, classes=10, token_width=48)
IDS = TaskSpec("words", max_length=20, classes=7, vocabulary_size=9)


def _batch(task: TaskSpec, padded: bool) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor]:
    generator = torch.Generator().manual_seed(2)
    size, length = 6, task.max_length
    if task.vocabulary_size:
        tokens = torch.randint(task.vocabulary_size, (size, length), generator=generator)
    else:
        tokens = torch.randn(size, length, task.token_width or 0, generator=generator)
    lengths = torch.randint(task.answer_tokens, length + 1, (size,), generator=generator)
    mask = torch.arange(length) < lengths[:, None] if padded else None
    return tokens, mask, torch.randint(task.classes, (size, task.answers), generator=generator)


def _plain(
    model: FrozenPretrainedTransformer, body: GPT2Model, tokens: torch.Tensor, mask: torch.Tensor | None
) -> torch.Tensor:
    """What anyone would write: embed, run GPT2Model, take each example's last real tokens, map to logits."""
    task = model.task
    hidden = body(
        inputs_embeds=model.input(tokens), attention_mask=None if mask is None else mask.long()
    ).last_hidden_state
    ends = [task.max_length] * len(tokens) if mask is None else mask.sum(dim=1).tolist()
    rows = [hidden[row, end - task.answer_tokens : end] for row, end in enumerate(ends)]
    return model.output(torch.stack(rows)).reshape(len(tokens), task.answers, task.classes)


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("task", [CONTINUOUS, PATCHES, IDS], ids=lambda task: task.name)
def test_logits_and_gradients_equal_transformers(gpt2_folder: Path, task: TaskSpec, padded: bool) -> None:
    model = FrozenPretrainedTransformer(task, BackboneChoice(str(gpt2_folder)), dropout=0.0)
    body = GPT2Model.from_pretrained(gpt2_folder, attn_implementation="eager", dtype=torch.float32).train()
    body.config.resid_pdrop = 0.0
    for module in body.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    tokens, mask, target = _batch(task, padded)

    logits = model(tokens, mask)
    assert logits.shape == (6, task.answers, task.classes)
    F.cross_entropy(logits.flatten(0, 1), target.flatten()).backward()
    ours = {name: parameter.grad for name, parameter in model.trained_parameters().items()}
    model.zero_grad()

    expected = _plain(model, body, tokens, mask)
    F.cross_entropy(expected.flatten(0, 1), target.flatten()).backward()
    theirs = {f"backbone.{name}": parameter.grad for name, parameter in body.named_parameters()}
    theirs |= {name: parameter.grad for name, parameter in model.named_parameters() if "backbone" not in name}

    torch.testing.assert_close(logits, expected, atol=1e-5, rtol=1e-5)
    for name, gradient in ours.items():
        reference = theirs[name]
        assert reference is not None
        torch.testing.assert_close(gradient, reference[: len(gradient)], atol=1e-5, rtol=1e-5)  # type: ignore[index]


def test_what_a_padded_token_holds_does_not_matter(gpt2_folder: Path) -> None:
    model = FrozenPretrainedTransformer(CONTINUOUS, BackboneChoice(str(gpt2_folder)), dropout=0.0).eval()
    tokens, mask, _ = _batch(CONTINUOUS, padded=True)
    assert mask is not None
    changed = torch.where(mask[:, :, None], tokens, torch.full_like(tokens, 1e3))
    torch.testing.assert_close(model(changed, mask), model(tokens, mask), atol=1e-5, rtol=1e-5)


def test_the_trained_count_is_the_papers_arithmetic() -> None:
    cifar = TaskSpec("cifar", max_length=64, classes=10, token_width=48)
    model = FrozenPretrainedTransformer(cifar, BackboneChoice("gpt2", "random"))
    counts: dict[str, int] = {}
    for name, parameter in model.trained_parameters().items():
        part = model.places[name].part
        counts[part] = counts.get(part, 0) + parameter.numel()
    assert counts == {"output": 7690, "input": 37632, "layernorm": 38400, "positions": 49152}
    assert sum(counts.values()) == 132874


def test_the_exact_names_that_train(gpt2_folder: Path) -> None:
    model = FrozenPretrainedTransformer(PATCHES, BackboneChoice(str(gpt2_folder)))
    assert set(model.trained_parameters()) == {
        "input.weight",
        "input.bias",
        "output.weight",
        "output.bias",
        "backbone.wpe.weight",
        "backbone.ln_f.weight",
        "backbone.ln_f.bias",
        *(f"backbone.h.{layer}.ln_{n}.{kind}" for layer in range(3) for n in (1, 2) for kind in ("weight", "bias")),
    }
    assert set(model.frozen_parameters()) == {
        f"backbone.h.{layer}.{block}.{kind}"
        for layer in range(3)
        for block in ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")
        for kind in ("weight", "bias")
    }


def test_the_input_layer_is_orthogonal_with_gain() -> None:
    model = FrozenPretrainedTransformer(CONTINUOUS, BackboneChoice("tiny"))
    weight = model.input.weight
    assert isinstance(weight, torch.Tensor)
    torch.testing.assert_close(weight.T @ weight, 1.41**2 * torch.eye(5), atol=1e-5, rtol=1e-5)
    assert not model.input.bias.any()  # type: ignore[union-attr, operator]


def test_the_frozen_hash_names_the_frozen_values_alone() -> None:
    def build(**options: object) -> FrozenPretrainedTransformer:
        return FrozenPretrainedTransformer(PATCHES, BackboneChoice("tiny", **options))  # type: ignore[arg-type]

    model = build()
    assert model.frozen_hash() == build().frozen_hash() != build(seed=1).frozen_hash()
    with torch.no_grad():
        model.output.weight.add_(1)
        assert model.frozen_hash() == build().frozen_hash()
        model.backbone.h[0].mlp.c_fc.weight[0, 0] += 1e-3
    assert model.frozen_hash() != build().frozen_hash()


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_a_cast_body_is_the_same_wherever_it_is_moved(dtype: torch.dtype) -> None:
    model = FrozenPretrainedTransformer(PATCHES, BackboneChoice("tiny"))
    hashed = model.frozen_hash()
    model.to(dtype)
    model._apply(torch.clone)  # as to a GPU: other memory, the same type
    assert model.frozen_hash() == hashed
    model.float()  # what rounding made of it is another
    assert (model.frozen_hash() == hashed) == (dtype == torch.float64)
    with torch.no_grad():
        model.backbone.h[0].mlp.c_fc.weight[0, 0] += 1
    model._apply(torch.clone)
    assert model.frozen_hash() != hashed


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
@pytest.mark.parametrize("name", ["tiny", "none", "two_layer", "lstm"])
def test_numbers_are_read_in_the_precision_of_the_model(name: str, dtype: torch.dtype) -> None:
    """Pixels are made in float32 whatever ``trainer.precision`` is."""
    sizes = {"width": 8} if name in ("two_layer", "lstm") else None
    model = FrozenPretrainedTransformer(PATCHES, BackboneChoice(name, architecture=sizes)).to(dtype)
    tokens, _, target = _batch(PATCHES, padded=False)
    logits = model(tokens)
    assert logits.dtype == dtype
    F.cross_entropy(logits.flatten(0, 1), target.flatten()).backward()
