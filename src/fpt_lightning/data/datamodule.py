"""The base of every task's datamodule: splits, seeds, loaders."""

import hashlib
import json
from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import lightning as L
import torch
from lightning.pytorch.trainer.states import TrainerFn

from fpt_lightning.data.cache import default_folder
from fpt_lightning.data.loading import (
    ENDLESS,
    BatchDataset,
    GlobalBatchSampler,
    Part,
    ResumableLoader,
    expect_usable_batches,
    make_loader,
)
from fpt_lightning.data.options import MOST_WORKERS, check_batch_size, check_epochs, check_test, part_of, shown
from fpt_lightning.data.spec import Batch, TaskSpec, TokenWords, Trivial
from fpt_lightning.errors import UsageError, at_least

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = ("train", "validation", "test")

SAMPLE = 4096
"""Examples that stand for an endless training split."""
CHUNK = 256
"""Examples that are made at a time where all of a split are looked at."""


class FPTDataModule(L.LightningDataModule):
    """Hands over batches of one task and the TaskSpec that promises their sizes.

    A task implements :attr:`task`, :meth:`dataset` and :meth:`facts`; where its data comes from outside it also
    implements ``prepare_data``. Where numbers say too little in an attention map it also implements :meth:`token_words`
    and :meth:`needed_tokens`, and :meth:`trivial_baselines` where a shortcut is known; and :meth:`encoding` where the
    training split decides how others are read. Loaders, seeds, processes and resuming are settled here.

    Args:
        root: Folder of the data.
        batch_size: Examples in a training step over all devices together, so that a result does not depend on how
            many there are.
        eval_batch_size: Examples in a validation or test step over all devices together.
        num_workers: Loader processes; 0 loads in the training process, which is fastest for these tasks.
        seed: Seed of the training stream; the command line links it to ``seed_everything``.
        cache_folder: Where what takes long to make of the data is kept for the next start; by default
            ``fpt-lightning`` in ``$XDG_CACHE_HOME`` or ``~/.cache``. Where it cannot be written, every start makes it.
        fraction: The share of the training split that is trained on, the same examples for every seed. How data is
            read, such as the scale of a column, still follows from the whole split.
        as_released: Read the data as the paper's reference implementation did: every switch of the task stands as it
            did there, whatever else is said of it. Nothing changes for tasks without one.

    Raises:
        UsageError: If options make no sense, alone or together; data that is wrong is an FPTError of ``prepare_data``.
    """

    shuffle = True

    def __init__(
        self,
        root: str = "data",
        batch_size: int = 16,
        eval_batch_size: int = 256,
        num_workers: int = 0,
        seed: int = 0,
        cache_folder: str | None = None,
        as_released: bool = False,
        fraction: float = 1.0,
    ) -> None:
        super().__init__()
        self.root = root
        self.batch_size = batch_size
        self.eval_batch_size = eval_batch_size
        self.num_workers = num_workers
        self.seed = seed
        self.cache_folder = Path(cache_folder) if cache_folder else default_folder()
        self.as_released = as_released
        self.fraction = fraction
        self.learnt: dict[str, Any] | None = None  # the encoding of another datamodule, see use_encoding
        self._examples: dict[Split, BatchDataset] = {}
        at_least(1, "data.", batch_size=batch_size, eval_batch_size=eval_batch_size)
        at_least(0, "data.", num_workers=num_workers)
        if not 0 < fraction <= 1:
            raise UsageError(f"data.fraction must be above 0 and at most 1, got {fraction}")
        if num_workers > MOST_WORKERS:
            raise UsageError(f"data.num_workers must be at most {MOST_WORKERS:,}, got {num_workers:,}")

    @property
    @abstractmethod
    def task(self) -> TaskSpec:
        """The sizes of the task; known before any data is read."""

    @abstractmethod
    def dataset(self, split: Split) -> BatchDataset:
        """The examples of a split."""

    @abstractmethod
    def facts(self) -> dict[str, Any]:
        """What decides the content of the data: parameters and hashes of files, as plain values.

        Two datamodules with equal facts hold the same examples.
        """

    @property
    def class_names(self) -> Sequence[str] | None:
        """What the classes are called; None where numbers say it."""
        return None

    def encoding(self) -> dict[str, Any]:
        """How the training split decides that examples are read, as plain values: a checkpoint holds them.

        ``class_names`` is among them, where classes have names.
        """
        return {} if self.class_names is None else {"class_names": list(self.class_names)}

    def use_encoding(self, encoding: dict[str, Any]) -> None:
        """Reads data as the datamodule did whose :meth:`encoding` this is; where it is empty, as its own split says.

        Raises:
            UsageError: If the options of this one ask for something else.
        """
        if encoding != (self.learnt or {}):
            self.learnt = dict(encoding) or None
            self._examples.clear()

    def new_examples(self) -> BatchDataset | None:
        """Examples of no split, to be predicted, with targets ``[examples, 0]`` where they have none; None without."""
        return None

    def is_cut(self, split: Split) -> bool:
        """Whether what is asked of a split is asked of a part that is cut from the training data."""
        return False

    def kept_share(self, split: Split) -> float:
        """The share of a split's examples that is read; accuracy counts those left out as wrong."""
        return 1.0

    def trivial_baselines(self) -> dict[str, Trivial]:
        """What guesses without a model are worth on all of validation and test.

        ``commonest class`` is what most answers of the training split are; a regression's ``training mean`` is theirs.
        A task adds what a shortcut of its own finds.
        """
        answers = self.targets("train").flatten()
        if self.task.classes is None:
            mean = answers.double().mean()
            return {"training mean": self.worth(lambda split: mean)}
        commonest = answers.bincount().argmax()
        return {"commonest class": self.worth(lambda split: commonest)}

    def worth(self, guess: Callable[[Split], torch.Tensor]) -> Trivial:
        """Judges a guess, which gives for a split what can be compared with its targets ``[examples, answers]``."""
        return Trivial(*(self._score(guess(split), split) for split in SPLITS[1:]))

    def _score(self, guess: torch.Tensor, split: Split) -> float:
        score = self.task.score(guess, self.targets(split))
        return score if self.task.classes is None else score * self.kept_share(split)

    def targets(self, split: Split) -> torch.Tensor:
        """The right answers of a split, ``[examples, answers]``; of an endless one, of its first examples."""
        known = self.examples(split).targets
        return torch.cat([batch.target for batch in self.in_chunks(split)]) if known is None else known

    def in_chunks(self, split: Split) -> Iterator[Batch]:
        """The examples of a split in order, as the dataset makes them; of an endless one the first."""
        examples = self.examples(split)
        count = SAMPLE if len(examples) >= ENDLESS else len(examples)
        for start in range(0, count, CHUNK):
            yield examples.__getitems__(range(start, min(start + CHUNK, count)))

    def token_words(self) -> TokenWords:
        """What the tokens are called in an attention map; here numbers from 1."""
        return TokenWords(tuple(str(number) for number in range(1, self.task.max_length + 1)))

    def needed_tokens(self, batch: Batch) -> torch.Tensor | None:
        """The tokens that each answer follows from, ``[batch, answer tokens, length]`` bool; None where unknown."""
        return None

    def fingerprint(self) -> str:
        """A short hash of :meth:`facts` that names the data in a result."""
        part = {} if self.fraction == 1 else {"fraction": self.fraction}  # fingerprints of all data stay as they were
        facts = json.dumps({"task": self.task.as_dict(), **self.facts(), **part}, sort_keys=True)
        return hashlib.sha256(facts.encode()).hexdigest()[:16]

    def describe(self) -> list[str]:
        """What ``fpt prepare`` says of the data, a line each."""
        task = self.task
        sizes = ", ".join(f"{shown(len(self.examples(split)))} {split}" for split in SPLITS)
        tokens = f"{task.token_width} numbers each" if task.token_width else f"ids below {task.vocabulary_size}"
        answers = (
            f"{task.answers} answers of {task.classes} classes"
            if task.classes is not None
            else f"{task.answers} numbers, mean {task.target_mean:.6g}, standard deviation {task.target_std:.6g}"
        )
        return [
            f"{task.name}: {sizes}",
            f"up to {task.max_length} tokens, {tokens}",
            answers,
            f"fingerprint {self.fingerprint()}",
        ]

    def setup(self, stage: str) -> None:
        if stage == "fit":  # before the run has begun
            self.use_encoding({})
            self._check_batch_size()
            expect_usable_batches(self.examples("train"), self.task, self.batch_size)
            if self.trainer is not None:
                check_epochs(self.trainer, self.task.name, len(self.examples("train")), self.batch_size)
                check_test(self.trainer, lambda: len(self.test_dataloader()))

    def train_dataloader(self) -> ResumableLoader:
        """Batches of the training stream, without end for a generated task."""
        self._check_batch_size()
        return self._loader(self.examples("train"), self.batch_size, training=True)

    def val_dataloader(self) -> ResumableLoader:
        return self._loader(self.examples("validation"), self.eval_batch_size, limited_by="limit_val_batches")

    def test_dataloader(self) -> ResumableLoader:
        return self._loader(self.examples("test"), self.eval_batch_size, limited_by="limit_test_batches")

    def predict_dataloader(self) -> ResumableLoader:
        """The new examples, in their order, where there are any; otherwise the test split."""
        new = self.new_examples()
        return self.test_dataloader() if new is None else self._loader(new, self.eval_batch_size, in_order=True)

    def examples(self, split: Split) -> BatchDataset:
        """The examples of a split, made once; of the training split the :attr:`fraction` that is trained on."""
        if split not in self._examples:
            whole = self.dataset(split)
            whole.check(self.task, split)
            is_all = split != "train" or self.fraction == 1
            self._examples[split] = whole if is_all else part_of(whole, self.fraction, self.task.name)
        return self._examples[split]

    def sample(self, examples: int, device: torch.device) -> Batch:
        """Training examples as a model meets them, those that :meth:`some` gives."""
        return self.as_met(self.examples("train").__getitems__(self.some("train", examples)), device)

    def some(self, split: Split, count: int) -> list[int]:
        """The places of so many examples of a split at most, the same for every seed and process; of no end the first.

        They are drawn: data may lie class by class.
        """
        examples = self.examples(split)
        return list(range(count)) if len(examples) >= ENDLESS else Part(examples, count).kept.tolist()

    def as_met(self, fetched: Any, device: torch.device) -> Batch:
        """What a model meets of a batch as its dataset fetched it, on a device."""
        batch: Batch = self.on_after_batch_transfer(self.transfer_batch_to_device(fetched, device, 0), 0)
        return batch

    def met(self, split: Split, indices: Sequence[int], together: int = CHUNK) -> Iterator[Batch]:
        """Examples of a split as a model meets them, on the CPU, so many in a batch."""
        dataset = self.examples(split)
        for start in range(0, len(indices), together):
            yield self.as_met(dataset.__getitems__(indices[start : start + together]), torch.device("cpu"))

    def _check_batch_size(self) -> None:
        check_batch_size(self.batch_size, self._processes, lambda split: len(self.examples(split)))

    def _loader(
        self,
        dataset: BatchDataset,
        batch_size: int,
        *,
        training: bool = False,
        in_order: bool = False,
        limited_by: str | None = None,
    ) -> ResumableLoader:
        expect_usable_batches(dataset, self.task, batch_size)
        most = getattr(self.trainer, limited_by, 1.0) if limited_by else 1.0  # batches, or a share of them
        sampler = GlobalBatchSampler(
            len(dataset),
            batch_size,
            training=training,
            shuffle=training and self.shuffle and len(dataset) < ENDLESS,
            seed=self.seed,
            lengths=None if in_order else dataset.lengths,
            counts_epochs=dataset.counts_epochs,
            limited=most < (1 if isinstance(most, float) else -(-len(dataset) // batch_size)),
            process=self.trainer.global_rank if self.trainer else 0,
            processes=self._processes,
        )
        on_gpu = self.trainer is not None and self.trainer.strategy.root_device.type == "cuda"
        return make_loader(dataset, sampler, self.num_workers, pin_memory=on_gpu)

    @property
    def _predicts(self) -> bool:
        return self.trainer is not None and self.trainer.state.fn == TrainerFn.PREDICTING

    @property
    def _processes(self) -> int:
        return self.trainer.world_size if self.trainer else 1
