"""Every figure of these pages is that of a result or a benchmark in the repository."""

import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT / "tools"))

import figures  # noqa: E402

NO_RESULTS = {
    "README.md": {"3.11", "3.1", "3.14"},  # of Python; sections of the paper
    "docs/halving.md": set(),
    "docs/performance.md": set(),
    "docs/results.md": {"0.55", "0.02", "0.1", "0.2", "0.3"},  # standard deviations that bodies begin with; versions
}


@pytest.mark.parametrize("page", figures.PAGES)
def test_every_figure_is_that_of_the_repository(page: str) -> None:
    text = (ROOT / page).read_text()
    for line, renewed in zip(text.splitlines(), figures.renewed(text).splitlines(), strict=True):
        assert line == renewed, "python tools/figures.py writes it anew"


@pytest.mark.parametrize("page", figures.PAGES)
def test_no_figure_stands_there_by_hand(page: str) -> None:
    text = (ROOT / page).read_text()
    code = re.compile(r"^```.*?^```$|^ {4}.*?$|`[^`]+`", re.MULTILINE | re.DOTALL)
    for other in (figures.TABLE, figures.FIGURE, code, re.compile(r"\]\([^)]*\)")):
        text = other.sub("", text)
    by_hand = re.findall(r"(?:± ?)?\d[\d,]*\.\d+|± ?\d+|\d+(?= %| points| MiB| GB| s\b)", text)
    assert set(by_hand) <= NO_RESULTS[page]


@pytest.mark.parametrize(
    ("written", "place", "said"),
    [
        ("1.0", "table2 / FPT / bit-memory", "97.6"),
        ("1", "table2 / FPT / bit-memory / paper", "100"),
        ("1.0", "table2 / FPT / bit-memory / error", "0.1"),
        ("1e-1", "fair / unfrozen, random / MNIST / rate", "1e-4"),
        ("1.00", "train_step-avx512 / steps / 2 / ratio", "2.10"),
        ("1", "train_step-avx512 / steps / 2 / share * 100", "73"),
        ("1,000", "train_step-avx512 / steps / 0 / memory_mb", "2,270"),
        ("1", "table2 / Random / MNIST - table2 / FPT / MNIST", "7"),
        ("1", "luck / random body / share, %", "19"),
    ],
)
def test_a_wrong_figure_is_found_out(written: str, place: str, said: str) -> None:
    assert figures.renewed(f"{written}<!-- = {place} -->") == f"{said}<!-- = {place} -->"


def test_a_figure_of_nothing_is_an_error() -> None:
    for place in ("table2 / FTP / MNIST", "table2 / FPT / MNIS", "table9 / FPT / MNIST", "train_step-avx512 / step"):
        with pytest.raises((StopIteration, ValueError, FileNotFoundError, KeyError)):
            figures.renewed(f"1<!-- = {place} -->")


def test_a_difference_whose_sign_has_turned_is_an_error() -> None:
    place = "table2 / FPT / MNIST - table2 / Random / MNIST"
    with pytest.raises(ValueError, match=f"^{place} is negative"):
        figures.renewed(f"7<!-- = {place} -->")


def test_a_wrong_table_is_found_out() -> None:
    said = figures.renewed("<!-- table: fair -->\n| 1.0 |\n<!-- end -->")
    assert "| 1.0 |" not in said
    assert "frozen, pretrained" in said
    assert "Learning rates" not in said
    assert "Learning rates" in figures.renewed("<!-- table: fair with rates -->\n<!-- end -->")
    assert "| random body |" in figures.renewed("<!-- table: luck with variance -->\n<!-- end -->")


def test_what_stands_between_two_tables_stays() -> None:
    empty = "<!-- table: table2 -->\n<!-- end -->\n"
    said = figures.renewed(f"{empty}between\n{empty}")
    assert said.count("| FPT | ") == 2
    assert "<!-- end -->\nbetween\n<!-- table" in said
    assert figures.renewed(said) == said


def test_every_table_is_told_of() -> None:
    told = [found[2] for found in figures.TABLE.finditer((ROOT / "docs" / "results.md").read_text())]
    assert sorted(map(str, map(figures._folder, told))) == sorted(map(str, (ROOT / "results").glob("*/*/")))


def test_a_table_that_two_profiles_have_is_asked_for_by_both_names(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for place in ("atlas/pocket", "laptop/pocket", "laptop/fair"):
        (tmp_path / "results" / place).mkdir(parents=True)
    monkeypatch.setattr(figures, "ROOT", tmp_path)
    with pytest.raises(ValueError, match=r"^atlas/pocket or laptop/pocket\?$"):
        figures._folder("pocket")
    assert figures._folder("fair") == tmp_path / "results" / "laptop" / "fair"
    assert figures._folder("atlas/pocket") == tmp_path / "results" / "atlas" / "pocket"
    assert figures._folder("train_step-avx512") is None
