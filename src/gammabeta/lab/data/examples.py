"""Data sets of images: examples in two splits, and the properties a network needs."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias, runtime_checkable

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from gammabeta.lab.data.raw import DataError

Picture: TypeAlias = Any
"""A Pillow image, the bytes of an image file, or a uint8 tensor (C, H, W)."""

Example: TypeAlias = tuple[Picture, int]
"""A picture and its class."""

_TOGETHER = 2**24
"""Pixels resized at once; in float32 they take four times the memory."""

Indices: TypeAlias = npt.NDArray[np.int64]


class Examples(Protocol):
    """Examples with random access."""

    def __len__(self) -> int:
        """Return the number of examples."""

    def example(self, index: int) -> Example:
        """Return one example; may be called from several threads."""


@runtime_checkable
class Stream(Protocol):
    """Examples read in sequence, shard by shard."""

    @property
    def shards(self) -> int:
        """Number of shards, at least 1."""

    def read(self, shard: int) -> Iterator[Example]:
        """Yield the examples of a shard in order."""


@dataclass(frozen=True)
class Arrays:
    """Examples held in memory.

    Attributes:
        images: (N, C, H, W) uint8.
        labels: (N,) int64.
    """

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def example(self, index: int) -> Example:
        """Return (C, H, W) uint8 and the class."""
        return self.images[index], int(self.labels[index])

    def resized(self, size: int) -> Arrays:
        """Return the same examples, ``size`` × ``size`` (bilinear, antialiased)."""
        if self.images.shape[-2:] == (size, size):
            return self
        count, channels = self.images.shape[:2]
        needed, there = count * channels * size * size, memory()
        if needed > there // 2:
            raise DataError(
                f"size={size}: {count:,} images of {size} × {size} need {needed / 1e9:,.0f} GB of "
                f"memory, this machine has {there / 1e9:.0f}; a smaller size will do"
            )
        grown = torch.empty(count, channels, size, size, dtype=torch.uint8)
        together = max(1, _TOGETHER // (channels * size * size))
        for start in range(0, count, together):
            part = self.images[start : start + together].float()
            large = F.interpolate(
                part, (size, size), mode="bilinear", antialias=True, align_corners=False
            )
            grown[start : start + together] = large.round_().clamp_(0, 255)
        return Arrays(grown, self.labels)


def memory() -> int:
    """Return the memory of this machine in bytes; `sys.maxsize` if it is unknown."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):
        return sys.maxsize


@dataclass(frozen=True)
class Images:
    """A data set of images, as a network uses it.

    Attributes:
        name: as the user gave it.
        classes: names of the classes, in the order of their indices.
        channels: 1 or 3.
        size: height and width of a network's input.
        mean, std: mean and standard deviation per channel, for x ← (x/255 − mean) / std.
        train, test: the splits.
        fingerprint: a checksum of the examples; 0 if they are not known in advance.
        distorted: whether training examples are cropped, mirrored and distorted by default.
        note: one line of information for the user, such as an unofficial split.
    """

    name: str
    classes: tuple[str, ...]
    channels: int
    size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    train: Examples | Stream
    test: Examples | Stream
    fingerprint: int = 0
    distorted: bool = False
    note: str = field(default="", compare=False)
