"""Which examples a process sees, in which order, and where it stopped."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, DistributedSampler

from fpt_lightning.data.spec import Batch, TaskSpec, expect_padding_behind
from fpt_lightning.errors import UsageError
from fpt_lightning.machine import expect_memory
from fpt_lightning.random_streams import generator

ENDLESS = 2**40
"""Examples of an epoch that no run comes to the end of."""

BUCKET_WINDOW = 50
"""Batches among which examples are sorted by length: enough for little padding, few enough for ever new batches."""


FIRST = 8
"""Examples that show before a run how batches are padded: few, since they may take long to make."""


class BatchDataset(Dataset[Any], ABC):
    """A dataset that fetches a whole batch at once.

    Attributes:
        lengths: ``[examples]``, the tokens of every example, where they differ: batches are then made of examples of
            about one length. None where all are equally long.
        counts_epochs: True where an example differs from epoch to epoch: it is then asked for at
            ``epoch * len(self) + index``, so that worker processes and resumed runs know the epoch too.
        targets: ``[examples, answers]``, where they are known without making the examples.
        names: What every example is called, where that is more than its number, such as its file.
    """

    lengths: torch.Tensor | None = None
    counts_epochs: bool = False
    targets: torch.Tensor | None = None
    names: Sequence[str] | None = None

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def __getitems__(self, indices: Sequence[int]) -> Any:
        """Returns the batch of the examples at these indices."""

    def __getitem__(self, index: int) -> Any:
        return self.__getitems__([index])

    def check(self, task: TaskSpec, split: str) -> None:
        """Refuses examples that a task does not promise, where that is seen without making them: here of no kind."""
        return


class Part(BatchDataset):
    """Some examples of a dataset, in a random order that is the same for every seed: a smaller part lies in a larger.

    Args:
        whole: The dataset.
        count: How many.
    """

    def __init__(self, whole: BatchDataset, count: int) -> None:
        self.whole = whole
        self.kept = torch.randperm(len(whole), generator=torch.Generator().manual_seed(0))[:count]
        self.counts_epochs = whole.counts_epochs
        self.lengths = None if whole.lengths is None else whole.lengths[self.kept]
        self.targets = None if whole.targets is None else whole.targets[self.kept]

    def __len__(self) -> int:
        return len(self.kept)

    def __getitems__(self, indices: Sequence[int]) -> Any:
        asked = torch.as_tensor(indices)
        kept, epoch = self.kept[asked % len(self)], asked // len(self)
        return self.whole.__getitems__((kept + epoch * len(self.whole)).tolist())


class CountedStream(BatchDataset):
    """A stream whose example i is made of random numbers that are a function of the stream's key and i alone.

    Philox makes four 64-bit words a count; an example starts on a count of its own, so it may use up any number.

    Args:
        make: Makes a batch of numbers ``[batch, draws]`` in [0, 1).
        draws: Numbers that an example uses up.
        key: Two numbers below 2**64; streams with different keys are independent.
        length: Examples in the stream (an epoch of it, where it is endless).
    """

    def __init__(
        self, make: Callable[[np.ndarray], Any], draws: int, key: tuple[int, int], length: int = ENDLESS
    ) -> None:
        self.make = make
        self.draws = draws
        self.key = np.array(key, dtype=np.uint64)
        self.length = length

    def __len__(self) -> int:
        return self.length

    def __getitems__(self, indices: Sequence[int]) -> Any:
        uniform = np.empty((len(indices), self.draws))
        for row, index in zip(uniform, indices, strict=True):
            counter = np.array([0, index, 0, 0], dtype=np.uint64)
            np.random.Generator(np.random.Philox(key=self.key, counter=counter)).random(out=row)
        return self.make(uniform)


def expect_usable_batches(dataset: BatchDataset, task: TaskSpec, batch_size: int) -> None:
    """Refuses batches that could not be held, or that are padded before their tokens.

    Counted are the tokens alone, with the numbers that they are made of; how they are padded the first examples show.

    Raises:
        UsageError: If they take more memory than this process may use, or are padded so.
    """
    token = 8 if task.token_width is None else 4 * task.token_width
    drawn = 8 * dataset.draws if isinstance(dataset, CountedStream) else 0
    examples = min(batch_size, len(dataset))
    expect_memory(examples * (task.max_length * token + drawn), f"a batch of {examples:,} examples")
    first = dataset.__getitems__(range(min(examples, FIRST))) if examples else None
    if isinstance(first, Batch):
        expect_padding_behind(first.tokens, first.mask, task)


def expect_shared(examples: int, processes: int, whose: str = "") -> None:
    """Refuses to share examples among more processes: Lightning skips the loop of one without any, others wait for it.

    Raises:
        UsageError: If there are fewer.
    """
    if 0 < examples < processes:
        few = f"{examples} example{'s' * (examples > 1)}{whose}"
        raise UsageError(f"{processes} processes cannot share {few}: set trainer.devices {examples}, or take more")


class GlobalBatchSampler(DistributedSampler[int]):
    """Cuts one global stream of batches over the processes.

    The stream is a function of the seed and the epoch only, so neither the number of processes nor that of workers
    changes what is trained on: process r of w takes the r-th of w equal slices of every global batch. It is a
    ``DistributedSampler``, so Lightning leaves it in place and tells it the epoch.

    Args:
        length: Examples in one epoch.
        batch_size: Examples in one global batch; divisible by ``processes`` where ``training``.
        training: Drop the last incomplete batch. Otherwise every example is seen by exactly one process, none twice.
        shuffle: Draw a new order each epoch; otherwise epochs follow each other in one endless count.
        seed: Seed of the order.
        lengths: ``[length]``, tokens of every example. Training batches are then cut from windows of
            :data:`BUCKET_WINDOW` batches sorted by length and drawn in a random order, evaluation starts with the
            longest, so that little is padded.
        counts_epochs: A shuffled epoch starts counting where the one before it ended, as one that is not shuffled does.
        limited: Some batches stand for all: those of an evaluation are the first, or are drawn where examples differ in
            length, as the longest would be no sample.
        process: Rank of this process.
        processes: Number of processes.
    """

    def __init__(
        self,
        length: int,
        batch_size: int,
        *,
        training: bool,
        shuffle: bool,
        seed: int,
        lengths: torch.Tensor | None = None,
        counts_epochs: bool = False,
        limited: bool = False,
        process: int = 0,
        processes: int = 1,
    ) -> None:
        super().__init__(range(length), num_replicas=processes, rank=process, shuffle=shuffle, seed=seed)  # type: ignore[arg-type]
        self.length = length
        self.batch_size = batch_size
        self.training = training
        self.lengths = lengths
        self.counts_epochs = counts_epochs
        self.limited = limited
        self.first_batch = 0

    @property
    def local_batch_size(self) -> int:
        """Examples of a global batch that this process takes; in evaluation an upper bound."""
        return max(1, self.batch_size // self.num_replicas)

    def __len__(self) -> int:
        if self.training:
            return self.length // self.batch_size * self.local_batch_size
        return len(range(self.rank, self.length, self.num_replicas))

    def __iter__(self) -> Iterator[int]:
        if not self.training:
            yield from (int(index) for index in self._evaluation_order()[self.rank :: self.num_replicas])
            return
        order = self._training_order()
        for batch in range(self.first_batch, self.length // self.batch_size):
            start = batch * self.batch_size + self.rank * self.local_batch_size
            indices = order[start : start + self.local_batch_size]
            yield from indices.tolist() if isinstance(indices, torch.Tensor) else indices

    def _evaluation_order(self) -> Sequence[int] | torch.Tensor:
        if self.lengths is None:
            return range(self.length)
        if self.limited:
            return torch.randperm(self.length, generator=torch.Generator().manual_seed(0))
        return self.lengths.argsort(descending=True, stable=True)  # the longest first: memory runs out at once or never

    def _training_order(self) -> Sequence[int] | torch.Tensor:
        """The examples of an epoch, one global batch after the other."""
        if not self.shuffle:
            return range(self.epoch * self.length, (self.epoch + 1) * self.length)
        stream = generator(self.seed, f"order of epoch {self.epoch}")
        order = torch.randperm(self.length, generator=stream)
        if self.lengths is not None:
            order = _by_length(order, self.lengths, self.batch_size, stream)
        return order + self.epoch * self.length if self.counts_epochs else order


def _by_length(order: torch.Tensor, lengths: torch.Tensor, batch_size: int, generator: torch.Generator) -> torch.Tensor:
    """Rearranges a random order into batches of about one length, themselves in a random order."""
    windows = order[: len(order) // batch_size * batch_size].split(BUCKET_WINDOW * batch_size)
    batches = torch.cat([window[lengths[window].argsort(stable=True)] for window in windows]).view(-1, batch_size)
    return batches[torch.randperm(len(batches), generator=generator)].flatten()


class ResumableLoader(DataLoader[Any]):
    """A DataLoader that knows how many batches it has handed out, so that a checkpoint resumes behind them."""

    # without an __init__ of its own, so that Lightning can build it anew around a sampler that counts predictions
    _handed_out = 0
    _resume_at = 0
    _resume_epoch: int | None = None

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        if isinstance(sampler := self.sampler, GlobalBatchSampler):
            # behind the last batch of an epoch the next one begins
            is_over = sampler.length // sampler.batch_size <= self._resume_at
            if is_over if self._resume_epoch is None else self._resume_epoch != sampler.epoch:
                self._resume_at = 0
            sampler.first_batch = self._resume_at
        self._handed_out, self._resume_at, self._resume_epoch = self._resume_at, 0, None
        for batch in super().__iter__():
            self._handed_out += 1
            yield batch

    def state_dict(self) -> dict[str, int]:
        """Batches handed out in this epoch, and which it is; the same numbers in every process."""
        epoch = {"epoch": self.sampler.epoch} if isinstance(self.sampler, GlobalBatchSampler) else {}
        return {"batches": self._handed_out, **epoch}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self._resume_at = self._handed_out = state["batches"]
        self._resume_epoch = state.get("epoch")  # checkpoints of version 0.4 lack it


def make_loader(
    dataset: BatchDataset, sampler: GlobalBatchSampler, num_workers: int = 0, *, pin_memory: bool = False
) -> ResumableLoader:
    """Loads whole batches of a dataset in the order of a sampler; pinned ones are copied to a GPU while it computes.

    Raises:
        UsageError: If there are fewer examples than processes, or these would judge others than one does.
    """
    expect_shared(len(dataset), sampler.num_replicas)
    if sampler.limited and sampler.batch_size % sampler.num_replicas:
        raise UsageError(
            f"data.eval_batch_size {sampler.batch_size} counts the examples on all {sampler.num_replicas} devices "
            f"together and must be divisible by {sampler.num_replicas} where some batches stand for all"
        )
    return ResumableLoader(
        dataset,
        batch_size=sampler.local_batch_size,
        sampler=sampler,
        num_workers=num_workers,
        collate_fn=unchanged,
        persistent_workers=num_workers > 0,
        pin_memory=pin_memory,
        # of its own: starting an epoch must not draw from the generator that dropout uses
        generator=torch.Generator().manual_seed(sampler.seed),
    )


def unchanged(batch: Any) -> Any:
    """The ``collate_fn`` of a loader whose dataset fetches whole batches."""
    return batch
