import math
from pathlib import Path

import pytest

from fpt_lightning.runs.metrics import Curve, read_curve

HEADER = "step,train_accuracy,val_accuracy\n"


def test_training_accuracy_is_that_of_the_last_fifth() -> None:
    rows = "".join(f"{10 * index + 9},{0.0 if index < 8 else 0.9 + 0.1 * (index - 8)},\n" for index in range(10))
    Path("metrics.csv").write_text(HEADER + rows)
    assert read_curve(Path("metrics.csv")).train_accuracy() == pytest.approx(0.95)


def test_convergence_is_the_first_validation_near_the_best() -> None:
    Path("metrics.csv").write_text(HEADER + "9,0.5,\n9,,0.5\n19,,0.994\n29,,0.9951\n39,,1.0\n49,,0.2\n")
    curve = read_curve(Path("metrics.csv"))
    assert curve.steps_to_convergence(chance=0.5) == 30  # 1 % of the way from 0.5 to 1.0 is 0.005; steps count from 1
    assert curve.steps_to_convergence(chance=0.0) == 20
    assert not curve.still_rising


def test_a_run_at_chance_never_converges() -> None:
    assert Curve([(100, 0.5), (200, 0.48)]).steps_to_convergence(chance=0.5) is None
    assert Curve().steps_to_convergence(chance=0.5) is None


def test_a_number_that_is_none_is_no_point() -> None:
    Path("metrics.csv").write_text(HEADER + f"9,,{math.nan}\n19,,0.75\n")
    assert read_curve(Path("metrics.csv")).validation == [(20, 0.75)]


@pytest.mark.parametrize("content", [None, "", "a,b\n1,2\n", HEADER + "9,,half\n", b"step,\xff\n"])
def test_a_damaged_file_is_a_problem_told(content: str | bytes | None) -> None:
    path = Path("metrics.csv")
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    problem = read_curve(path).problem
    assert problem is not None
    assert "metrics.csv" in problem
