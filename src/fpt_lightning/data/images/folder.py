"""Any folder of images by class."""

import hashlib
import os
import textwrap
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from fpt_lightning.data.cache import cache_file, content_hash, kept
from fpt_lightning.data.datamodule import SPLITS, Split
from fpt_lightning.data.images.augmentation import Augmentation
from fpt_lightning.data.images.datamodule import ImageSplit, ImageTable, ImageTask, NewImages
from fpt_lightning.data.images.files import (
    READER_VERSION,
    ImageFile,
    decode,
    file_states,
    find_classes,
    list_images,
    new_images,
)
from fpt_lightning.data.options import expect_encoding
from fpt_lightning.errors import UsageError, are_shares


class ImageFolder(ImageTask):
    """Your own images: a folder a class, with or without a folder a split above them.

    ``root`` holds either ``train/CLASS/IMAGE`` and, if there are any, ``validation/CLASS/IMAGE`` (or ``val``,
    ``valid``) and ``test/CLASS/IMAGE``, or just ``CLASS/IMAGE``. What it has no folder for is cut from the rest by a
    fixed seed, in every class about the same share. What becomes of a file is said at
    :func:`fpt_lightning.data.images.files.read_image`.

    The first start decodes all images and keeps them as bytes in ``cache_folder``; later starts read that one file, as
    long as names, sizes and times of the images stay as they are. Pixels are scaled to [0, 1], then normalised by mean
    and standard deviation of the training images.

    Args:
        root: Folder of the images.
        image_size: Pixels along a side, to which images are scaled and cut.
        patch_size: Pixels along a patch's side; divides ``image_size``.
        grey: One channel instead of three.
        augment: Crop, flip and rotate training images as CIFAR-10's, with a padding of an eighth of ``image_size``.
        validation_share: Share of the training images set aside for validation, where ``root`` has no folder for it.
        test_share: Share of all images set aside for the test, likewise.
        predict_folder: A folder of new images for ``fpt predict``, flat or not, with or without their classes: they are
            read as the training images were, and where every one lies in the folder of a class that is its target.
        kwargs: Those of :class:`ImageTask`.
    """

    name = "image_folder"

    def __init__(
        self,
        root: str = "",
        image_size: int = 32,
        patch_size: int = 4,
        grey: bool = False,
        augment: bool = False,
        validation_share: float = 0.1,
        test_share: float = 0.1,
        predict_folder: str | None = None,
        **kwargs: Any,
    ) -> None:
        if not root:
            raise UsageError("data.root: say which folder holds the images, as --data.root FOLDER")
        self.image_size = image_size
        self.channels = 1 if grey else 3
        super().__init__(patch_size, root=root, **kwargs)
        self.grey = grey
        self.validation_share = validation_share
        self.test_share = test_share
        self.predict_folder = predict_folder
        if augment:
            self.augmentation = Augmentation(padding=image_size // 8)
        are_shares("data.", validation_share=validation_share, test_share=test_share)

    @property
    def class_names(self) -> list[str]:
        """The folders of the classes, sorted."""
        return self._folders if self.learnt is None else self.learnt["class_names"]

    @property
    def classes(self) -> int:
        return len(self.class_names)

    @cached_property
    def _folders(self) -> list[str]:
        return find_classes(Path(self.root))

    @cached_property
    def files(self) -> list[ImageFile]:
        """All images below ``root``.

        Raises:
            UsageError: If their classes are not those of the training images.
        """
        if self._folders != self.class_names:
            raise UsageError(
                f"{self.root} holds the classes {textwrap.shorten(', '.join(self._folders), 100)}, the checkpoint "
                f"knows {textwrap.shorten(', '.join(self.class_names), 100)}: data.predict_folder reads new images"
            )
        return list_images(Path(self.root))

    def encoding(self) -> dict[str, Any]:
        mean, std = self.normalisation()
        return {**super().encoding(), "mean": mean, "std": std}

    def use_encoding(self, encoding: dict[str, Any]) -> None:
        expect_encoding(encoding, ("class_names", "mean", "std"), "a folder of images")
        super().use_encoding(encoding)

    def prepare_data(self) -> None:
        if not self._predicts_new:
            _ = self.table

    @property
    def _predicts_new(self) -> bool:
        return self._predicts and self.predict_folder is not None

    def is_cut(self, split: Split) -> bool:
        return not self._predicts_new and all(file.split != split for file in self.files)

    def new_examples(self) -> NewImages | None:
        """The images of ``predict_folder``, by path.

        Raises:
            FPTError: If there is no such folder, or no image in it.
        """
        if self.predict_folder is None:
            return None
        folder = Path(self.predict_folder)
        files = [ImageFile(path, 0, None) for path in new_images(folder)]
        names = [name for name, *_ in file_states(folder, files)]
        classes = [Path(name).parts[0] for name in names]
        known = set(classes) <= set(self.class_names)
        labels = [[self.class_names.index(name)] if known else [] for name in classes]
        pixels = decode(files, self.image_size, grey=self.grey)
        return NewImages(pixels, torch.tensor(labels, dtype=torch.int64).reshape(len(names), -1), names)

    def dataset(self, split: Split) -> ImageSplit:
        """The rows of a split, called by their paths in ``root``."""
        made = super().dataset(split)
        if split == "test":
            made.names = [os.path.relpath(self.files[row].path, self.root) for row in made.rows.tolist()]
        return made

    def load(self) -> ImageTable:
        root = Path(self.root)
        place = cache_file(self.cache_folder, "images", root.resolve(), self.image_size, self.grey)
        key = [READER_VERSION, self.image_size, self.grey, file_states(root, self.files)]
        tensors = kept(place, key, lambda: {"pixels": decode(self.files, self.image_size, grey=self.grey)})
        return ImageTable(tensors["pixels"], torch.tensor([file.label for file in self.files]))

    def rows(self, split: Split) -> torch.Tensor:
        """The images of a split's folder, or what is cut from the others.

        Raises:
            UsageError: If a split would be empty, or a class has no image to train on.
        """
        rows = self._rows[split]
        if not len(rows):
            raise UsageError(
                f"data.validation_share {self.validation_share} and data.test_share {self.test_share} of "
                f"{len(self.files)} images leave none for {split}"
            )
        if split == "train" and (lost := set(range(self.classes)) - {self.files[row].label for row in rows.tolist()}):
            raise UsageError(
                f"data.validation_share {self.validation_share} and data.test_share {self.test_share} leave no image "
                f"of class '{self.class_names[min(lost)]}' to train on: add images of it, or set fewer aside"
            )
        return rows

    @cached_property
    def _rows(self) -> dict[Split, torch.Tensor]:
        labels = torch.tensor([file.label for file in self.files])
        rows = {
            split: torch.tensor([row for row, file in enumerate(self.files) if (file.split or "train") == split])
            for split in SPLITS
        }
        shares: dict[Split, float] = {"test": self.test_share, "validation": self.validation_share}
        for split, share in shares.items():
            if not len(rows[split]):
                rows["train"], rows[split] = cut_by_class(rows["train"], labels, share, self.split_seed)
        for split in shares:  # class after class, the first batches alone would be of few classes
            order = torch.randperm(len(rows[split]), generator=torch.Generator().manual_seed(self.split_seed))
            rows[split] = rows[split][order]
        return rows

    def normalisation(self) -> tuple[list[float], list[float]]:
        """Mean and standard deviation of the training images; 1 where all pixels of a channel are the same."""
        return self._statistics if self.learnt is None else (self.learnt["mean"], self.learnt["std"])

    @cached_property
    def _statistics(self) -> tuple[list[float], list[float]]:
        pixels = self.table.pixels
        counts = torch.zeros(self.channels, 256, dtype=torch.float64)
        for part in self.rows("train").to(pixels.device).split(4096):
            channels = pixels[part].transpose(0, 1).flatten(1)
            counts += torch.stack([channel.bincount(minlength=256) for channel in channels]).cpu()
        share = counts / counts.sum(dim=1, keepdim=True)
        values = torch.arange(256, dtype=torch.float64) / 255
        mean = share @ values
        deviations = (share * (values - mean[:, None]) ** 2).sum(dim=1).sqrt()
        return mean.tolist(), [deviation or 1.0 for deviation in deviations.tolist()]

    def facts(self) -> dict[str, Any]:
        """The pixels, their classes and what splits them; not where the files lie or when they were written."""
        places = [(file.label, file.split) for file in self.files]
        return {
            **super().facts(),
            "pixels": content_hash([self.table.pixels]),
            "labels": hashlib.sha256(repr(places).encode()).hexdigest(),
            "class_names": self.class_names,
            "augment": self.augmentation is not None,
            "validation_share": self.validation_share,
            "test_share": self.test_share,
            "split_seed": self.split_seed,
        }


def cut_by_class(
    rows: torch.Tensor, labels: torch.Tensor, share: float, seed: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Sets a share of some rows aside, of every class as exactly that share as whole images allow.

    Args:
        rows: ``[n]`` int64, the rows to choose among.
        labels: ``[images]`` int64, the class of every row of the table.
        share: How much to set aside; to the nearest whole number of images.
        seed: Which ones.

    Returns:
        The rest and those set aside, each in the order of the table.
    """
    count = round(share * len(rows))
    order = rows[torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed))]
    order = order[labels[order].argsort(stable=True)]  # class after class, each at random
    taken = torch.arange(len(rows) + 1) * count // max(1, len(rows))  # of the first i, so many are set aside
    aside = taken[1:] > taken[:-1]
    return order[~aside].sort().values, order[aside].sort().values
