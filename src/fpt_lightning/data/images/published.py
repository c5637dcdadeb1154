"""Image benchmarks that are published as training and test files."""

from abc import abstractmethod
from pathlib import Path
from typing import Any

import torch

from fpt_lightning.data.datamodule import Split
from fpt_lightning.data.images.datamodule import ImageTable, ImageTask
from fpt_lightning.errors import FPTError, UsageError
from fpt_lightning.files import file_hash


class PublishedImages(ImageTask):
    """A benchmark whose files torchvision knows; validation is cut from the training images, test is the test images.

    A task sets what :class:`ImageTask` asks for and the attributes below.

    Args:
        patch_size: Pixels along a patch's side; divides ``image_size``.
        validation_examples: Training images set aside for validation by ``split_seed``.
        download: Fetch the files where they are missing.
        kwargs: Those of :class:`ImageTask`.

    Attributes:
        title: The benchmark's name in messages.
        subfolder: Where its unpacked files lie in ``root``.
        advice: What a user does by hand where files cannot be fetched.
        mean: Mean of each channel, of pixels between 0 and 1.
        std: Standard deviation of each channel, likewise.
    """

    title: str
    subfolder: str
    advice: str
    classes = 10
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __init__(self, patch_size: int, validation_examples: int = 5000, download: bool = True, **kwargs: Any) -> None:
        super().__init__(patch_size, **kwargs)
        self.validation_examples = validation_examples
        self.download = download
        self._training_images = 0
        if validation_examples < 1:
            raise UsageError("data.validation_examples must be at least 1: a checkpoint is chosen on them")

    @property
    def folder(self) -> Path:
        return Path(self.root) / self.subfolder

    @property
    @abstractmethod
    def files(self) -> list[str]:
        """The names of the unpacked files."""

    @abstractmethod
    def fetch(self) -> None:
        """Brings the files from their mirrors; an FPTError names one that no mirror has."""

    @abstractmethod
    def verify(self) -> None:
        """Checks the unpacked files; an FPTError names one that is not what it should be."""

    @abstractmethod
    def load_part(self, *, train: bool) -> ImageTable: ...

    def is_cut(self, split: Split) -> bool:
        return split == "validation"

    def prepare_data(self) -> None:
        missing = [name for name in self.files if not (self.folder / name).is_file()]
        if missing and not self.download:
            where = f"not found in {self.folder} and data.download is false"
            raise FPTError(f"{self.title}: {', '.join(missing)} {where}.\n{self.advice}")
        if missing:
            self.fetch()
        self.verify()

    def load(self) -> ImageTable:
        """The training images, then the test images."""
        train, test = (self.load_part(train=train) for train in (True, False))
        self._training_images = len(train.labels)
        return ImageTable(torch.cat([train.pixels, test.pixels]), torch.cat([train.labels, test.labels]))

    def rows(self, split: Split) -> torch.Tensor:
        """Training and validation in the order of ``split_seed``, test in that of the file.

        Raises:
            UsageError: If nothing is left to train on.
        """
        images, training = len(self.table.labels), self._training_images
        if split == "test":
            return torch.arange(training, images)
        if self.validation_examples >= training:
            raise UsageError(
                f"data.validation_examples {self.validation_examples} leaves none of {training} images to train on"
            )
        order = torch.randperm(training, generator=torch.Generator().manual_seed(self.split_seed))
        return order[: self.validation_examples] if split == "validation" else order[self.validation_examples :]

    def normalisation(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        return self.mean, self.std

    def facts(self) -> dict[str, Any]:
        return {
            **super().facts(),
            "files": {name: file_hash(self.folder / name) for name in self.files},
            "image_size": self.image_size,
            "validation_examples": self.validation_examples,
            "split_seed": self.split_seed,
        }
