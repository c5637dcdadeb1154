import pytest
import torch
import torchvision.transforms.functional as vision
from hypothesis import given
from hypothesis import strategies as st

from fpt_lightning.data.images.augmentation import Augmentation, maps, warp

SHIFTS = st.integers(-4, 4)


def _images(count: int, size: int = 32) -> torch.Tensor:
    """No pixel is black."""
    return torch.randint(1, 256, (count, 3, size, size), generator=torch.Generator().manual_seed(count)).float()


def _warp(
    images: torch.Tensor, right: int = 0, down: int = 0, flipped: bool = False, degrees: float = 0
) -> torch.Tensor:
    count, size = len(images), images.size(-1)
    shift = torch.tensor([[right, down]]).expand(count, 2)
    affine = maps(shift, torch.tensor([flipped]).expand(count), torch.tensor([degrees]).expand(count), size)
    return warp(images, affine)


@pytest.mark.parametrize("size", [7, 28, 32, 224])
def test_a_draw_that_changes_nothing_changes_nothing(size: int) -> None:
    images = _images(2, size)
    assert torch.equal(_warp(images), images)


@given(right=SHIFTS, down=SHIFTS, size=st.integers(8, 40))
def test_a_shift_moves_whole_pixels_and_fills_with_black(right: int, down: int, size: int) -> None:
    images = _images(2, size)
    padded = torch.nn.functional.pad(images, [4] * 4)
    assert torch.equal(_warp(images, right, down), padded[:, :, 4 + down :, 4 + right :][:, :, :size, :size])


@given(size=st.integers(1, 40))
def test_a_flip_mirrors_left_and_right(size: int) -> None:
    images = _images(2, size)
    assert torch.equal(_warp(images, flipped=True), images.flip(-1))


@given(right=SHIFTS, down=SHIFTS, flipped=st.booleans(), degrees=st.floats(-20, 20))
def test_it_is_torchvisions_crop_flip_and_rotation(right: int, down: int, flipped: bool, degrees: float) -> None:
    images = _images(1)
    theirs = vision.crop(vision.pad(images, [4] * 4), 4 + down, 4 + right, 32, 32)
    theirs = vision.rotate(vision.hflip(theirs) if flipped else theirs, degrees)
    differing = (_warp(images, right, down, flipped, degrees) != theirs).any(dim=1).sum()
    assert differing <= 40, "but for pixels that lie half way between two"


def test_draws_are_those_of_the_paper() -> None:
    affine = Augmentation().draw(seed=0, epoch=0, images=20000, image_size=32)
    shift = affine[:, :, 2] * 16
    assert sorted(shift[:, 0].round().int().unique().tolist()) == list(range(-4, 5))
    assert torch.allclose(shift, shift.round(), atol=1e-5)
    counts = torch.histc(shift[:, 1].round(), bins=9, min=-4, max=4) / len(shift)
    assert (counts - 1 / 9).abs().max() < 0.01
    assert abs((affine[:, 0, 0] < 0).float().mean() - 0.5) < 0.01
    degrees = affine[:, 1, 0].asin().rad2deg()
    assert 19.9 < degrees.max() <= 20.001
    assert -20.001 <= degrees.min() < -19.9
    assert abs(degrees.mean()) < 0.3


@given(st.integers(0, 2**32 - 1), st.integers(0, 10**6), st.integers(1, 50), st.integers(1, 50))
def test_a_draw_is_a_function_of_seed_epoch_and_image(seed: int, epoch: int, few: int, many: int) -> None:
    few, many = sorted((few, many))
    draw = Augmentation().draw
    assert torch.equal(draw(seed, epoch, few, 32), draw(seed, epoch, many, 32)[:few])
    assert not torch.equal(draw(seed, epoch, many, 32), draw(seed, epoch + 1, many, 32))
    assert not torch.equal(draw(seed, epoch, many, 32), draw(seed + 1, epoch, many, 32))


def test_steps_can_be_left_out() -> None:
    none = Augmentation(padding=0, flip=False, degrees=0).draw(0, 0, 10, 32)
    assert torch.equal(warp(_images(10), none), _images(10))
