"""Random crop, flip and rotation of a whole batch of images at once."""

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F


@dataclass(frozen=True)
class Augmentation:
    """What the paper does to CIFAR-10's training images (FPT, reference implementation).

    An image is padded with black and cropped at random, flipped with probability 0.5, and rotated. The three steps are
    one affine map, which takes the nearest pixel and fills with black what lies outside, as torchvision's
    ``RandomCrop``, ``RandomHorizontalFlip`` and ``RandomRotation`` do by default: the result is theirs, pixel for
    pixel.

    Args:
        padding: Pixels on each side before the crop: the image moves by up to so many, whole ones, along each axis.
        flip: Mirror left and right, half of the time.
        degrees: The rotation lies between minus and plus this.
    """

    padding: int = 4
    flip: bool = True
    degrees: float = 20.0

    def draw(self, seed: int, epoch: int, images: int, image_size: int) -> torch.Tensor:
        """Draws what happens to every image in one epoch.

        Row i is a function of seed, epoch and i alone: neither processes nor workers, order or resuming change it.

        Returns:
            ``[images, 2, 3]`` maps for :func:`warp`.
        """
        # Philox makes the same numbers everywhere; four an image, in the order of the images
        philox = np.random.Philox(key=np.array([seed, epoch], dtype=np.uint64))
        uniform = np.random.Generator(philox).random((images, 4))
        shift = np.floor(uniform[:, :2] * (2 * self.padding + 1)).astype(np.int64) - self.padding
        flipped = (uniform[:, 2] < 0.5) & self.flip
        angle = (2 * uniform[:, 3] - 1) * self.degrees
        return maps(torch.from_numpy(shift), torch.from_numpy(flipped), torch.from_numpy(angle), image_size)


def maps(shift: torch.Tensor, flipped: torch.Tensor, degrees: torch.Tensor, image_size: int) -> torch.Tensor:
    """The affine maps that move, then flip, then rotate images.

    Args:
        shift: ``[batch, 2]``, pixels to the right and down at which the crop starts.
        flipped: ``[batch]`` bool, mirrored left and right.
        degrees: ``[batch]``, rotation counter-clockwise about the centre.
        image_size: Pixels along a side.

    Returns:
        ``[batch, 2, 3]`` float: where a place of the result lies in the image, in the coordinates of
        ``torch.nn.functional.affine_grid``.
    """
    angle = degrees.double() * (math.pi / 180)
    side = 1 - 2 * flipped.double()
    start = shift.double() * (2 / image_size)
    across = torch.stack([side * angle.cos(), -side * angle.sin(), start[:, 0]], dim=1)
    down = torch.stack([angle.sin(), angle.cos(), start[:, 1]], dim=1)
    return torch.stack([across, down], dim=1).float()


def warp(images: torch.Tensor, affine: torch.Tensor) -> torch.Tensor:
    """Takes every pixel of the result from the nearest one of images ``[batch, channels, size, size]`` float.

    ``affine`` is ``[batch, 2, 3]`` of :func:`maps`; black (0) is what the crop or the image did not hold.
    """
    grid = F.affine_grid(affine, list(images.shape), align_corners=False)  # [batch, size, size, 2]
    # what the crop cut off stays cut off, though the image would have it
    in_crop = (grid - affine[:, None, None, :, 2]).abs().amax(dim=-1) <= 1  # [batch, size, size]
    return F.grid_sample(images, grid, mode="nearest", align_corners=False) * in_crop[:, None]
