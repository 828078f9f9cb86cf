"""CIFAR-10's files: six of bytes, or six of pickled bytes, read without running what they hold."""

from __future__ import annotations

import io
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from gammabeta.lab.data.raw import Bytes, DataError, Parts

CLASSES = (
    "airplane",
    "automobile",
    "bird",
    "cat",
    "deer",
    "dog",
    "frog",
    "horse",
    "ship",
    "truck",
)
_PIXELS = 3 * 32 * 32
_TRAIN = tuple(f"data_batch_{number}" for number in range(1, 6))
_FOLDERS = ("", "cifar-10-batches-py", "cifar-10-batches-bin")


def read_cifar10(folder: Path) -> tuple[Parts, tuple[str, ...]]:
    """Read CIFAR-10 as its authors give it, in either form.

    Args:
        folder: of the files, or that which holds ``cifar-10-batches-py`` or ``-bin``.

    Returns:
        Training images (N, 3, 32, 32) and labels (N,), test images and labels; the classes' names.

    Raises:
        DataError: a file is missing or damaged.

    Source:
        Krizhevsky 2009, Learning Multiple Layers of Features from Tiny Images.
    """
    for inside in _FOLDERS:
        for suffix, read in ((".bin", _binary), ("", _python)):
            if (folder / inside / f"{_TRAIN[0]}{suffix}").is_file():
                parts = [read(folder / inside / f"{stem}{suffix}") for stem in _TRAIN]
                test_x, test_y = read(folder / inside / f"test_batch{suffix}")
                train_x, train_y = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
                return (train_x, train_y, test_x, test_y), CLASSES
    raise DataError(
        f"{folder} has no {_TRAIN[0]}.bin nor {_TRAIN[0]}; give the folder of CIFAR-10's binary or "
        "python files with --data-dir"
    )


def _binary(path: Path) -> tuple[Bytes, Bytes]:
    """One byte of label, then 3,072 of image, 10,000 times."""
    raw = np.frombuffer(_bytes(path), np.uint8)
    if raw.size == 0 or raw.size % (1 + _PIXELS):
        raise DataError(f"{path} holds {raw.size} bytes; need a multiple of {1 + _PIXELS}")
    rows = raw.reshape(-1, 1 + _PIXELS)
    return _checked(path, rows[:, 1:], rows[:, 0])


def _python(path: Path) -> tuple[Bytes, Bytes]:
    try:
        held = _Bytes(io.BytesIO(_bytes(path)), encoding="bytes").load()
        data, labels = np.asarray(held[b"data"]), np.asarray(held[b"labels"])
    except Exception as e:  # damaged pickles raise anything
        raise DataError(f"{path} is no python file of CIFAR-10: {e}") from e
    if data.dtype != np.uint8 or data.ndim != 2 or data.shape[1] != _PIXELS:
        raise DataError(f"{path} holds {data.dtype} of shape {data.shape}; need uint8 (N, 3072)")
    return _checked(path, data, labels)


def _checked(path: Path, data: Bytes, labels: npt.NDArray[Any]) -> tuple[Bytes, Bytes]:
    if len(labels) != len(data):
        raise DataError(f"{path} holds {len(data)} images but {len(labels)} labels")
    if labels.size == 0 or labels.min() < 0 or labels.max() >= len(CLASSES):
        raise DataError(f"{path} holds labels that are not 0 … 9")
    return data.reshape(-1, 3, 32, 32), labels.astype(np.uint8)


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as e:
        raise DataError(f"{path} cannot be read: {e.strerror or e}") from e


class _Bytes(pickle.Unpickler):
    """Reads arrays of bytes and nothing that could run."""

    def find_class(self, module: str, name: str) -> Any:
        # NumPy 2 moved its core; the files name the old place.
        place = module.removeprefix("numpy.").replace("_core", "core")
        if (place, name) == ("core.multiarray", "_reconstruct"):
            return np.empty(0).__reduce__()[0]
        if (module, name) == ("numpy", "ndarray"):
            return np.ndarray
        if (module, name) == ("numpy", "dtype"):
            return np.dtype
        if (module, name) == ("_codecs", "encode"):  # bytes, in files of Python 2's protocols
            import _codecs

            return _codecs.encode
        raise pickle.UnpicklingError(f"it names {module}.{name}, which is no array")
