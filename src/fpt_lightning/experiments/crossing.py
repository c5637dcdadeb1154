"""Tables whose arms are draws: every combination of the values of some options, so that luck can be told apart."""

import json
from collections.abc import Iterable, Mapping, Sequence
from itertools import product
from typing import Any

from msgspec.structs import asdict

from fpt_lightning.experiments.arms import DECIDED, Arm


def expect_crossed(arms: Mapping[str, Arm], options: Sequence[str]) -> None:
    """Refuses arms that are not every combination of the values of these options, or differ in anything else.

    Raises:
        ValueError: If they are not; says which.
    """
    for option in options:
        if option in DECIDED:
            raise ValueError(f"variance: {option} is what the protocol decides")
    levels = {name: levels_of(arm, options) for name, arm in arms.items()}
    first, alike = next((name, _without(arm, options)) for name, arm in arms.items())
    for name, arm in arms.items():
        if _without(arm, options) != alike:
            raise ValueError(f"arms {first} and {name} differ in more than {_and(options)}, which variance names")
    found: dict[tuple[str, ...], str] = {}
    for name, of_arm in levels.items():
        if of_arm in found:
            raise ValueError(f"arms {found[of_arm]} and {name} are the same combination of {_and(options)}")
        found[of_arm] = name
    values = [list(dict.fromkeys(of_option)) for of_option in zip(*levels.values(), strict=True)]
    for option, of_option in zip(options, values, strict=True):
        if len(of_option) < 2:
            raise ValueError(f"variance: expected arms with two values of {option} at least, got {of_option[0]} alone")
    for combination in product(*values):
        if combination not in found:
            asked = (f"{option} {value}" for option, value in zip(options, combination, strict=True))
            raise ValueError(f"variance: expected every combination among the arms, there is none with {_and(asked)}")


def levels_of(arm: Arm, options: Sequence[str]) -> tuple[str, ...]:
    """The arm's values of the options, as text.

    Raises:
        ValueError: If it does not set one of them, or sets it otherwise on a task.
    """
    for option in options:
        if option not in arm.settings:
            raise ValueError(f"variance: expected {option} among the settings of every arm, {arm.name} lacks it")
        if any(option in change.settings for change in arm.tasks.values()):
            raise ValueError(f"variance: expected one {option} an arm, {arm.name} has another on a task")
    return tuple(_text(arm.settings[option]) for option in options)


def _without(arm: Arm, options: Sequence[str]) -> str:
    """What an arm is beside name, published figures and these options."""
    others = {name: value for name, value in arm.settings.items() if name not in options}
    return _text({**asdict(arm), "name": "", "reference": (), "settings": others})


def _text(value: Any) -> str:
    """A value of the file, the same text for the same value."""
    return json.dumps(value, sort_keys=True, default=asdict)


def _and(words: Iterable[str]) -> str:
    return " and ".join(words)
