"""Perplexity a token of a unigram and of an n-gram model, beside which a language model's means something.

The n-gram model is interpolated Kneser-Ney (Chen and Goodman 1999, section 4.1.6, one discount an order) on the same
training books and tokens, judged on every token of the held-out books; it sees the tokens before a token across the
edges of windows, which a language model does not.

    python benchmarks/ngram_baseline.py --root FOLDER
"""

import argparse
import json
import math
from pathlib import Path

import numpy as np

from fpt_lightning.data.text.datamodule import TextFolder

BITS = 12  # of a token in a packed n-gram: five of them in 64 bits


def packed(tokens: np.ndarray, order: int) -> np.ndarray:
    """Every n-gram of a text as one number, the latest token in the lowest bits: ``[tokens - order + 1]``."""
    whole = np.zeros(len(tokens) - order + 1, dtype=np.int64)
    for place in range(order):
        whole = (whole << BITS) | tokens[place : len(tokens) - order + 1 + place].astype(np.int64)
    return whole


class Order:
    """The n-grams of one order: what a context is followed by, and how much is left to shorter contexts.

    Args:
        grams: Distinct packed n-grams, sorted.
        counts: How often each counts.
    """

    def __init__(self, grams: np.ndarray, counts: np.ndarray) -> None:
        self.grams, self.counts = grams, counts
        once, twice = (counts == 1).sum(), (counts == 2).sum()
        self.discount = once / (once + 2 * twice) if once else 0.0
        contexts, first, kinds = np.unique(grams >> BITS, return_index=True, return_counts=True)
        self.contexts, self.kinds = contexts, kinds
        self.totals = np.add.reduceat(counts, first)

    def probability(self, grams: np.ndarray, shorter: np.ndarray) -> np.ndarray:
        """Of the last token of each n-gram behind the others, where ``shorter`` is that of the order below."""
        counts = _look_up(grams, self.grams, self.counts)
        totals = _look_up(grams >> BITS, self.contexts, self.totals)
        kinds = _look_up(grams >> BITS, self.contexts, self.kinds)
        known = totals > 0
        safe = np.where(known, totals, 1)
        seen = np.maximum(counts - self.discount, 0) / safe
        return np.where(known, seen + self.discount * kinds / safe * shorter, shorter)


def _look_up(keys: np.ndarray, table: np.ndarray, values: np.ndarray) -> np.ndarray:
    place = np.minimum(np.searchsorted(table, keys), len(table) - 1)
    return np.where(table[place] == keys, values[place], 0)


def kneser_ney(train: np.ndarray, order: int) -> list[Order]:
    """The orders from 1 up; all but the highest count the different tokens before, not how often."""
    grams, counts = np.unique(packed(train, order), return_counts=True)
    orders = [Order(grams, counts)]
    for below in range(order - 1, 0, -1):
        # of the distinct longer n-grams, the last `below` tokens
        longer = np.unique(packed(train, below + 1)) if below + 1 < order else grams
        orders.insert(0, Order(*np.unique(longer & ((1 << BITS * below) - 1), return_counts=True)))
    return orders


def perplexity(orders: list[Order], tokens: np.ndarray, vocabulary: int) -> float:
    """Over all tokens that have a full context."""
    start = len(orders) - 1
    probability = np.full(len(tokens) - start, 1 / vocabulary)
    for number, order in enumerate(orders, 1):
        probability = order.probability(packed(tokens, number)[start - number + 1 :], probability)
    return math.exp(-np.log(probability).mean())


def unigram_perplexity(train: np.ndarray, tokens: np.ndarray, vocabulary: int) -> float:
    """Of the training counts, one added to each."""
    counts = np.bincount(train, minlength=vocabulary) + 1
    return math.exp(-np.log(counts[tokens] / counts.sum()).mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", required=True, help="folder of the texts")
    parser.add_argument("--cache", help="folder of their tokens; by default that of the program's cache")
    parser.add_argument("--vocabulary", type=int, default=4096, help=f"at most {1 << BITS}")
    parser.add_argument("--order", type=int, default=5, help="at most 5")
    parser.add_argument("--out", type=Path, help="the JSON to write")
    arguments = parser.parse_args()
    if not 1 <= arguments.order <= 5 or arguments.vocabulary > 1 << BITS:
        raise SystemExit(f"an n-gram must fit into 64 bits: order at most 5, vocabulary at most {1 << BITS}")
    data = TextFolder(arguments.root, vocabulary=arguments.vocabulary, cache_folder=arguments.cache)
    train, held_out = (np.asarray(data.corpus.tokens[split]) for split in ("train", "validation"))
    result = {
        "validation_tokens": len(held_out),
        "unigram": unigram_perplexity(train, held_out, arguments.vocabulary),
        f"{arguments.order}-gram": perplexity(
            kneser_ney(train, arguments.order), held_out, arguments.vocabulary
        ),
    }  # fmt: skip
    print(json.dumps(result, indent=2))
    if arguments.out:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
