"""One door to every data set: by name, by folder, by Hugging Face's name."""

from __future__ import annotations

from pathlib import Path

from gammabeta.names import known
from gammabeta.training.data import DataError
from gammabeta.training.images import arrays
from gammabeta.training.images.examples import Images

SOURCES = ("digits", "fashion-mnist", "mnist", "cifar10", "folder", "hf:NAME")
"""What `load_images` knows."""


def load_images(
    name: str,
    folder: Path | None = None,
    *,
    size: int | None = None,
    skip_unreadable: bool = False,
) -> Images:
    """Return a data set of images.

    Args:
        name: ``"digits"`` (embedded), ``"fashion-mnist"``, ``"mnist"``, ``"cifar10"`` (files in
            ``folder``), ``"folder"`` (``folder`` has a sub-folder for each class), or ``"hf:NAME"``
            (a data set of Hugging Face's, streamed).
        folder: of the files. Fashion-MNIST is looked for where Debian puts it.
        size: height and width a network is to be given; the data's own if None.
        skip_unreadable: leave out images of a folder that cannot be read, instead of raising.

    Raises:
        ValueError: unknown name; the nearest is offered.
        DataError: something is missing, damaged or empty.

    Example:
        >>> digits = load_images("digits")
        >>> len(digits.train), len(digits.test), digits.size
        (1437, 360, 8)
    """
    if name.startswith("hf:"):
        raise DataError("not yet")
    known("data", name, SOURCES)
    if name == "digits":
        if folder is not None:
            raise ValueError(f"data_dir={folder} is not for the digits, which are embedded")
        return arrays.digits(size)
    if name == "fashion-mnist":
        return arrays.fashion_mnist(folder, size)
    if folder is None:
        raise ValueError(f"data={name!r} needs the folder of its files: --data-dir")
    if name == "mnist":
        return arrays.mnist(folder, size)
    if name == "cifar10":
        return arrays.cifar10(folder, size)
    raise DataError("not yet")
