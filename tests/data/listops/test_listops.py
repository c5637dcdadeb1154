import random
import re
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fpt_lightning.data.datamodule import SPLITS
from fpt_lightning.data.listops.datamodule import RELEASED_PAD, ListOps
from fpt_lightning.data.listops.files import FILES, read_official
from fpt_lightning.data.listops.grammar import WORDS, Grammar, MalformedError, evaluate
from fpt_lightning.data.sequences import LabelledSequences
from fpt_lightning.errors import FPTError, UsageError

SIZES = {"train_examples": 40, "validation_examples": 8, "test_examples": 8}
SHORT = {**SIZES, "min_length": 5, "max_length": 40}
OPERATORS = WORDS[10:14]

Tree = int | tuple[str, list["Tree"]]
"""A digit, or an operator and its arguments."""

TREES = st.recursive(
    st.integers(0, 9),
    lambda inner: st.tuples(st.sampled_from(OPERATORS), st.lists(inner, min_size=1, max_size=5)),
    max_leaves=30,
)


def _words(tree: Tree) -> list[str]:
    if isinstance(tree, int):
        return [str(tree)]
    return [tree[0], *(word for argument in tree[1] for word in _words(argument)), "]"]


def _ids(tree: Tree) -> list[int]:
    return [WORDS.index(word) for word in _words(tree)]


def _value(tree: Tree) -> int:
    """Long Range Arena's definition."""
    if isinstance(tree, int):
        return tree
    values = [_value(argument) for argument in tree[1]]
    reductions = {"[MIN": min, "[MAX": max, "[MED": lambda row: int(np.median(row)), "[SM": lambda row: sum(row) % 10}
    return reductions[tree[0]](values)


def _official(tree: Tree) -> str:
    """An expression as Long Range Arena writes it: every argument closes a pair of parentheses."""
    if isinstance(tree, int):
        return str(tree)
    text = tree[0]
    for argument in (*map(_official, tree[1]), "]"):
        text = f"( {text} {argument} )"
    return text


def _examples(trees: list[Tree]) -> LabelledSequences:
    rows = [_ids(tree) for tree in trees]
    return LabelledSequences(
        np.array([token for row in rows for token in row], dtype=np.uint8),
        np.array([len(row) for row in rows], dtype=np.int32),
        np.array([_value(tree) for tree in trees], dtype=np.uint8),
    )


def _write(path: Path, trees: list[Tree]) -> Path:
    lines = ["Source\tTarget", *(f"{_official(tree)}\t{_value(tree)}" for tree in trees)]
    path.write_bytes("".join(f"{line}\r\n" for line in lines).encode())  # as Python's csv ends them
    return path


def _rows(examples: LabelledSequences) -> list[bytes]:
    return [row.tobytes() for row in np.split(examples.values, np.cumsum(examples.lengths))[:-1]]


@given(st.lists(TREES, min_size=1, max_size=6))
def test_expressions_are_worth_what_a_recursive_evaluator_says(trees: list[Tree]) -> None:
    examples = _examples(trees)
    assert np.array_equal(evaluate(examples.values, examples.lengths), examples.targets)


def test_the_paper_of_listops() -> None:
    """The example of Tay et al. 2021, section 2.2.1."""
    tree: Tree = ("[MAX", [4, 3, ("[MIN", [2, 3]), 1, 0, ("[MED", [1, 5, 8, 9, 2])])
    tokens = np.array(_ids(tree), dtype=np.uint8)
    assert evaluate(tokens, np.array([len(tokens)])).tolist() == [5]


MALFORMED = {
    "[MAX 1 2": "1 brackets are never closed",
    "[MAX [MIN 1 2 ]": "1 brackets are never closed",
    "[MAX 1 ] ]": "goes on behind its end",
    "]": "closes nothing",
    "1 2": "goes on behind its end",
    "[MAX 1 ] [MIN 2 ]": "goes on behind its end",
    "[MAX 1 [SM ] ]": "[SM has no arguments",
    "": "is empty",
    "[MAX " * 100_000 + "1 " + "] " * 100_000: "deeper than 1,000",
}


@pytest.mark.parametrize("text", MALFORMED, ids=lambda text: text[:20])
@pytest.mark.parametrize("behind", [(), ("]",), ("",)], ids=["", "another", "an empty one"])
def test_what_is_no_expression_is_named(text: str, behind: tuple[str, ...]) -> None:
    rows = [[WORDS.index(word) for word in part.split()] for part in ("7", "[SM 9 9 ]", text, *behind)]
    tokens = np.array([token for row in rows for token in row], dtype=np.uint8)
    with pytest.raises(MalformedError, match=re.escape(MALFORMED[text])) as refused:
        evaluate(tokens, np.array([len(row) for row in rows]))
    assert refused.value.index == 2


def _plain_tree(generator: random.Random, grammar: Grammar, depth: int = 1) -> Tree:
    """Long Range Arena's grammar, written down plainly."""
    if depth == grammar.max_depth or generator.random() > 0.25:
        return generator.randrange(10)
    count = generator.randint(2, grammar.max_arguments)
    arguments = [_plain_tree(generator, grammar, depth + 1) for _ in range(count)]
    return generator.choice(OPERATORS), arguments


def _figures(ids: list[int]) -> dict[str, float]:
    """What is compared of an expression."""
    steps = np.array([1 if 10 <= token < 14 else -1 if token == 14 else 0 for token in ids])
    depth = steps.cumsum()
    return {
        "length": len(ids),
        "depth": int(depth.max()),
        "arguments of the root": int(((depth == 1) & (steps < 1)).sum()),
        "operators": int((steps == 1).sum()),
        "where the last operator stands": float(np.flatnonzero(steps == 1).max(initial=-1)) / len(ids),
        "operators on the first level": int(((depth == 2) & (steps == 1)).sum()),
    }


def _distance(ours: np.ndarray, theirs: np.ndarray) -> float:
    """The largest difference of two distribution functions (Kolmogorov and Smirnov)."""
    points = np.union1d(ours, theirs)
    shares = [np.searchsorted(np.sort(sample), points, side="right") / len(sample) for sample in (ours, theirs)]
    return float(np.abs(shares[0] - shares[1]).max())


@pytest.mark.parametrize(
    ("grammar", "count"),
    [
        (Grammar(5, 40, max_depth=4, max_arguments=5), 6000),
        (Grammar(0, 60, max_depth=3, max_arguments=10), 6000),
        (Grammar(10, 100), 1000),
        (Grammar(), 400),
    ],
    ids=str,
)
def test_examples_have_the_distribution_of_long_range_arena(grammar: Grammar, count: int) -> None:
    plain = random.Random(0)
    theirs: list[list[int]] = []
    while len(theirs) < count:
        ids = _ids(_plain_tree(plain, grammar))
        if grammar.min_length < len(ids) < grammar.max_length:
            theirs.append(ids)
    generator = np.random.default_rng(0)
    ours: list[list[int]] = []
    while len(ours) < count:
        tokens, lengths = grammar.sample(generator)
        ours += [row.tolist() for row in np.split(tokens, np.cumsum(lengths))[:-1]]
    figures = [[_figures(ids) for ids in rows[:count]] for rows in (ours, theirs)]
    for name in figures[0][0]:
        samples = [np.array([row[name] for row in side]) for side in figures]
        # two samples of one distribution are further apart once in a thousand times
        assert _distance(*samples) < 1.95 * (2 / count) ** 0.5, name
    counts = [np.bincount([token for ids in rows for token in ids], minlength=15) for rows in (ours[:count], theirs)]
    shares = [tokens / tokens.sum() for tokens in counts]
    deviation = (shares[1] * (1 - shares[1]) * sum(1 / tokens.sum() for tokens in counts)) ** 0.5
    assert (np.abs(shares[0] - shares[1]) < 4.5 * deviation).all()


def _length_probabilities(grammar: Grammar, depth: int = 1) -> np.ndarray:
    """The probability of every length below ``max_length`` for a node at a depth, exactly."""
    digit = np.zeros(grammar.max_length)
    digit[1] = 1
    if depth == grammar.max_depth:
        return digit
    argument = _length_probabilities(grammar, depth + 1)
    together, mean = argument, np.zeros(grammar.max_length)
    for _ in range(2, grammar.max_arguments + 1):
        together = np.convolve(together, argument)[: grammar.max_length]
        mean += together / (grammar.max_arguments - 1)
    return 0.75 * digit + 0.25 * np.concatenate([[0, 0], mean])[: grammar.max_length]


@pytest.mark.parametrize("grammar", [Grammar(0, 30, max_depth=5, max_arguments=4), Grammar(5, 100), Grammar()], ids=str)
def test_lengths_have_the_probabilities_of_the_grammar(grammar: Grammar) -> None:
    exact = _length_probabilities(grammar)
    exact[: grammar.min_length + 1] = 0
    generator = np.random.default_rng(0)
    lengths = np.concatenate([grammar.sample(generator)[1] for _ in range(5)])
    found = np.bincount(lengths, minlength=grammar.max_length) / len(lengths)
    assert np.abs(found.cumsum() - (exact / exact.sum()).cumsum()).max() < 1.95 / len(lengths) ** 0.5


@given(seed=st.integers(0, 2**70), count=st.integers(1, 300), least=st.integers(0, 20), width=st.integers(10, 60))
def test_generated_examples_keep_what_is_promised(seed: int, count: int, least: int, width: int) -> None:
    grammar = Grammar(least, least + width, max_depth=5, max_arguments=4)
    examples = grammar.generate(count, seed)
    assert len(examples.lengths) == len(set(_rows(examples))) == count
    assert examples.lengths.min() > least
    assert examples.lengths.max() < least + width
    assert np.array_equal(evaluate(examples.values, examples.lengths), examples.targets)
    again = grammar.generate(count, seed)
    assert _rows(again) == _rows(examples)


def test_the_parameters_of_long_range_arena() -> None:
    data = ListOps()
    assert data.sizes == {"train": 96_000, "validation": 2_000, "test": 2_000}
    assert (data.task.max_length, data.task.vocabulary_size, data.task.classes, data.task.answers) == (1999, 15, 10, 1)
    assert ListOps(limit=1024).task.max_length == 1024
    examples = data.grammar.generate(300, seed=0)
    assert 500 < examples.lengths.min() <= examples.lengths.max() < 2000
    shares = np.bincount(examples.targets, minlength=10) / 300
    assert shares.argmax() in (0, 9)  # nested minima and maxima; about 17 % each
    assert 0.1 < shares.max() < 0.25


def _prepared(**options: object) -> ListOps:
    data = ListOps(**{**SHORT, "batch_size": 4, **options})  # type: ignore[arg-type]
    data.prepare_data()
    return data


def _expressions(data: ListOps, split: str) -> list[tuple[int, ...]]:
    batch = data.dataset(split).__getitems__(range(len(data.dataset(split))))  # type: ignore[arg-type]
    mask = torch.ones_like(batch.tokens, dtype=torch.bool) if batch.mask is None else batch.mask
    return [tuple(row[real].tolist()) for row, real in zip(batch.tokens, mask, strict=True)]


def test_splits_share_no_example_and_no_run_changes_them() -> None:
    ours, theirs = _prepared(seed=0), _prepared(seed=1)
    splits = {split: _expressions(ours, split) for split in SPLITS}
    assert [len(splits[split]) for split in SPLITS] == [40, 8, 8]
    assert len({row for rows in splits.values() for row in rows}) == 56
    assert splits == {split: _expressions(theirs, split) for split in SPLITS}
    assert ours.fingerprint() == theirs.fingerprint()
    other = _prepared(generator_seed=1)
    assert _expressions(other, "train") != splits["train"]
    assert other.fingerprint() != ours.fingerprint()


def test_the_splits_of_a_small_space_are_alike() -> None:
    """Likely, that is short, examples are drawn first, but do not all end up in the first split."""
    sizes = {"train_examples": 400, "validation_examples": 400, "test_examples": 400}
    data = _prepared(**sizes, min_length=0, max_length=8)
    means = [data.dataset(split).lengths.float().mean().item() for split in SPLITS]
    assert max(means) - min(means) < 0.2


def test_examples_are_made_once(monkeypatch: pytest.MonkeyPatch) -> None:
    first = _expressions(_prepared(), "train")
    monkeypatch.setattr(Grammar, "generate", None)
    assert _expressions(_prepared(), "train") == first
    with pytest.raises(TypeError):
        _prepared(max_depth=3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"train_examples": 500, "min_length": 0, "max_length": 5}, r"only 4\d\d of 516 different"),
        ({"max_depth": 1}, "only 0 of 56"),
        ({"max_depth": 2, "max_arguments": 2}, "only 0 of 56"),
    ],
)
def test_more_examples_than_there_are_end_in_an_error(options: dict[str, int], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        _prepared(**options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"train_examples": 0}, "train_examples"),
        ({"min_length": 38, "max_length": 39}, "no whole number"),
        ({"min_length": -1}, "no whole number"),
        ({"max_depth": 0}, "max_depth lies between 1 and 1,000"),
        ({"max_arguments": 1}, "max_arguments lies between 2 and 1,000"),
        ({"behaviour": "as_realeased"}, "did you mean 'as_released'"),
        ({"limit": 0}, "limit"),
        ({"limit": 100, "behaviour": "as_released"}, "limit belongs to data.behaviour correct"),
        ({"generator_seed": -1}, "generator_seed"),
    ],
)
def test_parameters_that_do_not_fit_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        ListOps(**{**SHORT, **options})  # type: ignore[arg-type]


def test_correct_reads_every_token_and_masks_the_padding() -> None:
    data = _prepared()
    batch = next(iter(data.train_dataloader()))
    assert batch.mask is not None
    assert batch.tokens.shape == batch.mask.shape
    last = batch.mask.sum(dim=1) - 1
    assert (batch.tokens[torch.arange(4), last] == WORDS.index("]")).all()
    for tokens, real, target in zip(batch.tokens, batch.mask, batch.target, strict=True):
        row = tokens[real].numpy().astype(np.uint8)
        assert evaluate(row, np.array([len(row)])).tolist() == target.tolist()
    assert data.cut == dict.fromkeys(SPLITS, 0)
    assert data.task.max_length == 39


def test_longer_sequences_are_cut_and_counted() -> None:
    whole, cut = _prepared(), _prepared(limit=10)
    counted = 0
    for ours, theirs in zip(_expressions(cut, "train"), _expressions(whole, "train"), strict=True):
        assert ours == theirs[:10]
        counted += len(theirs) > 10
    assert 0 < counted < 40
    assert cut.facts()["cut"]["train"] == counted
    assert any(f"longer than 10 tokens: {counted} train" in line for line in cut.describe())
    assert cut.fingerprint() != whole.fingerprint()


def test_as_released_is_what_the_reference_implementation_did() -> None:
    whole = _prepared(max_length=1200, min_length=400)
    released = _prepared(max_length=1200, min_length=400, behaviour="as_released")
    batch = released.dataset("train").__getitems__(range(40))
    assert batch.tokens.shape == (40, 512)
    assert batch.mask is None
    assert torch.equal(batch.target, whole.dataset("train").__getitems__(range(40)).target)
    longer = 0
    for ours, theirs in zip(batch.tokens.tolist(), _expressions(whole, "train"), strict=True):
        content = [token for token in theirs if WORDS[token] != "]"]
        longer += len(content) > 512
        assert ours == (content + [RELEASED_PAD] * 512)[:512]
    assert 0 < longer < 40
    assert released.facts()["cut"]["train"] == longer
    assert (released.task.name, released.task.max_length, released.task.vocabulary_size) == (
        "listops_as_released", 512, 15,
    )  # fmt: skip
    assert "as released" in released.describe()[-1]
    assert released.fingerprint() != whole.fingerprint()


@given(trees=st.lists(TREES, min_size=1, max_size=8), parentheses=st.booleans(), end=st.sampled_from(["\n", "\r\n"]))
def test_what_was_written_is_read_back(
    trees: list[Tree], parentheses: bool, end: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("official") / "basic_val.tsv"
    text = _write(path, trees).read_text() if parentheses else ""
    if not parentheses:
        text = "\n".join(["Source\tTarget", *(f"{' '.join(_words(tree))}\t{_value(tree)}" for tree in trees)]) + "\n"
    path.write_bytes(text.replace("\r\n", "\n").replace("\n", end).encode())
    for ours, theirs in zip(read_official(path), _examples(trees), strict=True):
        assert np.array_equal(ours, theirs)


@given(trees=st.lists(TREES, min_size=1, max_size=4), share=st.floats(0, 1))
def test_a_truncated_file_is_refused_or_ends_behind_a_line(
    trees: list[Tree], share: float, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = _write(tmp_path_factory.mktemp("official") / "basic_val.tsv", trees)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    lines = path.read_text().splitlines()
    if len(lines) > 1 and re.search(r"\t\d$", lines[-1]):
        assert _rows(read_official(path)) == _rows(_examples(trees[: len(lines) - 1]))
    else:
        with pytest.raises(FPTError, match=r"basic_val\.tsv, line \d+: "):
            read_official(path)


BAD_LINES = {
    "( ( ( [MAX 4 ) 3 ) ]": "no tab with a target",
    "( ( ( [MAX 4 ) 3 ) ] )\t": "must be a digit, got ''",
    "( ( ( [MAX 4 ) 3 ) ] )\t12": "must be a digit, got '12'",
    "( ( ( [MAX 4 ) 3 ) ] )\t3": "the target is 3 where the expression is worth 4",
    "( ( ( [MAX 4 ) 3 ) ]\t4": "the parentheses do not match",
    "( ( [MAX 4 ) 3 )\t4": "1 brackets are never closed",
    "( ( ( [MAXI 4 ) 3 ) ] )\t4": r"unknown token '\[MAXI'",
    "( ( ( [MAX 4 ) 13 ) ] )\t4": "unknown token '13'",
    "x" * 5000 + "\t4": r"unknown token 'x{20}'\.\.\.",
    "": "no tab",
    "\t3": "the expression is empty",
    "[SM " * 300_000 + "1" + " ]" * 300_000 + "\t1": "deeper than 1,000",
}


@pytest.mark.parametrize("line", BAD_LINES, ids=lambda line: line[:30])
def test_a_bad_line_is_named(line: str, tmp_path: Path) -> None:
    path = _write(tmp_path / "basic_train.tsv", [7, ("[SM", [9, 9])])
    good = path.read_text().splitlines()
    path.write_text("\n".join([*good[:1], *(good[1:] * 600), line, *good[1:]]) + "\n")
    with pytest.raises(FPTError, match=rf"basic_train\.tsv, line 1,202: .*{BAD_LINES[line]}") as refused:
        read_official(path)
    assert len(str(refused.value)) < 400


@pytest.mark.parametrize("content", [b"", b"Source\tTarg", b"\x89PNG\r\n", b"( [MAX 4 ) ]\t4\n"])
def test_a_file_without_the_header_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "basic_test.tsv").write_bytes(content)
    with pytest.raises(FPTError, match=r"basic_test\.tsv, line 1: the header must be"):
        read_official(tmp_path / "basic_test.tsv")


def test_a_file_without_examples_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FPTError, match="line 2: there are no examples"):
        read_official(_write(tmp_path / "basic_test.tsv", []))


@pytest.fixture
def official(tmp_path: Path) -> Path:
    """A folder with small files of Long Range Arena's format."""
    grammar = Grammar(5, 40)
    generator = random.Random(3)
    (tmp_path / "official").mkdir()
    for name, count in zip(FILES.values(), (12, 5, 4), strict=True):
        trees: list[Tree] = []
        while len(trees) < count:
            tree = _plain_tree(generator, grammar)
            trees += [tree] if 5 < len(_words(tree)) < 40 else []
        _write(tmp_path / "official" / name, trees)
    return tmp_path / "official"


def test_official_files_are_read_where_a_source_is_given(official: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = _prepared(source=str(official))
    assert [len(data.dataset(split)) for split in SPLITS] == [12, 5, 4]
    expected = _rows(read_official(official / "basic_val.tsv"))
    assert [bytes(row) for row in _expressions(data, "validation")] == expected
    monkeypatch.setattr("fpt_lightning.data.listops.datamodule.read_official", None)  # verified once, then kept
    assert _prepared(source=str(official)).fingerprint() == data.fingerprint()


def test_the_fingerprint_follows_the_files(official: Path) -> None:
    before = _prepared(source=str(official)).fingerprint()
    lines = (official / "basic_val.tsv").read_text().splitlines()
    (official / "basic_val.tsv").write_text("\n".join(lines[:-1]) + "\n")
    data = _prepared(source=str(official))
    assert data.fingerprint() != before
    assert len(data.dataset("validation")) == 4


def test_a_missing_file_is_named(official: Path) -> None:
    (official / "basic_val.tsv").unlink()
    with pytest.raises(FPTError, match=r"basic_val\.tsv cannot be read \(No such file.*\n.*data\.source"):
        _prepared(source=str(official))


def test_files_with_longer_sequences_than_promised_are_refused(official: Path) -> None:
    with pytest.raises(UsageError, match=r"sequences of \d+ tokens: set data\.max_length above"):
        _prepared(source=str(official), max_length=12)


def test_the_root_operator_is_judged_by_its_commonest_answer() -> None:
    data = _prepared(train_examples=200, validation_examples=50, test_examples=50)
    answers: dict[int, Counter[int]] = defaultdict(Counter)
    table = data.dataset("train")
    for index in range(200):
        batch = table[index]
        answers[int(batch.tokens[0, 0])][int(batch.target)] += 1
    most = {root: max(counter.values()) for root, counter in answers.items()}
    guess = {root: min(n for n in counter if counter[n] == most[root]) for root, counter in answers.items()}
    baselines = data.trivial_baselines()
    assert list(baselines) == ["commonest class", "root operator"]
    for split, place in (("validation", 0), ("test", 1)):
        batches = [data.dataset(split)[index] for index in range(50)]  # type: ignore[arg-type]
        right = [int(batch.target) == guess[int(batch.tokens[0, 0])] for batch in batches]
        assert baselines["root operator"][place] == pytest.approx(sum(right) / 50)
    assert _prepared(behaviour="as_released").trivial_baselines() == _prepared().trivial_baselines()


@pytest.mark.parametrize(("lengths", "share"), [((10, 100), 0.331), ((500, 2000), 0.364)])
def test_the_root_operator_is_worth_a_third(lengths: tuple[int, int], share: float) -> None:
    sizes = {"train_examples": 4000, "validation_examples": 2000, "test_examples": 2000}
    low, high = lengths
    data = ListOps(min_length=low, max_length=high, **sizes)
    data.prepare_data()
    value = data.trivial_baselines()["root operator"]
    assert (value.val + value.test) / 2 == pytest.approx(share, abs=0.025)  # three standard errors


def test_the_release_is_also_asked_for_with_that_of_all_data() -> None:
    released = _prepared(as_released=True)
    assert released.fingerprint() == _prepared(behaviour="as_released").fingerprint()
    assert _prepared(as_released=True, behaviour="correct").fingerprint() == released.fingerprint()
