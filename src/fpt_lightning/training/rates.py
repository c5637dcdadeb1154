"""A learning rate for each part."""

from collections.abc import Mapping
from typing import Any

from fpt_lightning.errors import UsageError, did_you_mean
from fpt_lightning.models.fpt import FrozenPretrainedTransformer


def check_rates(lr: float, part_lr: Mapping[str, float], model: FrozenPretrainedTransformer) -> None:
    """Compares the learning rates, that of single parts and of all others, with what trains.

    Raises:
        UsageError: If nothing trains, a rate is not above 0, or belongs to a part that does not train.
    """
    trained = {model.places[name].part for name in model.trained_parameters()}
    if not trained:
        raise UsageError("model.trainable is empty: nothing would train")
    for name, rate in {"model.lr": lr, **{f"model.part_lr.{part}": rate for part, rate in part_lr.items()}}.items():
        if rate <= 0:
            raise UsageError(f"{name} must be above 0, got {rate}")
    for part in part_lr:
        if part not in trained:
            raise UsageError(
                f"model.part_lr: no part '{part}' trains{did_you_mean(part, trained)} "
                f"Those that train are {', '.join(sorted(trained))}."
            )


def parameter_groups(
    lr: float, part_lr: Mapping[str, float], model: FrozenPretrainedTransformer
) -> list[dict[str, Any]]:
    """The optimizer's groups: one with ``lr``, and one for each part that has a rate of its own."""
    members: dict[str, list[Any]] = {"": [], **{part: [] for part in part_lr}}
    for name, parameter in model.trained_parameters().items():
        part = model.places[name].part
        members[part if part in part_lr else ""].append(parameter)
    return [{"params": parameters, "lr": part_lr.get(part, lr)} for part, parameters in members.items() if parameters]
