"""Crops: their number and geometry beside what GoogLeNet's section 7 says, worked out by hand."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from gammabeta.lab.train.evaluate import Crop, centre_crop, crops_144, many_crops

# An image of 375 × 500 at 256: 256 × 341. Squares at 0, 42 and 85 columns; 256 − 224 = 32.
OF_THE_SMALLEST = [
    *((0, 0, 224), (0, 32, 224), (32, 0, 224), (32, 32, 224), (16, 16, 224), (0, 0, 256)),
    *((0, 42, 224), (0, 74, 224), (32, 42, 224), (32, 74, 224), (16, 58, 224), (0, 42, 256)),
    *((0, 85, 224), (0, 117, 224), (32, 85, 224), (32, 117, 224), (16, 101, 224), (0, 85, 256)),
]
# At 352: 352 × 469; squares at 0, 58, 117; 352 − 224 = 128.
OF_THE_LARGEST = [
    *((0, 0, 224), (0, 128, 224), (128, 0, 224), (128, 128, 224), (64, 64, 224), (0, 0, 352)),
    *((0, 58, 224), (0, 186, 224), (128, 58, 224), (128, 186, 224), (64, 122, 224), (0, 58, 352)),
    *((0, 117, 224), (0, 245, 224), (128, 117, 224), (128, 245, 224), (64, 181, 224)),
    (0, 117, 352),
]


def windows(crops: list[Crop], short: int) -> list[tuple[int, int, int]]:
    found = [crop for crop in crops if crop.short == short]
    assert [crop.mirrored for crop in found] == [False, True] * 18
    assert [(c.top, c.left, c.side) for c in found[::2]] == [
        (c.top, c.left, c.side) for c in found[1::2]
    ]
    return [(crop.top, crop.left, crop.side) for crop in found[::2]]


def test_geometry_of_a_wide_image() -> None:
    crops = crops_144(375, 500, 224)
    assert len(crops) == len(set(crops)) == 144
    assert [crop.short for crop in crops] == [s for s in (256, 288, 320, 352) for _ in range(36)]
    assert windows(crops, 256) == OF_THE_SMALLEST
    assert windows(crops, 352) == OF_THE_LARGEST


def test_geometry_of_a_tall_image_is_that_of_the_wide_one_turned() -> None:
    tall = crops_144(500, 375, 224)
    for short, expected in ((256, OF_THE_SMALLEST), (352, OF_THE_LARGEST)):
        turned = {(left, top, side) for top, left, side in windows(tall, short)}
        assert turned == set(expected)


def test_a_square_image_has_one_square_three_times() -> None:
    crops = crops_144(224, 224, 224)
    assert len(crops) == 144
    assert len(set(crops)) == 48


@pytest.mark.parametrize("size", [28, 96, 224])
@pytest.mark.parametrize(("height", "width"), [(375, 500), (31, 28), (28, 28), (10, 997)])
def test_no_crop_leaves_its_image(size: int, height: int, width: int) -> None:
    for crop in crops_144(height, width, size):
        scale = crop.short / min(height, width)
        assert 0 <= crop.top <= round(height * scale) - crop.side
        assert 0 <= crop.left <= round(width * scale) - crop.side
        assert crop.side in (size, crop.short)


def places(height: int, width: int) -> Tensor:
    """An image that says of every pixel where it is: (1, 2, height, width)."""
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return torch.stack([rows, columns])[None].float()


def test_crops_are_cut_where_they_say() -> None:
    # Sizes for a model of 7: 8, 9, 10, 11. An image of 8 × 10 has the first of them already.
    image = places(8, 10)
    crops = list(many_crops(image, 7))
    assert len(crops) == 144
    assert all(crop.shape == (1, 2, 7, 7) for crop in crops)
    assert torch.equal(crops[0], image[..., :7, :7])
    assert torch.equal(crops[1], image[..., :7, :7].flip(-1))
    assert torch.equal(crops[6], image[..., 1:, 1:8])  # the left square's lower right corner
    assert torch.equal(crops[26], image[..., :7, 3:])  # the right square's upper right corner
    # The whole square, made smaller: a ramp stays one inside, to the tenth of a pixel that the
    # antialiasing filter, a few samples wide, is off centre.
    whole = crops[10]
    step = 8 / 7
    ramp = (torch.arange(7) + 0.5) * step - 0.5
    torch.testing.assert_close(whole[0, 0, 1:-1, 3], ramp[1:-1], atol=0.1, rtol=0)
    torch.testing.assert_close(whole[0, 1, 3, 1:-1], ramp[1:-1], atol=0.1, rtol=0)
    # The last size, 11 × 14: its centre crop of the middle square.
    middle = crops[3 * 36 + 12 + 8]
    expected = (torch.arange(7) + 1 + 2 + 0.5) * 10 / 14 - 0.5
    torch.testing.assert_close(middle[0, 1, 3], expected, atol=0.1, rtol=0)


def test_the_single_crop_is_the_centre() -> None:
    image = places(28, 28)
    assert centre_crop(image, 28) is image
    wide = places(256, 341)
    assert torch.equal(centre_crop(wide, 224), wide[..., 16:240, 58:282])
    smaller = centre_crop(places(512, 512), 224)
    assert smaller.shape == (1, 2, 224, 224)
    # Pixel 16 of 256 is pixels 32 and 33 of 512.
    torch.testing.assert_close(smaller[0, 0, :, 0], torch.arange(224) * 2 + 32.5)
