from itertools import combinations

import pytest
import torch

from fpt_lightning.data.spec import TaskSpec
from fpt_lightning.models.backbones.choice import BackboneChoice
from fpt_lightning.models.fpt import FrozenPretrainedTransformer
from fpt_lightning.models.lora import LoraOptions
from fpt_lightning.random_streams import drawn_from, generator

WORDS = TaskSpec("words", max_length=64, classes=64, vocabulary_size=100)
BITS = TaskSpec("bits", max_length=64, classes=64, token_width=40)


def _model(task: TaskSpec = WORDS, **options: object) -> FrozenPretrainedTransformer:
    return FrozenPretrainedTransformer(task, BackboneChoice("tiny", **options))  # type: ignore[arg-type]


def test_streams_are_functions_of_seed_and_name() -> None:
    first = torch.randn(9, generator=generator(3, "input"))
    assert torch.equal(first, torch.randn(9, generator=generator(3, "input")))
    for seed, name in ((3, "output"), (4, "input"), (-3, "input")):
        assert not torch.equal(first, torch.randn(9, generator=generator(seed, name)))
    before = torch.get_rng_state()
    with drawn_from(3, "input"):
        assert torch.equal(first, torch.randn(9))
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("task", [WORDS, BITS], ids=lambda task: task.name)
@pytest.mark.parametrize("positions", ["backbone", "new"])
def test_no_two_random_tensors_are_drawn_from_the_same_numbers(task: TaskSpec, positions: str) -> None:
    """With new positions, these were the rows of the input embedding times 0.02."""
    choice = BackboneChoice("tiny", positions=positions)  # type: ignore[arg-type]
    model = FrozenPretrainedTransformer(task, choice, lora=LoraOptions(parts=["attention", "feedforward"]))
    values = {name: value.flatten() for name, value in model.state_dict().items() if value.numel() >= 250}
    random = {name: value for name, value in values.items() if value.std() > 0}
    assert {"input.weight", "output.weight", "backbone.wpe.weight"} < set(random)
    for (name, first), (other, second) in combinations(random.items(), 2):
        count = min(len(first), len(second))
        correlation = torch.corrcoef(torch.stack([first[:count], second[:count]]))[0, 1].item()
        assert abs(correlation) < 5 / count**0.5, (name, other)


def test_the_seed_draws_everything_and_the_backbones_seed_the_frozen_body_alone() -> None:
    assert _model(seed=0).frozen_hash() != _model(seed=1).frozen_hash()
    first, other, own = _model(seed=0, backbone_seed=7), _model(seed=1, backbone_seed=7), _model(seed=7)
    assert first.frozen_hash() == other.frozen_hash() == own.frozen_hash()
    for name, value in first.state_dict().items():
        drawn_by_the_run = name in ("input.weight", "output.weight", "output.bias")
        assert torch.equal(value, other.state_dict()[name]) != drawn_by_the_run, name
    assert str(first.choice) == str(own.choice) == "tiny (random, seed 7)"


def test_new_positions_are_of_the_runs_seed() -> None:
    first, other = (_model(seed=seed, backbone_seed=7, positions="new") for seed in (0, 1))
    assert not torch.equal(first.backbone.wpe.weight, other.backbone.wpe.weight)  # type: ignore[union-attr, arg-type]
    assert first.frozen_hash() == other.frozen_hash()
    assert str(first.choice) == "tiny (random, new positions, seed 7 and 0)"
