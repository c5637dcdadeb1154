import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fpt_lightning.experiments.report.statistics import compare, holm, standard_error


def test_a_standard_error() -> None:
    assert standard_error([1.0, 2.0, 3.0, 4.0]) == pytest.approx(0.6454972)  # sqrt(5/3) / 2
    assert standard_error([1.0]) is None
    assert standard_error([5.0] * 4) == 0.0


def test_a_paired_comparison_uses_the_seeds_that_both_have() -> None:
    # differences 1, 2, 3: t = 2 / (1 / sqrt(3)) = 3.4641 with two degrees of freedom
    found = compare({0: 11.0, 1: 13.0, 2: 14.0, 7: 99.0}, {0: 10.0, 1: 11.0, 2: 11.0, 8: 0.0})
    assert (found.seeds, found.difference) == (3, 2.0)
    assert found.p == pytest.approx(0.0741799)
    assert found.interval == pytest.approx((2 - 2.484138, 2 + 2.484138))  # 4.302653 / sqrt(3), of t tables
    assert not found.verdict(fewer_is_better=False)  # nothing is before it is corrected


@pytest.mark.parametrize(
    ("arm", "reason"),
    [
        ({}, "no seed in common"),
        ({5: 1.0}, "no seed in common"),
        ({0: 90.0}, "one seed in common"),
        ({0: 100.0, 1: 100.0}, "no difference on every seed"),
        ({0: 50.1, 1: 50.1}, "the same difference on every seed"),
    ],
)
def test_what_cannot_be_tested_says_why(arm: dict[int, float], reason: str) -> None:
    found = compare(arm, {0: 100.0, 1: 100.0})
    assert found.p is None
    assert found.interval is None
    assert found.untested is not None
    assert found.untested.startswith(reason)


@given(st.lists(st.tuples(st.floats(0, 100), st.floats(0, 100)), min_size=2, max_size=6))
def test_an_interval_holds_zero_where_the_test_does_not_speak_against_it(pairs: list[tuple[float, float]]) -> None:
    found = compare(*({seed: pair[side] for seed, pair in enumerate(pairs)} for side in (0, 1)))
    if found.interval is not None and found.p is not None and abs(found.p - 0.05) > 1e-6:
        low, high = found.interval
        assert (low <= 0 <= high) == (found.p > 0.05)
        assert found.difference == pytest.approx((low + high) / 2, abs=1e-9)


@given(st.lists(st.integers(1, 999), min_size=2, max_size=6), st.integers(-1, 1))
def test_the_rounding_of_results_is_no_variance(correct: list[int], more: int) -> None:
    """Accuracies over 1,000 answers as result.json holds them, of 24 bits: so many more on every seed is no chance."""
    ours, theirs = (
        {seed: 100 * float(np.float32((count + one) / 1000)) for seed, count in enumerate(correct)} for one in (more, 0)
    )
    found = compare(ours, theirs)
    assert found.untested == f"{'the same' if more else 'no'} difference on every seed: no variance to test with"


def test_the_smallest_difference_that_results_can_hold_is_one() -> None:
    one_more = {0: 99.9999, 1: 99.9998}  # of a million answers
    assert compare(one_more, {0: 99.9998, 1: 99.9998}).p is not None


def test_holms_correction_of_known_values() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([]) == []


@given(st.lists(st.floats(0, 1), max_size=8), st.integers(0, 5))
def test_a_comparison_to_come_counts_as_one_that_finds_nothing(p_values: list[float], to_come: int) -> None:
    assert holm(p_values, to_come) == holm([*p_values, *[1.0] * to_come])[: len(p_values)]


@given(st.lists(st.floats(0, 1), max_size=8))
def test_holms_correction_is_its_definition(p_values: list[float]) -> None:
    """The corrected value is the lowest level at which the step-down procedure rejects the hypothesis."""
    for place, corrected in enumerate(holm(p_values)):
        assert place in _rejected(p_values, min(1.0, corrected * (1 + 1e-9)))
        if corrected > 1e-9 and corrected < 1:
            assert place not in _rejected(p_values, corrected * (1 - 1e-9))


def _rejected(p_values: list[float], level: float) -> set[int]:
    """Holm's procedure at one level: from the smallest on, as long as p is at most level / hypotheses that are left."""
    if level >= 1:
        return set(range(len(p_values)))
    rejected: set[int] = set()
    for place in sorted(range(len(p_values)), key=p_values.__getitem__):
        if p_values[place] * (len(p_values) - len(rejected)) > level:
            break
        rejected.add(place)
    return rejected
