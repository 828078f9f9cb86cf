"""Real data for the demonstrations: embedded digits, and Fashion-MNIST from local files."""

from __future__ import annotations

import gzip
import math
import os
import zlib
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from gammabeta.names import known

DATASETS = ("digits", "fashion-mnist")
FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")
"""Where Debian's package dataset-fashion-mnist puts its files."""

Parts: TypeAlias = tuple[
    npt.NDArray[np.uint8], npt.NDArray[np.uint8], npt.NDArray[np.uint8], npt.NDArray[np.uint8]
]
"""Images and labels to train on, images and labels to test."""

_TEST_DIGITS = 360
_SPLIT_SEED = 0


class DataError(ValueError):
    """Data that is missing or damaged; the message says which file and what would do."""


@dataclass(frozen=True)
class Dataset:
    """Images as rows of features, standardized by the training set's one mean and std.

    Attributes:
        name: as the person gave it.
        train_x, test_x: (N, features) float32.
        train_y, test_y: (N,) int64 class indices.
        classes: number of classes.
    """

    name: str
    train_x: Tensor
    train_y: Tensor
    test_x: Tensor
    test_y: Tensor
    classes: int


def load(name: str, folder: str | os.PathLike[str] | None = None) -> Dataset:
    """Load a data set.

    Args:
        name: ``"digits"`` (embedded: 1,437 images to train on, 360 to test, 64 features) or
            ``"fashion-mnist"`` (60,000 and 10,000, 784 features).
        folder: of the four IDX files of Fashion-MNIST, gzipped or not.

    Raises:
        ValueError: unknown name, or a folder for the digits, which are embedded.
        DataError: a file is missing or damaged.

    Source:
        Digits: Alpaydin & Kaynak 1998, UCI repository, CC BY 4.0; the split is a fixed
        permutation. Fashion-MNIST: Xiao, Rasul & Vollgraf 2017, its own split.

    Example:
        >>> digits = load("digits")
        >>> digits.train_x.shape, digits.test_x.shape
        (torch.Size([1437, 64]), torch.Size([360, 64]))
    """
    known("dataset", name, DATASETS)
    if name == "digits":
        if folder is not None:
            raise ValueError(f"data_dir={folder} is not for the digits; name the data set it is of")
        return standardized(name, *embedded_digits())
    return standardized(name, *read_splits(Path(folder) if folder is not None else FASHION_MNIST))


def embedded_digits() -> Parts:
    """Return the embedded digits: images (N, 8, 8) of 0 … 16, labels; to train on and to test."""
    with resources.files(__package__).joinpath("digits/digits.npz").open("rb") as file:
        archive = np.load(file)
        images, labels = archive["images"], archive["labels"]
    order = np.random.Generator(np.random.PCG64(_SPLIT_SEED)).permutation(len(images))
    train, test = order[:-_TEST_DIGITS], order[-_TEST_DIGITS:]
    return images[train], labels[train], images[test], labels[test]


def read_splits(root: Path, name: str = "Fashion-MNIST") -> Parts:
    """Read the four IDX files of ``name`` in ``root``: images and labels, to train on and to test.

    Raises:
        DataError: a file is missing or damaged, or they do not go together.
    """
    train_x, train_y, test_x, test_y = (
        read_idx(_idx_file(root, stem, name))
        for stem in (
            "train-images-idx3-ubyte",
            "train-labels-idx1-ubyte",
            "t10k-images-idx3-ubyte",
            "t10k-labels-idx1-ubyte",
        )
    )
    _check(root, train_x, train_y, test_x, test_y)
    return train_x, train_y, test_x, test_y


def read_idx(path: Path) -> npt.NDArray[np.uint8]:
    """Read an IDX file of unsigned bytes, gzipped if its name ends in ``.gz``.

    Raises:
        DataError: it cannot be read, is not IDX, or is cut short.
    """
    try:
        opener = gzip.open if path.suffix == ".gz" else open
        with opener(path, "rb") as file:
            raw = file.read()
    except (OSError, EOFError, zlib.error) as e:
        raise DataError(f"{path} cannot be read: {e}") from e
    if len(raw) < 4 or raw[:3] != b"\0\0\x08" or len(raw) < 4 + 4 * raw[3]:
        raise DataError(f"{path} is not an IDX file of unsigned bytes")
    shape = tuple(int(size) for size in np.frombuffer(raw, ">u4", count=raw[3], offset=4))
    data = np.frombuffer(raw, np.uint8, offset=4 + 4 * raw[3])
    if data.size != math.prod(shape):
        raise DataError(f"{path} holds {data.size} bytes where its header says {math.prod(shape)}")
    return data.reshape(shape)


def _idx_file(root: Path, stem: str, name: str) -> Path:
    for path in (root / f"{stem}.gz", root / stem):
        if path.exists():
            if not path.is_file():  # a FIFO would be waited for
                raise DataError(f"{path} is not a regular file; put the data there")
            return path
    debian = ", or (on Debian) apt install dataset-fashion-mnist" if "Fashion" in name else ""
    raise DataError(
        f"{root} has no {stem}.gz; give the folder of {name}'s four IDX files with --data-dir"
        f"{debian}"
    )


def _check(
    root: Path,
    train_x: npt.NDArray[np.uint8],
    train_y: npt.NDArray[np.uint8],
    test_x: npt.NDArray[np.uint8],
    test_y: npt.NDArray[np.uint8],
) -> None:
    """Raise `DataError` unless the four arrays go together."""
    for images, labels in ((train_x, train_y), (test_x, test_y)):
        if images.ndim != 3:
            raise DataError(f"{root} holds images of shape {images.shape}; need (N, height, width)")
        if labels.ndim != 1:
            raise DataError(f"{root} holds labels of shape {labels.shape}; need (N,)")
        if len(images) != len(labels):
            raise DataError(f"{root} holds {len(images)} images but {len(labels)} labels")
        if images.size == 0:
            raise DataError(f"{root} holds no images to train on or to test on")
    (height, width), (test_height, test_width) = train_x.shape[1:], test_x.shape[1:]
    if (height, width) != (test_height, test_width):
        raise DataError(
            f"{root} holds images of {height} × {width} to train on but {test_height} × "
            f"{test_width} to test on"
        )
    if test_y.max() > train_y.max():
        raise DataError(
            f"{root} holds label {test_y.max()} to test on; the largest to train on is "
            f"{train_y.max()}"
        )


def standardized(
    name: str,
    train_x: npt.NDArray[np.uint8],
    train_y: npt.NDArray[np.uint8],
    test_x: npt.NDArray[np.uint8],
    test_y: npt.NDArray[np.uint8],
) -> Dataset:
    """Return bytes (N, …) as a data set: rows, of mean 0 and variance 1 over those to train on."""
    train = torch.from_numpy(train_x.astype(np.float32)).flatten(1)
    test = torch.from_numpy(test_x.astype(np.float32)).flatten(1)
    mean, std = train.mean(), train.std()
    return Dataset(
        name,
        (train - mean) / std,
        torch.from_numpy(train_y.astype(np.int64)),
        (test - mean) / std,
        torch.from_numpy(test_y.astype(np.int64)),
        classes=int(train_y.max()) + 1,
    )
