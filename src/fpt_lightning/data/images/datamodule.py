"""What all image tasks share: one table of pixels on the training device, cut into patches a batch at a time."""

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import torch

from fpt_lightning.data.datamodule import FPTDataModule, Split
from fpt_lightning.data.images.augmentation import Augmentation, warp
from fpt_lightning.data.loading import BatchDataset
from fpt_lightning.data.options import check_split_seed
from fpt_lightning.data.spec import Batch, TaskSpec, TokenWords
from fpt_lightning.errors import UsageError


class ImageTable(NamedTuple):
    """The images of all splits.

    Attributes:
        pixels: ``[images, channels, image_size, image_size]`` uint8, or float32 levels from 0 to 255.
        labels: ``[images]`` int64.
    """

    pixels: torch.Tensor
    labels: torch.Tensor

    @property
    def mebibytes(self) -> float:
        return self.pixels.nbytes / 2**20


class ImageRows(NamedTuple):
    """Which images make a batch: all that a loader hands over."""

    rows: torch.Tensor  # ``[batch]`` int64, places in the table
    epoch: int | None  # of the training stream, where an image differs from epoch to epoch


class ImageSplit(BatchDataset):
    """The rows of a table that make a split.

    It holds no pixels, so that worker processes start at once and hand over next to nothing.

    Args:
        rows: ``[examples]`` int64.
        targets: ``[examples, 1]`` int64, their labels.
        counts_epochs: Whether an image differs from epoch to epoch.
    """

    def __init__(self, rows: torch.Tensor, targets: torch.Tensor, *, counts_epochs: bool = False) -> None:
        self.rows = rows
        self.targets = targets
        self.counts_epochs = counts_epochs

    def __len__(self) -> int:
        return len(self.rows)

    def __getitems__(self, indices: Sequence[int]) -> ImageRows:
        chosen = torch.as_tensor(indices) % len(self)
        return ImageRows(self.rows[chosen], indices[0] // len(self) if self.counts_epochs else None)


class NewImages(BatchDataset):
    """Images of no split, which no table holds; a batch is an :class:`ImageTable` of them.

    Args:
        pixels: ``[images, channels, image_size, image_size]`` uint8.
        labels: ``[images, 1]`` int64, or ``[images, 0]`` where nobody knows them.
        names: What each is called.
    """

    def __init__(self, pixels: torch.Tensor, labels: torch.Tensor, names: Sequence[str]) -> None:
        self.pixels = pixels
        self.labels = labels
        self.names = names

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitems__(self, indices: Sequence[int]) -> ImageTable:
        return ImageTable(self.pixels[list(indices)], self.labels[list(indices)])


def to_patches(images: torch.Tensor, patch_size: int) -> torch.Tensor:
    """Cuts images ``[batch, channels, height, width]`` row by row: ``[batch, patches, channels * patch_size**2]``."""
    # not F.unfold: on a GPU that is a kernel an image
    cut = images.unflatten(3, (-1, patch_size)).unflatten(2, (-1, patch_size))  # [batch, channels, rows, p, columns, p]
    return cut.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)


Pixels = Literal["normalised", "raw"]


class ImageTask(FPTDataModule):
    """Images held as bytes on the training device, where they are augmented, normalised and cut into patches.

    Loaders hand over row numbers alone; every process holds one table of its own for all splits. Worker processes have
    nothing to do. A task sets the attributes below before it calls ``__init__``.

    Args:
        patch_size: Pixels along a patch's side; divides ``image_size``.
        split_seed: Which images are set aside; the same for all runs that are compared.
        device_resident_mb: The largest table, in MiB, that is put on a GPU; a larger one stays in main memory, and
            each batch is copied.
        pixels: ``normalised`` by :meth:`normalisation`, or ``raw``: between 0 and 1, as they are; by default what is
            the task's own.
        kwargs: Those of :class:`FPTDataModule`.

    Attributes:
        name: The task's name, as in tables.
        channels: 1 for grey, 3 for colour.
        image_size: Pixels along a side.
        augmentation: What happens to training images; None for nothing.
        own_pixels: Those of the reference implementation, from which two language models also learnt more.
    """

    name: str
    channels: int
    image_size: int
    augmentation: Augmentation | None = None
    own_pixels: Pixels = "normalised"

    def __init__(
        self,
        patch_size: int,
        split_seed: int = 0,
        device_resident_mb: int = 2048,
        pixels: Pixels | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        check_split_seed(split_seed)
        self.pixels = self.own_pixels if self.as_released or pixels is None else pixels
        self.patch_size = patch_size
        self.split_seed = split_seed
        self.device_resident_mb = device_resident_mb
        self._table: ImageTable | None = None
        self._affine: tuple[int, torch.Tensor] | None = None  # of the epoch
        self._scaling: torch.Tensor | None = None
        if self.image_size < 1 or patch_size < 1 or self.image_size % patch_size:
            raise UsageError(f"data.patch_size {patch_size} does not divide data.image_size {self.image_size}")

    @property
    @abstractmethod
    def classes(self) -> int:
        """How many classes there are; known before any image is read."""

    @abstractmethod
    def load(self) -> ImageTable: ...

    @abstractmethod
    def rows(self, split: Split) -> torch.Tensor:
        """The rows of the table that make a split, ``[examples]`` int64; no row is in two splits."""

    @abstractmethod
    def normalisation(self) -> tuple[Sequence[float], Sequence[float]]:
        """Mean and standard deviation of each channel, of pixels between 0 and 1."""

    @property
    def task(self) -> TaskSpec:
        return TaskSpec(
            name=self.name,
            max_length=(self.image_size // self.patch_size) ** 2,
            classes=self.classes,
            token_width=self.channels * self.patch_size**2,
        )

    @property
    def table(self) -> ImageTable:
        """The images of all splits, read once; on the device that asked for them last, if they fit there."""
        if self._table is None:
            self._table = self.load()
        return self._table

    def encoding(self) -> dict[str, Any]:
        return {**super().encoding(), "pixels": self.pixels}

    def use_encoding(self, encoding: dict[str, Any]) -> None:
        if (pixels := encoding.get("pixels", self.pixels)) != self.pixels:  # 0.4 did not say
            raise UsageError(f"data.pixels is {self.pixels}, the checkpoint was trained with {pixels}")
        super().use_encoding(encoding)
        self._scaling = None

    def dataset(self, split: Split) -> ImageSplit:
        rows = self.rows(split)
        augmented = split == "train" and self.augmentation is not None
        return ImageSplit(rows, self.table.labels.cpu()[rows, None], counts_epochs=augmented)

    def facts(self) -> dict[str, Any]:
        return {"scaling": "raw"} if self.pixels == "raw" else {}  # so that fingerprints of old keep their meaning

    def describe(self) -> list[str]:
        size, most = self.table.mebibytes, self.device_resident_mb
        small = size <= most
        place = "on the training device" if small else f"in main memory, being more than data.device_resident_mb {most}"
        held = f"{len(self.table.labels):,} images, {size:,.1f} MiB, held {place}"
        changed = f"training images augmented by {self.augmentation}" if self.augmentation else "not augmented"
        return [*super().describe(), f"{held}; {changed}; pixels {self.pixels}"]

    def token_words(self) -> TokenWords:
        side = self.image_size // self.patch_size
        names = (f"row {row}, column {column}" for row in range(1, side + 1) for column in range(1, side + 1))
        return TokenWords(tuple(names), grid=(side, side))

    def transfer_batch_to_device(
        self, batch: ImageRows | ImageTable, device: torch.device, dataloader_idx: int
    ) -> Batch:
        """Makes the batch on the device, which keeps the table from the first batch on.

        Tokens are ``[batch, patches, channels * patch_size**2]`` float, the target is ``[batch, 1]``.
        """
        if isinstance(batch, ImageTable):
            new = super().transfer_batch_to_device(batch, device, dataloader_idx)
            return self._batch(new.pixels.float(), new.labels)
        if device.type == "cpu" or self.table.mebibytes <= self.device_resident_mb:
            self._table = ImageTable(self.table.pixels.to(device), self.table.labels.to(device))
        table = self.table
        move = super().transfer_batch_to_device  # does not wait for the device
        rows = move(batch.rows, device, dataloader_idx)
        here = rows if rows.device == table.pixels.device else batch.rows
        picked = table.pixels[here]
        if picked.device != device and device.type == "cuda":
            picked = picked.pin_memory()  # or its copy would be waited for
        pixels = move(picked, device, dataloader_idx).float()
        labels = move(table.labels[here], device, dataloader_idx)
        if batch.epoch is not None:
            pixels = warp(pixels, self._affine_of(batch.epoch, device)[rows])
        return self._batch(pixels, labels[:, None])

    def _batch(self, pixels: torch.Tensor, target: torch.Tensor) -> Batch:
        """Of ``[batch, channels, image_size, image_size]`` float levels, which change in place."""
        mean, std = self._scaling_on(pixels.device)
        return Batch(to_patches(pixels.sub_(mean).div_(std), self.patch_size), target)

    def _affine_of(self, epoch: int, device: torch.device) -> torch.Tensor:
        """``[images, 2, 3]``, drawn once an epoch."""
        assert self.augmentation is not None
        if self._affine is None or self._affine[0] != epoch:
            drawn = self.augmentation.draw(self.seed, epoch, len(self.table.labels), self.image_size)
            self._affine = (epoch, drawn.to(device))
        return self._affine[1].to(device)

    def _scaling_on(self, device: torch.device) -> torch.Tensor:
        """``[2, channels, 1, 1]``, mean and standard deviation of bytes."""
        if self._scaling is None:
            raw = [0.0] * self.channels, [1.0] * self.channels
            self._scaling = torch.tensor(raw if self.pixels == "raw" else self.normalisation())[..., None, None] * 255
        self._scaling = self._scaling.to(device)
        return self._scaling
