"""Configs with values replaced and text damaged: a command carries one out, or refuses it in a line."""

import math
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from trial import Ending, expect_no_fault, mutated, tried

from conftest import Fpt

pytestmark = pytest.mark.slow

CASES = 320

LASTING = ("align_steps", "devices", "num_nodes", "seed_everything")
"""Options whose large values ask for long work, or for processes and machines that this one cannot start."""

VALUES: list[Any] = [
    "words", "", "1e-3", 0, -1, 1, 1.5, 7, 2**31, 2**62, 10**400, 1e300, math.nan, math.inf, True, None, [], {}, [None],
    ["words"], [-1], {"words": "words"}, {"words": None}, {"class_path": "words"}, {"class_path": "os.getcwd"}, "\x1b[31m",
    "x" * 5000, "/dev/null", ".",
]  # fmt: skip


def places(value: Any, place: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    if place:
        yield place
    for key, item in value.items() if isinstance(value, dict) else ():
        yield from places(item, (*place, key))


def replaced(content: dict[str, Any], place: tuple[Any, ...], value: Any) -> str:
    content = yaml.safe_load(yaml.safe_dump(content))
    inner = content
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = value
    return yaml.safe_dump(content)


def test_mutated_configs(fpt: Fpt, tiny: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        fpt("fit", "--config=bit_xor.yaml", *tiny, "--print_config")
    whole: dict[str, Any] = yaml.safe_load(capsys.readouterr().out)
    for name in ("progress", "predictions", "export_backbone"):
        whole.pop(name, None)
    assert fpt("fit", "--config=bit_xor.yaml", *tiny, "--trainer.fast_dev_run=true") == 0  # imports what forks will use
    every = [place for place in places(whole) if place[-1] not in LASTING]
    assert len(every) > 100

    def endings() -> Iterator[tuple[str, Ending]]:
        for case in range(CASES):
            generator = random.Random(case)
            path = tmp_path / f"{case}.yaml"
            if case % 4:
                place, value = generator.choice(every), generator.choice(VALUES)
                path.write_text(replaced(whole, place, value))
                name = f"{case}: {'.'.join(map(str, place))} = {value!r:.40}"
            else:
                path.write_bytes(mutated(yaml.safe_dump(whole).encode(), generator))
                name = f"{case}: damaged"
            words = ["fit", f"--config={path}", "--trainer.fast_dev_run=true", "--trainer.enable_progress_bar=false"]
            yield name, tried(lambda words=words: fpt(*words))

    assert expect_no_fault(endings(), tmp_path) == CASES
