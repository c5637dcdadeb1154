"""The grammar of ListOps: its words, what an expression is worth, and random expressions of it."""

from dataclasses import dataclass

import numpy as np

from fpt_lightning.data.sequences import LabelledSequences
from fpt_lightning.errors import UsageError

WORDS = (*(str(digit) for digit in range(10)), "[MIN", "[MAX", "[MED", "[SM", "]")
"""The 15 token types of Long Range Arena; a word's place is its id, so a digit is its own id."""
MIN, MAX, MED, SM, CLOSE = range(10, 15)

GENERATOR_VERSION = 1
"""Changes whenever the same parameters and seed give other examples."""
OPERATOR_PROBABILITY = 0.25  # Long Range Arena calls it VALUE_P
MAX_DEPTH = 1000
MAX_ARGUMENTS = 1000
RAREST = 10_000
"""Trees among which one at least must be a new example; where it is not, generating would hardly ever end."""

_STEP = np.array([0] * 10 + [1] * 4 + [-1], dtype=np.int8)  # what a word adds to the number of open brackets


class MalformedError(ValueError):
    """Of several sequences of tokens the one of this index is the first that is no expression."""

    def __init__(self, index: int, cause: str) -> None:
        super().__init__(cause)
        self.index = index


def evaluate(tokens: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """What expressions are worth: ``[examples]`` uint8.

    MIN and MAX as usual, MED the median rounded down, SM the sum modulo 10 (Long Range Arena's ``to_value``). All
    expressions are reduced together, the innermost brackets first, without recursion.

    Args:
        tokens: ``[tokens of all examples]`` uint8.
        lengths: ``[examples]``.

    Raises:
        MalformedError: If brackets do not match, an operator has no arguments, a sequence is empty or goes on behind
            its end, or brackets nest deeper than :data:`MAX_DEPTH`.
    """
    depth = np.cumsum(_STEP[tokens], dtype=np.int64)
    ends = np.cumsum(lengths)
    _check(tokens, depth, ends)
    values = tokens.copy()  # a digit is worth itself; a closing bracket will be worth what it closes
    by_depth = np.argsort(depth.astype(np.uint16), kind="stable")
    levels = np.split(by_depth, np.cumsum(np.bincount(depth))[:-1])
    for outer, inner in zip(levels[-2::-1], levels[:0:-1], strict=True):
        # in `inner` every operator is followed by its arguments: digits, and brackets that close a deeper level
        is_operator = _is_operator(tokens[inner])
        operators, arguments = np.flatnonzero(is_operator), values[inner[~is_operator]]
        first = operators - np.arange(len(operators))
        # the brackets that close these operators lie one level up, in the same order
        values[outer[tokens[outer] == CLOSE]] = _apply(tokens[inner[operators]], arguments, first)
    return values[ends - 1]


def _is_operator(tokens: np.ndarray) -> np.ndarray:
    return (tokens >= MIN) & (tokens < CLOSE)


def _apply(operators: np.ndarray, arguments: np.ndarray, first: np.ndarray) -> np.ndarray:
    """Applies each operator to the arguments from its ``first`` to that of the next operator."""
    count = np.diff(first, append=len(arguments))
    group = np.repeat(np.arange(len(operators)), count)
    ordered = np.sort(group * 16 + arguments) % 16  # sorted within each group
    median = (ordered[first + (count - 1) // 2] + ordered[first + count // 2]) // 2
    total = np.add.reduceat(arguments, first, dtype=np.int64)
    return np.choose(operators - MIN, [ordered[first], ordered[first + count - 1], median, total % 10])


def _check(tokens: np.ndarray, depth: np.ndarray, ends: np.ndarray) -> None:
    """Refuses the first sequence that is no expression; ``depth`` is right up to its end, for all before it close."""
    if (empty := np.flatnonzero(np.diff(ends, prepend=0) == 0)).size:
        _check(tokens[: ends[empty[0]]], depth[: ends[empty[0]]], ends[: empty[0]])
        raise MalformedError(int(empty[0]), "the expression is empty")
    wrong = depth < 1
    wrong[ends - 1] = depth[ends - 1] != 0
    wrong |= depth > MAX_DEPTH
    wrong[1:] |= _is_operator(tokens[:-1]) & (tokens[1:] == CLOSE)
    if not wrong.any():
        return
    position = int(wrong.argmax())
    index = int(np.searchsorted(ends, position, side="right"))
    if depth[position] < 0:
        cause = "a ] closes nothing"
    elif depth[position] > MAX_DEPTH:
        cause = f"brackets nest deeper than {MAX_DEPTH:,}"
    elif tokens[position] == CLOSE and _is_operator(tokens[position - 1]):
        cause = f"{WORDS[tokens[position - 1]]} has no arguments"
    elif depth[position] == 0:
        cause = "the expression goes on behind its end"
    else:
        cause = f"{depth[position]:,} brackets are never closed"
    raise MalformedError(index, cause)


@dataclass(frozen=True)
class Grammar:
    """The distribution of Long Range Arena's ListOps (Tay et al. 2021, section 2.2.1; defaults of its generator).

    A node is an operator with probability 0.25, with 2 to ``max_arguments`` arguments, and otherwise a digit, all
    uniform; the root has depth 1, and at ``max_depth`` there are only digits. A tree counts where
    ``min_length < tokens < max_length``; operators, digits and closing brackets are tokens.

    Raises:
        UsageError: If a parameter allows no tree.
    """

    min_length: int = 500
    max_length: int = 2000
    max_depth: int = 10
    max_arguments: int = 10

    def __post_init__(self) -> None:
        for name, lowest, highest in (("max_depth", 1, MAX_DEPTH), ("max_arguments", 2, MAX_ARGUMENTS)):
            if not lowest <= (value := getattr(self, name)) <= highest:
                raise UsageError(f"data.{name} lies between {lowest} and {highest:,}, got {value}")
        if not 0 <= self.min_length < self.max_length - 1:
            raise UsageError(
                "no whole number of tokens lies between "
                f"data.min_length {self.min_length} and data.max_length {self.max_length}"
            )

    @property
    def trees(self) -> int:
        """Trees to grow together: enough to be quick, few enough for 32 MiB of tokens."""
        return max(1, min(2**14, 2**25 // self.max_length))

    def sample(self, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Grows random trees, all of them a token at a time, and keeps those whose length counts.

        Returns:
            ``[tokens of all that were kept]`` uint8 and the ``[kept]`` lengths.
        """
        grown = np.empty((self.max_length - 1, self.trees), dtype=np.uint8)
        lengths = np.zeros(self.trees, dtype=np.int64)
        active = np.arange(self.trees)  # trees that are not complete yet
        level = np.zeros(self.trees, dtype=np.int64)  # brackets open in each of them
        missing = np.zeros((self.max_depth, self.trees), dtype=np.int16)  # arguments still to come, at every level
        missing[0] = 1
        for position in range(self.max_length - 1):
            closes = missing[level, active] == 0
            missing[level, active] -= 1
            # a digit alone is a tree of one token: where that is too short, only trees that go on are drawn
            certain = position == 0 and self.min_length > 0
            opens = certain | (generator.random(len(active), dtype=np.float32) < OPERATOR_PROBABILITY)
            opens &= ~closes & (level + 1 < self.max_depth)
            words = generator.integers(10, size=len(active), dtype=np.uint8)
            words[closes] = CLOSE
            opened = np.flatnonzero(opens)
            words[opened] = generator.integers(MIN, CLOSE, size=len(opened), dtype=np.uint8)
            grown[position, active] = words
            level += opens
            level -= closes
            missing[level[opened], active[opened]] = generator.integers(2, self.max_arguments + 1, size=len(opened))
            goes_on = level > 0
            lengths[active[~goes_on]] = position + 1
            active, level = active[goes_on], level[goes_on]
        kept = np.flatnonzero(lengths > self.min_length)
        return grown.T[kept][np.arange(self.max_length - 1) < lengths[kept, None]], lengths[kept]

    def generate(self, examples: int, seed: int) -> LabelledSequences:
        """Distinct random examples in random order; a function of the parameters, their number and the seed.

        Raises:
            UsageError: If there are hardly so many different ones.
        """
        from tqdm import tqdm

        generator = np.random.Generator(np.random.Philox(seed))
        drawn: dict[bytes, int] = {}  # what each expression is worth
        with tqdm(total=examples, desc="listops", unit=" examples", disable=None) as bar:
            while len(drawn) < examples:
                before = len(drawn)
                tokens, lengths = self.sample(generator)
                rows = np.split(tokens, np.cumsum(lengths))[:-1]
                for row, target in zip(rows, evaluate(tokens, lengths).tolist(), strict=True):
                    drawn[row.tobytes()] = target
                if (len(drawn) - before) * RAREST < self.trees and len(drawn) < examples:
                    raise UsageError(
                        f"listops: only {len(drawn):,} of {examples:,} different examples were found with more than "
                        f"{self.min_length} and fewer than {self.max_length} tokens, and hardly any new ones turn up.\n"
                        "Ask for fewer examples, or widen data.min_length, max_length, max_depth or max_arguments."
                    )
                bar.update(min(len(drawn), examples) - before)
        # in the order of drawing the likeliest would come first, and the splits would differ
        expressions = list(drawn)
        chosen = [expressions[index] for index in generator.permutation(examples)]
        return LabelledSequences(
            np.frombuffer(bytearray().join(chosen), dtype=np.uint8),
            np.array([len(expression) for expression in chosen], dtype=np.int32),
            np.array([drawn[expression] for expression in chosen], dtype=np.uint8),
        )
