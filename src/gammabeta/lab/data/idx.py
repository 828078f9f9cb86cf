"""IDX files, the format of MNIST and Fashion-MNIST."""

from __future__ import annotations

import gzip
import math
import zlib
from pathlib import Path

import numpy as np

from gammabeta.lab.data.raw import Bytes, DataError, Parts


def read_splits(root: Path, name: str = "Fashion-MNIST") -> Parts:
    """Read the four IDX files of the data set ``name`` from the folder ``root``.

    Raises:
        DataError: a file is missing or damaged, or the files do not match.
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


def read_idx(path: Path) -> Bytes:
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


def _check(root: Path, train_x: Bytes, train_y: Bytes, test_x: Bytes, test_y: Bytes) -> None:
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
