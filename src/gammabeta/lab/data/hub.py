"""Data sets of Hugging Face, streamed: nothing is downloaded before it is used."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from typing import Any

from gammabeta.lab.data.distort import pillow
from gammabeta.lab.data.examples import Example, Images
from gammabeta.lab.data.folder import CENTRED, SIZE
from gammabeta.lab.data.raw import DataError

PREFIX = "hf:"
_TESTS = ("validation", "val", "test", "valid")


class HubStream:
    """A split of a streamed data set.

    Args:
        rows: an iterable data set of the library ``datasets``, its pictures not yet decoded.
        image, label: names of the columns.
    """

    def __init__(self, rows: Any, image: str, label: str) -> None:
        self._rows = rows
        self._image = image
        self._label = label

    @property
    def shards(self) -> int:
        """How many files it is in."""
        return max(1, int(self._rows.num_shards))

    def read(self, shard: int) -> Iterator[Example]:
        """Yield the bytes and classes of one file."""
        count = self.shards
        rows = self._rows.shard(num_shards=count, index=shard) if count > 1 else self._rows
        for row in rows:
            held = row[self._image]
            raw = held.get("bytes")
            if raw is None:
                with open(held["path"], "rb") as file:
                    raw = file.read()
            yield raw, int(row[self._label])


def hub(name: str, size: int | None = None) -> Images:
    """Return a data set of Hugging Face.

    Args:
        name: ``"hf:NAME"`` or ``"hf:NAME:CONFIGURATION"``.
        size: height and width given to the network; 224 if None.

    Raises:
        DataError: the library ``datasets`` or Pillow is missing; the data set cannot be reached,
            or has no column of images, no column of classes, or no split to train or test on.
    """
    pillow()
    try:
        datasets = importlib.import_module("datasets")
    except ImportError as e:
        raise DataError(
            f"data={name!r} needs the library datasets: pip install 'gammabeta[hub]'"
        ) from e
    path, _, configuration = name.removeprefix(PREFIX).partition(":")
    if not path:
        raise DataError(f"data={name!r} names no data set; give one, such as hf:cifar10")
    try:
        splits = datasets.load_dataset(path, configuration or None, streaming=True)
    except Exception as e:  # of the network, the hub, the files: many kinds
        raise DataError(f"data={name!r} cannot be opened: {e}") from e
    test = next((split for split in _TESTS if split in splits), None)
    if "train" not in splits or test is None:
        raise DataError(f"data={name!r} has the splits {', '.join(splits)}; need train and a test")
    features = splits["train"].features or {}
    image = next((n for n, f in features.items() if isinstance(f, datasets.Image)), None)
    label = next((n for n, f in features.items() if isinstance(f, datasets.ClassLabel)), None)
    if image is None or label is None:
        raise DataError(
            f"data={name!r} has the columns {', '.join(features) or 'unknown'}; need one of images "
            "and one of classes (datasets.Image, datasets.ClassLabel)"
        )
    raw = datasets.Image(decode=False)

    def part(split: str) -> HubStream:
        return HubStream(splits[split].cast_column(image, raw), image, label)

    return Images(
        name,
        tuple(map(str, features[label].names)),
        3,
        size or SIZE,
        CENTRED,
        CENTRED,
        part("train"),
        part(test),
        distorted=True,
    )
