"""Load any data set: by name, from a folder, or from Hugging Face."""

from __future__ import annotations

from pathlib import Path

from gammabeta.lab.data import arrays
from gammabeta.lab.data.examples import Images
from gammabeta.lab.data.folder import image_folder
from gammabeta.lab.data.hub import PREFIX, hub
from gammabeta.names import known

SOURCES = ("digits", "fashion-mnist", "mnist", "cifar10", "folder", f"{PREFIX}NAME")
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
    if not name.startswith(PREFIX):
        known("data", name, SOURCES)
    if name == "digits" or name.startswith(PREFIX):
        if folder is not None:
            raise ValueError(f"data_dir={folder} is not for data={name!r}, which needs none")
        return hub(name, size) if name.startswith(PREFIX) else arrays.digits(size)
    if name == "fashion-mnist":
        return arrays.fashion_mnist(folder, size)
    if folder is None:
        raise ValueError(f"data={name!r} needs the folder of its files: --data-dir")
    if name == "mnist":
        return arrays.mnist(folder, size)
    if name == "cifar10":
        return arrays.cifar10(folder, size)
    return image_folder(folder, size, skip_unreadable=skip_unreadable)
