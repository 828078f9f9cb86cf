"""Crops of an image: the single one, and GoogLeNet's 144.

The paper evaluates with one central crop and with the 144 crops of Szegedy et al. 2014: four sizes
of the image, three squares of each size, and of each square its four corners, its centre and the
whole square resized; each with its mirror image.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

FULL = 224
"""Input size of the papers' models; crop sizes are given for it and scaled for other inputs."""

SHORT_SIDES = (256, 288, 320, 352)
"""Lengths that the shorter side of the image is resized to."""


_LONGEST = 4
"""Times as long as wide an image may be, before its centre is looked for in its middle."""


@dataclass(frozen=True)
class Crop:
    """A window of a resized image.

    Attributes:
        short: length of the shorter side of the resized image.
        top: of the window, in rows of the resized image.
        left: of the window, in columns.
        side: height and width of the window; the window is resized to the model's input size.
        mirrored: left and right swapped.
    """

    short: int
    top: int
    left: int
    side: int
    mirrored: bool = False


def resized(height: int, width: int, short: int) -> tuple[int, int]:
    """Return height and width of an image whose shorter side has become ``short``.

    Example:
        >>> resized(375, 500, 256), resized(500, 375, 256)
        ((256, 341), (341, 256))
    """
    if height <= width:
        return short, max(short, round(width * short / height))
    return max(short, round(height * short / width)), short


def short_sides(size: int) -> tuple[int, ...]:
    """Return the four sizes for a model that takes images of ``size``.

    Example:
        >>> short_sides(224), short_sides(28)
        ((256, 288, 320, 352), (32, 36, 40, 44))
    """
    return tuple(round(side * size / FULL) for side in SHORT_SIDES)


def crops_144(height: int, width: int, size: int) -> list[Crop]:
    """Return the 144 crops of an image, those of the smallest size first.

    Args:
        height: of the image, in pixels.
        width: of the image, in pixels.
        size: height and width of the model's input.

    Source:
        Szegedy et al. 2014, arXiv:1409.4842, section 7.

    Example:
        >>> crops = crops_144(375, 500, 224)
        >>> len(crops), crops[0]
        (144, Crop(short=256, top=0, left=0, side=224, mirrored=False))
    """
    found = []
    for short in short_sides(size):
        tall, wide = resized(height, width, short)
        for share in (0, 1, 2):  # the square at one end, in the middle, at the other end
            top, left = (tall - short) * share // 2, (wide - short) * share // 2
            room = short - size
            windows = [
                (top, left, size),
                (top, left + room, size),
                (top + room, left, size),
                (top + room, left + room, size),
                (top + room // 2, left + room // 2, size),
                (top, left, short),
            ]
            for window in windows:
                for mirrored in (False, True):
                    found.append(Crop(short, *window, mirrored))
    return found


def many_crops(images: Tensor, size: int, *, once: bool = False) -> Iterator[Tensor]:
    """Yield the 144 crops of each image, one crop of all images at a time.

    Args:
        images: (N, C, H, W), of any height and width.
        size: height and width of the model's input.
        once: of square images, whose three squares are one and the same, take one: 48 crops, whose
            mean is that of all 144.

    Yields:
        (N, C, size, size), 144 times, in the order of `crops_144`.

    Numerics:
        Resizing is bilinear and antialiased.

    Example:
        >>> len(list(many_crops(torch.zeros(2, 1, 20, 30), 8)))
        144
    """
    height, width = images.shape[-2:]
    short, image = 0, images
    crops = crops_144(height, width, size)
    if once and height == width:  # of each size's 36 crops, the first square's 12
        crops = [crop for index, crop in enumerate(crops) if index % 36 < 12]
    for crop in crops:
        if crop.short != short:
            short = crop.short
            image = resize(images, resized(height, width, short))
        yield cut(image, crop, size)


def centre_crop(images: Tensor, size: int) -> Tensor:
    """Return the central crop of each image, as the model takes it.

    Images that have the model's size are returned as they are. Of others the shorter side is made
    256/224 of the model's input, and the centre is cut out. Of an image more than four times as
    long as it is wide, the ends are cut off first: made larger they could fill the memory.

    Args:
        images: (N, C, H, W).
        size: height and width of the model's input.

    Returns:
        (N, C, size, size).

    Example:
        >>> centre_crop(torch.zeros(2, 3, 375, 500), 224).shape
        torch.Size([2, 3, 224, 224])
    """
    height, width = images.shape[-2:]
    if height == width == size:
        return images
    most = _LONGEST * min(height, width)
    top, left = max(0, height - most) // 2, max(0, width - most) // 2
    images = images[..., top : top + most, left : left + most]
    height, width = images.shape[-2:]
    short = short_sides(size)[0]
    tall, wide = resized(height, width, short)
    window = Crop(short, (tall - size) // 2, (wide - size) // 2, size)
    return cut(resize(images, (tall, wide)), window, size)


def resize(images: Tensor, shape: tuple[int, int]) -> Tensor:
    """Return ``images`` at another height and width; the very same if they have them."""
    if images.shape[-2:] == torch.Size(shape):
        return images
    return functional.interpolate(
        images, shape, mode="bilinear", align_corners=False, antialias=True
    )


def cut(image: Tensor, crop: Crop, size: int) -> Tensor:
    """Return the window ``crop`` of resized images, at ``size``."""
    window = image[..., crop.top : crop.top + crop.side, crop.left : crop.left + crop.side]
    if crop.mirrored:
        window = window.flip(-1)
    return resize(window, (size, size))
