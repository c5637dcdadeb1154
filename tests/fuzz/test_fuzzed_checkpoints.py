"""Damaged checkpoints: tested, or refused in a line that names the file."""

import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from trial import Ending, expect_no_fault, mutated, tried

from conftest import Fpt

pytestmark = pytest.mark.slow

CASES = 200


def test_mutated_checkpoints(fpt: Fpt, tiny: list[str], tmp_path: Path) -> None:
    assert fpt("run", "--config=bit_xor.yaml", *tiny, "--run_folder=run") == 0
    whole = (tmp_path / "run" / "checkpoints" / "best.ckpt").read_bytes()
    path = tmp_path / "damaged.ckpt"
    words = ["test", "--config=bit_xor.yaml", *tiny, f"--ckpt_path={path}"]
    path.write_bytes(whole)
    assert fpt(*words) == 0

    def endings() -> Iterator[tuple[str, Ending]]:
        for case in range(CASES):
            path.write_bytes(mutated(whole, random.Random(case)))
            yield f"case {case}", tried(lambda: fpt(*words))

    assert expect_no_fault(endings(), tmp_path) == CASES
