"""Fitting the input layer to the backbone's token embeddings."""

from pathlib import Path

import pytest
import torch
import transformers as hf

from conftest import Fpt
from fpt_lightning.data.spec import Batch, TaskSpec
from fpt_lightning.errors import UsageError
from fpt_lightning.models.backbones.choice import BackboneChoice
from fpt_lightning.models.fpt import FrozenPretrainedTransformer
from fpt_lightning.models.input_layer import match_moments
from fpt_lightning.training.alignment import align, sliced_wasserstein
from fpt_lightning.training.classification import FPTClassifier
from fpt_lightning.training.language.export_backbone import save_body

NUMBERS = TaskSpec("bits", max_length=10, classes=2, token_width=5)
IDS = TaskSpec("words", max_length=10, classes=2, vocabulary_size=30)


def _model(task: TaskSpec, folder: Path) -> FrozenPretrainedTransformer:
    return FrozenPretrainedTransformer(task, BackboneChoice(str(folder)), keep_vocabulary=True)


def _batch(task: TaskSpec, padded: bool = False) -> Batch:
    generator = torch.Generator().manual_seed(0)
    if task.vocabulary_size:
        tokens = torch.randint(task.vocabulary_size, (64, 10), generator=generator)
    else:
        tokens = torch.randn(64, 10, 5, generator=generator)
    mask = torch.arange(10) < torch.randint(1, 11, (64,), generator=generator)[:, None]
    return Batch(tokens, torch.zeros(64, 1, dtype=torch.long), mask if padded else None)


def test_the_vocabulary_is_the_backbones_own(gpt2_folder: Path) -> None:
    from safetensors.torch import load_file

    table = load_file(gpt2_folder / "model.safetensors")["transformer.wte.weight"]
    vocabulary = _model(NUMBERS, gpt2_folder).vocabulary
    assert vocabulary is not None
    assert sorted(vocabulary.tolist()) == sorted(table.tolist())
    assert FrozenPretrainedTransformer(NUMBERS, BackboneChoice(str(gpt2_folder))).vocabulary is None


@pytest.mark.parametrize("initialization", ["pretrained", "random"])
def test_the_vocabulary_is_what_the_body_reads_where_its_table_scales(initialization: str) -> None:
    config = hf.Gemma3TextConfig(
        hidden_size=24, num_hidden_layers=1, num_attention_heads=3, num_key_value_heads=1, intermediate_size=40,
        head_dim=8, vocab_size=500, max_position_embeddings=64,
    )  # fmt: skip
    reference = hf.Gemma3TextModel(config).eval()
    reference.save_pretrained("gemma")
    read = reference.get_input_embeddings()(torch.arange(500))
    model = FrozenPretrainedTransformer(NUMBERS, BackboneChoice("gemma", initialization), keep_vocabulary=True)
    assert model.vocabulary is not None
    assert model.vocabulary.std().item() == pytest.approx(read.std().item(), rel=0.05)
    if initialization == "pretrained":
        assert sorted(model.vocabulary.tolist()) == sorted(read.tolist())


@pytest.mark.parametrize("initialization", ["pretrained", "statistics"])
def test_the_one_token_of_a_body_that_was_written_is_no_vocabulary(initialization: str) -> None:
    """Its embedding is 0: an input layer with its moments is blind."""
    save_body(FrozenPretrainedTransformer(NUMBERS, BackboneChoice("tiny")), Path("body"))
    with pytest.raises(UsageError, match="has no token embeddings to fit the input layer to"):
        FrozenPretrainedTransformer(NUMBERS, BackboneChoice("body", initialization), keep_vocabulary=True)
    random = FrozenPretrainedTransformer(NUMBERS, BackboneChoice("body", "random"), keep_vocabulary=True)
    assert random.vocabulary is not None
    assert random.vocabulary.std() > 0


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("task", [NUMBERS, IDS], ids=lambda task: task.name)
def test_moments_match(gpt2_folder: Path, task: TaskSpec, padded: bool) -> None:
    model, batch = _model(task, gpt2_folder), _batch(task, padded)
    assert model.vocabulary is not None
    match_moments(model.input, batch.tokens, batch.mask, model.vocabulary)
    outputs = model.input(batch.tokens)
    outputs = outputs.flatten(0, 1) if batch.mask is None else outputs[batch.mask]
    for moment in (lambda x: x.mean(dim=0), lambda x: x.std(dim=0, correction=0)):
        torch.testing.assert_close(moment(outputs), moment(model.vocabulary), atol=1e-4, rtol=1e-3)


def test_alignment_brings_the_distributions_together_and_moves_the_input_layer_alone(gpt2_folder: Path) -> None:
    model, batch = _model(NUMBERS, gpt2_folder), _batch(NUMBERS)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    first, last = align(model, batch, steps=100, seed=0)
    assert last < first / 5
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {"input.weight", "input.bias"}


def test_the_distance_after_is_that_of_what_the_last_step_left(gpt2_folder: Path) -> None:
    (before, after), (_, later) = (align(_model(NUMBERS, gpt2_folder), _batch(NUMBERS), n, seed=0) for n in (1, 2))
    assert later < after < before


def test_the_distance_of_a_sample_to_itself_is_zero_and_grows_with_a_shift() -> None:
    sample = torch.randn(100, 8, generator=torch.Generator().manual_seed(0))

    def distance(other: torch.Tensor) -> float:
        return sliced_wasserstein(sample, other, torch.Generator().manual_seed(1)).item()

    assert distance(sample[torch.randperm(100)]) == pytest.approx(0, abs=1e-10)
    # the mean square of a shift of length 2 along random directions in 8 dimensions is 4 / 8
    assert distance(sample + 2 / 8**0.5) == pytest.approx(0.5, rel=0.4)


def _weight(path: str) -> torch.Tensor:
    return torch.load(path, weights_only=True)["state_dict"]["model.input.weight"]


@pytest.mark.parametrize("option", ["--model.align_steps=5", "--model.input_initialization=moments"])
def test_a_run_fits_once_and_a_resumed_one_does_not_again(fpt: Fpt, tiny: list[str], option: str) -> None:
    words = ["--config=bit_memory.yaml", *tiny, "--data.n=20", "--data.patch_size=5", "--model.lr=1e-9", option]
    assert fpt("fit", *words[:-1], "--run_folder=plain") == 0
    assert fpt("fit", *words, "--trainer.max_steps=2", "--run_folder=fitted") == 0
    fitted = _weight("fitted/checkpoints/last.ckpt")
    assert not torch.allclose(fitted, _weight("plain/checkpoints/last.ckpt"), atol=1e-3)
    assert fpt("run", *words, "--ckpt_path=fitted/checkpoints/last.ckpt") == 0
    torch.testing.assert_close(_weight("fitted/checkpoints/last.ckpt"), fitted, atol=1e-6, rtol=0)


@pytest.mark.parametrize("options", [{"align_steps": 5}, {"input_initialization": "moments"}])
def test_a_frozen_input_layer_is_not_fitted(options: dict[str, object]) -> None:
    with pytest.raises(UsageError, match=r"put input into model\.trainable"):
        FPTClassifier(NUMBERS, "tiny", trainable=["output"], **options)  # type: ignore[arg-type]


def test_a_body_without_token_embeddings_has_nothing_to_fit_to() -> None:
    architecture = {"hidden_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    with pytest.raises(UsageError, match="has no token embeddings"):
        FPTClassifier(NUMBERS, "google/vit-base-patch16-224-in21k", "random", architecture, align_steps=5)
