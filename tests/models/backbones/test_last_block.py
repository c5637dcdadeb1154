"""The last block, computed for the answer tokens alone, gives the answers and gradients of one computed for all."""

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf
from test_families import GROUPED, MODELS

from fpt_lightning.data.spec import TaskSpec
from fpt_lightning.models.backbones.choice import BackboneChoice
from fpt_lightning.models.backbones.families.decoders import FORMS
from fpt_lightning.models.fpt import FrozenPretrainedTransformer
from fpt_lightning.models.kernels import attention
from fpt_lightning.models.lora import LoraOptions

LENGTH = 10
CONFIGS: dict[str, Any] = {
    **{name: lambda name=name: MODELS[name]().config for name in MODELS},
    "gemma": lambda: hf.GemmaConfig(**GROUPED, head_dim=8),
    "arcee": lambda: hf.ArceeConfig(**GROUPED),
    "starcoder2": lambda: hf.Starcoder2Config(**GROUPED, sliding_window=4),
}
SHORTENED = sorted(CONFIGS.keys() - {"longformer"})


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("configs")
    for name, config in CONFIGS.items():
        config().save_pretrained(root / name)
    return {name: root / name for name in CONFIGS}


def _model(folder: Path | str, answers: int, dropout: float = 0.0, **options: Any) -> FrozenPretrainedTransformer:
    """A model whose norms, biases and adapters are not all ones and zeros."""
    task = TaskSpec("bits", max_length=LENGTH, classes=2, token_width=5, answer_tokens=answers, answers_per_token=2)
    model = FrozenPretrainedTransformer(task, BackboneChoice(str(folder), "random", seed=3), dropout=dropout, **options)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.1)
    return model


def _batch(padded: bool, answers: int) -> tuple[torch.Tensor, torch.Tensor | None]:
    tokens = torch.randn(4, LENGTH, 5, generator=torch.Generator().manual_seed(1))
    lengths = torch.tensor([LENGTH, answers, max(answers, 7), max(answers, 4)])
    return tokens, torch.arange(LENGTH) < lengths[:, None] if padded else None


def _results(model: FrozenPretrainedTransformer, tokens: torch.Tensor, mask: torch.Tensor | None) -> list[torch.Tensor]:
    """Logits, and the gradients of the input and of all that trains."""
    tokens = tokens.to(next(model.parameters()).dtype).requires_grad_()
    logits = model(tokens, mask)
    weight = torch.linspace(-1, 2, logits.numel(), dtype=logits.dtype).view(logits.shape)
    wanted = [tokens, *model.trained_parameters().values()]
    return [logits.detach(), *torch.autograd.grad((logits * weight).sum(), wanted)]


def _compare(model: FrozenPretrainedTransformer, padded: bool, rtol: float, atol: float) -> None:
    batch = _batch(padded, model.task.answer_tokens)
    shortened = _results(model, *batch)
    assert model.family.form is not None
    model.family.form = None
    whole = _results(model, *batch)
    for ours, expected in zip(shortened, whole, strict=True):
        torch.testing.assert_close(ours, expected, rtol=rtol, atol=atol)


NEARLY_NONE = 1e-9
"""A dropout of our kernels, in which nothing is dropped."""


@pytest.mark.parametrize("padded", [False, True], ids=["whole", "padded"])
@pytest.mark.parametrize(("answers", "dropout"), [(1, 0.0), (3, NEARLY_NONE)])
@pytest.mark.parametrize("name", SHORTENED)
def test_answers_and_gradients_stay(
    folders: dict[str, Path], name: str, answers: int, dropout: float, padded: bool
) -> None:
    model = _model(folders[name], answers, dropout, trainable="all").double()
    # transformers computes RMS norms in 32 bits whatever they are given
    exact = name in ("gpt2", "bert", "roberta", "vit", "gpt_neox", "phi", "starcoder2") and dropout == 0
    _compare(model, padded, *((1e-10, 1e-10) if exact else (1e-5, 1e-5)))


@pytest.mark.parametrize("answers", [3, LENGTH])
@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_nothing_is_left_out_where_every_token_answers(folders: dict[str, Path], answers: int, dropout: float) -> None:
    model = _model(folders["gpt2"], answers, dropout)
    tokens, _ = _batch(False, answers)
    torch.manual_seed(0)
    logits = model(tokens[:, :answers])
    torch.manual_seed(0)
    hidden = model.family.hidden(model.backbone, model.input(tokens[:, :answers]), None)
    assert torch.equal(logits, model.output(hidden).reshape(logits.shape))


@pytest.mark.parametrize("padded", [False, True], ids=["whole", "padded"])
@pytest.mark.parametrize("name", ["gpt2", "t5"])
def test_attention_in_slices(
    folders: dict[str, Path], name: str, padded: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attention, "SLICED_FROM", 1)
    _compare(_model(folders[name], 3, NEARLY_NONE, trainable="all").double(), padded, 1e-5, 1e-5)


@pytest.mark.parametrize("name", ["gpt2", "bert", "llama"])
def test_adapters_in_the_last_block(folders: dict[str, Path], name: str) -> None:
    lora = LoraOptions(rank=2, parts=["attention", "feedforward"])
    _compare(_model(folders[name], 1, lora=lora).double(), True, 1e-5, 1e-5)


def test_in_bf16(folders: dict[str, Path]) -> None:
    model = _model(folders["gpt2"], 1, trainable="all")
    with torch.autocast("cpu", torch.bfloat16):
        _compare(model, True, 0.05, 0.05)


@pytest.mark.parametrize("padded", [False, True], ids=["whole", "padded"])
@pytest.mark.parametrize("name", sorted(CONFIGS))
def test_the_last_feed_forward_sees_the_answer_tokens_alone(folders: dict[str, Path], name: str, padded: bool) -> None:
    model = _model(folders[name], 3)
    seen: dict[str, int] = {}
    for path, place in model.places.items():
        if place.part == "feedforward" and path.endswith("weight"):
            module = model.get_submodule(path.removesuffix(".weight"))
            seen_by = lambda _, args, path=path: seen.update({path: args[0].shape[1]})  # noqa: E731
            module.register_forward_pre_hook(seen_by)
    model(*_batch(padded, 3))
    shortened = name in SHORTENED
    lengths = {path: 3 if shortened and model.places[path].layer == 2 else LENGTH for path in seen}
    assert seen == (lengths if shortened else dict.fromkeys(lengths, 12))  # windows of four
    assert {model.places[path].layer for path in seen} == {0, 1, 2}


def test_dropout_repeats_by_seed_and_leaves_no_trace(folders: dict[str, Path]) -> None:
    model = _model(folders["gpt2"], 1, 0.3)
    answers = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        answers.append(model(*_batch(False, 1)))
    assert torch.equal(answers[0], answers[1])
    assert not torch.equal(answers[0], answers[2])
    hidden = model.family.hidden(model.backbone, torch.zeros(2, LENGTH, 24), None)
    assert hidden[:, 0].abs().sum() > 0


def test_every_decoder_that_has_a_form_was_compared() -> None:
    assert set(FORMS) <= set(SHORTENED)
