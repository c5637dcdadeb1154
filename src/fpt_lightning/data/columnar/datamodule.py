"""Tasks from tables of one's own: a sequence in one column or several, a class or a number in another."""

import textwrap
from abc import abstractmethod
from dataclasses import replace
from functools import cached_property
from importlib.util import find_spec
from typing import Any

from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_info

from fpt_lightning.data.columnar.classes import expect_trained, remarks
from fpt_lightning.data.columnar.columns import Kind, TableSource, is_blank, read_sequences, read_targets
from fpt_lightning.data.columnar.encoding import Codes, Columns, Content, Units, digest, mean_and_std
from fpt_lightning.data.columnar.splits import cut
from fpt_lightning.data.datamodule import SPLITS, FPTDataModule, Split
from fpt_lightning.data.options import check_split_seed, expect_encoding
from fpt_lightning.data.sequences import LabelledSequences, SequenceTable
from fpt_lightning.data.spec import TaskSpec
from fpt_lightning.errors import FPTError, UsageError, are_shares, at_least


class TableTask(FPTDataModule):
    """A task in a table: every row a sequence and its class, or its number.

    One input column holds the whole sequence: separated by blanks in text, or as a list (Parquet and Hugging Face
    datasets). Several hold an element each, in the order in which they are given. Vocabulary and classes are those of
    the training table in sorted order. Numbers are brought to mean 0 and deviation 1 over the training split: each
    column by itself, or each of the ``token_width`` numbers of a token where one column holds the sequence.

    Args:
        target_column: The column of the answer.
        input_columns: The column of the sequence, or several of one element each; by default all but the target, and
            but those in which pandas has left the numbers of rows.
        kind: What the elements are: ``numbers``, ``ids`` (whole numbers from 0 on), ``words`` (anything between
            blanks) or ``characters`` of a text.
        regression: Whether the answer is a number; otherwise it is a class, whatever it is called.
        token_width: Numbers in a token.
        limit: Tokens of a sequence that are read, from its beginning; all by default.
        standardize: Whether numbers are brought to mean 0 and deviation 1.
        unknown: Whether tokens that the training table does not have share an id of their own; otherwise they are an
            error.
        validation_share: Share of the training table that is set aside where there is no table for validation.
        test_share: The same for test.
        split_seed: Which rows those are; the same for all runs that are compared.
        name: The task's name in results; that of the data by default.
        root: Folder in which the data is looked for.
        kwargs: Those of :class:`FPTDataModule`.
    """

    PACKAGE, EXTRA = "pyarrow", "tables"

    def __init__(
        self,
        target_column: str,
        input_columns: list[str] | str | None = None,
        kind: Kind = "numbers",
        regression: bool = False,
        token_width: int = 1,
        limit: int | None = None,
        standardize: bool = True,
        unknown: bool = False,
        validation_share: float = 0.1,
        test_share: float = 0.1,
        split_seed: int = 0,
        name: str | None = None,
        root: str = ".",
        **kwargs: Any,
    ) -> None:
        super().__init__(root=root, **kwargs)
        self.target_column = target_column
        self.input_columns = [input_columns] if isinstance(input_columns, str) else input_columns
        self.kind = kind
        self.regression = regression
        self.token_width = token_width
        self.limit = limit
        self.standardize = standardize
        self.unknown = unknown
        self.shares: dict[Split, float] = {"validation": validation_share, "test": test_share}
        self.split_seed = split_seed
        self.name = name
        at_least(1, "data.", token_width=token_width, limit=limit)
        are_shares("data.", validation_share=validation_share, test_share=test_share)
        check_split_seed(split_seed)
        if token_width > 1 and kind != "numbers":
            raise UsageError(f"data.token_width is for numbers; a token of {kind} is one of them")
        if self.input_columns is not None and target_column in self.input_columns:
            raise UsageError(f"data.target_column '{target_column}' is among data.input_columns")
        if len(set(self.input_columns or [])) < len(self.input_columns or []):
            raise UsageError("data.input_columns names a column twice")
        spec = find_spec(self.PACKAGE)
        if spec is None or spec.origin is None:  # without an origin: a mere folder of that name
            raise FPTError(f'{type(self).__name__} needs {self.PACKAGE}: pip install "fpt-lightning[{self.EXTRA}]"')

    @abstractmethod
    def source(self, split: Split) -> TableSource | None:
        """The table of a split; None where it is to be cut from the training table."""

    def new_source(self) -> TableSource | None:
        """The table of new rows to predict, with or without the target column."""
        return None

    @property
    @abstractmethod
    def default_name(self) -> str: ...

    @property
    def task(self) -> TaskSpec:
        """One answer on the last token; the other sizes are those of the data, which is read for it."""
        return self.content.task if self.learnt is None else TaskSpec(**self.learnt["task"])

    @property
    def class_names(self) -> list[str] | None:
        """The labels of the classes, as the target column has them."""
        if self.learnt is not None:
            names: list[str] | None = self.learnt.get("class_names")
            return names
        return None if self.regression else self.content.codes.classes.to_pylist()

    def encoding(self) -> dict[str, Any]:
        """Columns, words, classes and units of the training table."""
        if self.learnt is not None:
            return self.learnt
        units = self.content.units
        return {
            **super().encoding(),
            **self.content.codes.as_plain(),
            "kind": self.kind,
            "columns": self.input_columns,
            "units": units and [part.tolist() for part in units],
            "task": self.task.as_dict(),
        }

    def use_encoding(self, encoding: dict[str, Any]) -> None:
        if encoding == (self.learnt or {}) or (encoding and "content" in vars(self) and encoding == self.encoding()):
            return
        expect_encoding(encoding, ("task", "kind"), "a table")
        task = TaskSpec(**encoding["task"]) if encoding else None
        if task is not None:
            other = {"kind": encoding["kind"], "regression": task.classes is None, "token_width": task.token_width or 1}
            for name, value in other.items():
                if getattr(self, name) != value:
                    raise UsageError(f"data.{name} is {getattr(self, name)}, the checkpoint was trained with {value}")
        super().use_encoding(encoding)
        vars(self).pop("content", None)  # which was read otherwise

    @cached_property
    def content(self) -> Content:
        """All splits, read once."""
        learnt = self.learnt
        sizes = self.task if learnt else None
        read = {split: self._read(source, sizes) for split in SPLITS if (source := self.source(split)) is not None}
        codes = Codes.from_plain(learnt) if learnt else Codes.of(read["train"], self.kind, unknown=self.unknown)
        encoded = {split: codes.encode(columns, self.token_width) for split, columns in read.items()}
        splits, drawn = cut(encoded, self.shares, self.split_seed, self.default_name, regression=self.regression)
        facts = {
            "examples": {split: digest(part) for split, part in splits.items()},
            "vocabulary": None if codes.words is None else codes.words.to_pylist(),
            "classes": [] if self.regression else codes.classes.to_pylist(),
            "standardize": self.standardize,
        }
        task = sizes or self._sizes(codes, splits)
        if learnt:
            units = Units.from_plain(learnt["units"])
        elif self.kind == "numbers" and self.standardize:
            units = Units.of(splits["train"], int(splits["train"].lengths[0]) if len(read["train"].inputs) > 1 else 1)
        else:
            units = None
        if units is not None:
            splits = {split: units.standardized(part) for split, part in splits.items()}
        shortened = sum(columns.shortened for columns in read.values())
        tables = {split: part.table() for split, part in splits.items()}
        for split, rows in drawn.items():
            tables[split].names = [str(row) for row in rows]
        return Content(task, codes, units, tables, shortened, facts)

    def prepare_data(self) -> None:
        if not self._predicts_new:
            classes = self.content.facts["classes"]  # so that a wrong cell is named before a run begins
            if classes and (self.trainer is None or self.trainer.state.fn == TrainerFn.FITTING):
                expect_trained(f"{self.default_name}, column '{self.target_column}'", classes, self.content.splits)

    def setup(self, stage: str) -> None:
        super().setup(stage)
        if stage == TrainerFn.FITTING and (classes := self.content.facts["classes"]):
            for line in remarks(classes, self.content.splits):
                rank_zero_info(f"{self.default_name}: {line}")

    @property
    def _predicts_new(self) -> bool:
        return self._predicts and self.new_source() is not None

    def is_cut(self, split: Split) -> bool:
        return self.source(split) is None and not self._predicts_new

    def new_examples(self) -> SequenceTable | None:
        """The rows of :meth:`new_source` in their order, read as the training table was."""
        if (source := self.new_source()) is None:
            return None
        learnt = self.encoding()
        source = replace(source, optional=self.target_column)
        columns = self._read(source, TaskSpec(**learnt["task"]), is_new=True)
        encoded, units = Codes.from_plain(learnt).encode(columns, self.token_width), Units.from_plain(learnt["units"])
        table = (encoded if units is None else units.standardized(encoded)).table()
        if columns.targets is None:
            table.targets = table.targets[:, :0]
        return table

    def dataset(self, split: Split) -> SequenceTable:
        return self.content.splits[split]

    def facts(self) -> dict[str, Any]:
        """Hashes of the encoded examples: the same rows in another file format have the same."""
        return self.content.facts

    def describe(self) -> list[str]:
        lines = super().describe()
        if classes := self.content.facts["classes"]:
            lines.append(textwrap.shorten(f"classes: {', '.join(classes)}", 120))
            lines += remarks(classes, self.content.splits)
        if cut := [split for split in SPLITS[1:] if self.is_cut(split)]:
            lines.append(f"{' and '.join(cut)} cut from the training table, split_seed {self.split_seed}")
        if self.limit is not None:
            lines.append(f"limit {self.limit}: {self.content.shortened:,} sequences lost their end")
        return lines

    def _read(self, source: TableSource, learnt: TaskSpec | None = None, *, is_new: bool = False) -> Columns:
        """Reads a table: sequences that fit sizes which are ``learnt``, targets that new rows may lack."""
        has_targets = not is_new or self.target_column in source.columns
        inputs = self._inputs(source, self.target_column if has_targets else None)
        table = source.load([*inputs, *([self.target_column] if has_targets else [])])
        has_targets = has_targets and not (is_new and is_blank(table[self.target_column]))
        if table.num_rows == 0:
            raise FPTError(f"{source.name} has no rows")
        sequences = read_sequences(source, table, inputs, self.kind)
        if (uneven := sequences.lengths % self.token_width).any():
            row = int((uneven > 0).argmax())
            what = f"{sequences.lengths[row]} numbers, which data.token_width {self.token_width} does not divide"
            raise source.fault(inputs[0], row, what)
        longest = int(sequences.lengths.max())
        limit = min(self.limit * self.token_width, longest) if self.limit is not None else longest
        if learnt is not None and limit > (most := learnt.max_length * self.token_width):
            if self.limit is None:
                what = f"{longest // self.token_width} tokens, where the model has met at most {learnt.max_length}"
                way_out = f"data.limit {learnt.max_length} cuts them"
                raise source.fault(inputs[0], int(sequences.lengths.argmax()), f"{what}; {way_out}")
            limit = most
        return Columns(
            source=source,
            inputs=inputs,
            target=self.target_column,
            sequences=sequences.shortened(limit),
            targets=read_targets(source, table, self.target_column, "numbers" if self.regression else "words")
            if has_targets
            else None,
            shortened=int((sequences.lengths > limit).sum()),
        )

    def _inputs(self, source: TableSource, target: str | None) -> list[str]:
        """The input columns; the training table's, where none are named."""
        source.require([] if target is None else [target])
        if self.learnt is not None:
            columns: list[str] = self.learnt["columns"]
            source.require(columns)
            return columns
        if self.input_columns is None:
            none = {self.target_column, *source.numbering}
            self.input_columns = [column for column in source.columns if column not in none]
        source.require(self.input_columns)
        if not self.input_columns:
            raise UsageError(f"{source.name}: there is no input column beside the target '{self.target_column}'")
        if len(self.input_columns) > 1 and self.kind == "characters":
            raise UsageError("data.kind characters reads the text of one column: set data.input_columns to it")
        return self.input_columns

    def _sizes(self, codes: Codes, examples: dict[Split, LabelledSequences]) -> TaskSpec:
        mean, std = 0.0, 1.0
        if self.regression:
            numbers = examples["train"].targets
            if (numbers == numbers[0]).all():
                raise FPTError(
                    f"{self.default_name}, column '{self.target_column}': every row to train on has {numbers[0]:g}, "
                    "so there is nothing to learn"
                )
            mean, std = mean_and_std(numbers)
        return TaskSpec(
            name=self.name or self.default_name,
            max_length=max(int(part.lengths.max()) for part in examples.values()),
            classes=None if self.regression else len(codes.classes),
            token_width=self.token_width if self.kind == "numbers" else None,
            vocabulary_size=codes.vocabulary_size,
            target_mean=mean,
            target_std=std,
        )
