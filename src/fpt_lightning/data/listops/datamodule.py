"""ListOps of Long Range Arena: generated or read, correct or as the reference implementation read it."""

from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_info

from fpt_lightning.data.cache import Tensors, cache_file, content_hash, kept
from fpt_lightning.data.datamodule import SPLITS, FPTDataModule, Split
from fpt_lightning.data.listops.files import FILES, READER_VERSION, read_official, source_hash
from fpt_lightning.data.listops.grammar import CLOSE, GENERATOR_VERSION, WORDS, Grammar
from fpt_lightning.data.loading import Part
from fpt_lightning.data.sequences import LabelledSequences, SequenceTable
from fpt_lightning.data.spec import TaskSpec, Trivial
from fpt_lightning.errors import UsageError, at_least, did_you_mean
from fpt_lightning.machine import expect_memory

Behaviour = Literal["correct", "as_released"]

LIMIT = 2048
RELEASED_LENGTH = 512
RELEASED_PAD = CLOSE  # an id that is free there, because closing brackets are dropped


class ListOps(FPTDataModule):
    """ListOps: nested MIN, MAX, MED and SM over digits, the answer a digit (FPT section 2.2; Tay et al. 2021).

    Examples come from the grammar of :class:`Grammar`, whose defaults are those of Long Range Arena: 96,000 / 2,000 /
    2,000 examples, no two alike, of 501 to 1,999 tokens of 15 types. They are a function of the parameters and
    ``generator_seed``, never of the run's seed. Long Range Arena's own files are read instead where ``source`` names
    their folder; their targets are recomputed once. Either is kept in ``cache_folder``.

    Behaviour ``correct``: every token is read, brackets too, up to ``limit``; padding is masked and the answer is read
    at the last real token. Behaviour ``as_released`` is what the reference implementation did (Rothermel et al. 2021,
    arXiv 2107.12460): closing brackets are dropped and with them the structure, sequences are cut at 512 tokens and
    padded behind the content to 512 with an id of its own, nothing is masked, and the answer is read at the 512th
    token: of Long Range Arena's sequences, one in eight ends before it, on a pad. Its results carry the name
    ``listops_as_released``.

    Args:
        behaviour: ``correct`` or ``as_released``.
        source: Folder of ``basic_train.tsv``, ``basic_val.tsv`` and ``basic_test.tsv``; left out, examples are
            generated. Of the parameters below only ``max_length`` and ``limit`` then matter.
        limit: Tokens that behaviour ``correct`` reads at most; longer sequences lose their end.
        train_examples: Generated examples to train on.
        validation_examples: Generated examples in the validation split.
        test_examples: Generated examples in the test split.
        min_length: Every sequence has more tokens than this.
        max_length: Every sequence has fewer tokens than this.
        max_depth: Depth of the deepest digits; the root has depth 1.
        max_arguments: Most arguments of an operator; the fewest are 2.
        generator_seed: Seed of the generated examples; the same for all runs that are compared.
        kwargs: Those of :class:`FPTDataModule`; ``root`` is unused.
    """

    CLASSES = 10

    def __init__(
        self,
        behaviour: Behaviour = "correct",
        source: str | None = None,
        limit: int = LIMIT,
        train_examples: int = 96_000,
        validation_examples: int = 2_000,
        test_examples: int = 2_000,
        min_length: int = 500,
        max_length: int = 2000,
        max_depth: int = 10,
        max_arguments: int = 10,
        generator_seed: int = 0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.behaviour = "as_released" if self.as_released else behaviour
        self.as_released = self.behaviour == "as_released"
        self.source = source
        self.limit = limit
        self.sizes = dict(zip(SPLITS, (train_examples, validation_examples, test_examples), strict=True))
        self.grammar = Grammar(min_length, max_length, max_depth, max_arguments)
        self.generator_seed = generator_seed
        if source is None:
            examples, tokens = sum(self.sizes.values()), max(1, min_length)
            expect_memory(max(examples * tokens, max_length), f"{examples:,} examples of up to {max_length:,} tokens")
        at_least(1, "data.", **{f"{split}_examples": size for split, size in self.sizes.items()}, limit=limit)
        at_least(0, "data.", generator_seed=generator_seed)
        if self.behaviour not in get_args(Behaviour):
            known = get_args(Behaviour)
            raise UsageError(f"data.behaviour is one of {', '.join(known)}{did_you_mean(self.behaviour, known)}")
        if self.as_released and limit != LIMIT:
            raise UsageError(
                f"data.limit belongs to data.behaviour correct; as_released reads {RELEASED_LENGTH} tokens"
            )

    @property
    def task(self) -> TaskSpec:
        """One answer of 10 classes; ids below 15 whether the last is a closing bracket or, as released, a pad."""
        return TaskSpec(
            name="listops_as_released" if self.as_released else "listops",
            max_length=RELEASED_LENGTH if self.as_released else min(self.limit, self.grammar.max_length - 1),
            classes=self.CLASSES,
            vocabulary_size=len(WORDS),
        )

    def is_cut(self, split: Split) -> bool:
        """Generated examples are drawn together: of other sizes, those that were trained on lie in any split."""
        return self.source is None

    def prepare_data(self) -> None:
        _ = self._stored

    def dataset(self, split: Split) -> SequenceTable:
        most = self.task.max_length
        sequences = self._read(split).truncated(most)
        if self.as_released:
            padded = np.full((len(sequences.lengths), most), RELEASED_PAD, dtype=np.uint8)
            padded[np.arange(most) < sequences.lengths[:, None]] = sequences.values
            sequences = sequences._replace(values=padded.ravel(), lengths=np.full(len(padded), most))
        return sequences.table()

    def trivial_baselines(self) -> dict[str, Trivial]:
        """Adds the commonest answer of the training split to the first token, the root of the tree."""
        counts = torch.zeros(len(WORDS), self.CLASSES)
        counts.index_put_((self._roots("train"), self.targets("train")[:, 0]), torch.tensor(1.0), accumulate=True)
        commonest = counts.argmax(dim=1)[:, None]
        return {**super().trivial_baselines(), "root operator": self.worth(lambda split: commonest[self._roots(split)])}

    def _roots(self, split: Split) -> torch.Tensor:
        examples = self.examples(split)
        whole, kept = (examples.whole, examples.kept) if isinstance(examples, Part) else (examples, slice(None))
        assert isinstance(whole, SequenceTable)
        return whole.values[whole.starts[kept]].long()

    def facts(self) -> dict[str, Any]:
        content = content_hash(tensor for split in SPLITS for tensor in self._stored[split].as_tensors().values())
        return {**self._origin, "content": content, "behaviour": self.behaviour, "cut": self.cut}

    def describe(self) -> list[str]:
        counts = ", ".join(f"{count:,} {split}" for split, count in self.cut.items())
        lines = [*super().describe(), f"cut at the end, because longer than {self.task.max_length} tokens: {counts}"]
        if self.as_released:
            lines.append(f"as released: closing brackets dropped, padded at the end, read at token {RELEASED_LENGTH}")
        return lines

    @cached_property
    def cut(self) -> dict[Split, int]:
        """How many sequences of each split are longer than the model reads."""
        return {split: int((self._read(split).lengths > self.task.max_length).sum()) for split in SPLITS}

    def _read(self, split: Split) -> LabelledSequences:
        """The expressions of a split as the model reads them, before anything is cut."""
        expressions = self._stored[split]
        if not self.as_released:
            return expressions
        stays = expressions.values != CLOSE
        lengths = np.add.reduceat(stays, expressions.starts, dtype=np.int64)
        return expressions._replace(values=expressions.values[stays], lengths=lengths)

    @cached_property
    def _origin(self) -> dict[str, Any]:
        """What the stored expressions are a function of."""
        if self.source is not None:
            hashes = {name: source_hash(Path(self.source) / name) for name in FILES.values()}
            return {"reader": READER_VERSION, "files": hashes}
        return {
            "generator": GENERATOR_VERSION,
            "generator_seed": self.generator_seed,
            "sizes": self.sizes,
            **asdict(self.grammar),
        }

    @cached_property
    def _stored(self) -> dict[Split, LabelledSequences]:
        """The whole expressions of all splits: values are uint8 ids, see :data:`WORDS`, targets their worth."""
        tensors = kept(cache_file(self.cache_folder, "listops", self._origin), self._origin, self._make)
        stored = {split: LabelledSequences.from_tensors(tensors, f"{split}.") for split in SPLITS}
        longest = max(int(expressions.lengths.max()) for expressions in stored.values())
        if longest >= self.grammar.max_length:
            raise UsageError(
                f"data.source {self.source} has sequences of {longest:,} tokens: set data.max_length above that"
            )
        return stored

    def _make(self) -> Tensors:
        rank_zero_info(f"listops: {'generating' if self.source is None else 'reading'} examples, once")
        if self.source is None:
            whole = self.grammar.generate(sum(self.sizes.values()), self.generator_seed)
            ends = np.cumsum(list(self.sizes.values()))[:-1]
            parts = (np.split(whole.values, whole.starts[ends]), *(np.split(each, ends) for each in whole[1:]))
            made = dict(zip(SPLITS, map(LabelledSequences, *parts), strict=True))
        else:
            made = {split: read_official(Path(self.source) / name) for split, name in FILES.items()}
        return {name: tensor for split in SPLITS for name, tensor in made[split].as_tensors(f"{split}.").items()}
