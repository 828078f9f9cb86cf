"""Turn a picture into network input: GoogLeNet's random distortions, or the central crop."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from gammabeta.lab.data.bare import bare
from gammabeta.lab.data.crops import centre_crop
from gammabeta.lab.data.examples import Picture
from gammabeta.lab.data.quiet import quiet
from gammabeta.lab.data.raw import DataError

AREA = (0.08, 1.0)
"""Area of the crop as a fraction of the picture's area."""

ASPECT = (3 / 4, 4 / 3)
"""Aspect ratio of the crop: width over height."""

STRONG, WEAK = 0.5, 0.25
"""Strength s of the changes to brightness, contrast and colour: factors 1 − s … 1 + s."""

_TRIES = 10
_ORIENTATION = 0x0112  # EXIF's tag
_TURNS = {
    2: "FLIP_LEFT_RIGHT",
    3: "ROTATE_180",
    4: "FLIP_TOP_BOTTOM",
    5: "TRANSPOSE",
    6: "ROTATE_270",
    7: "TRANSVERSE",
    8: "ROTATE_90",
}
_TELLING = ("exif", "Raw profile type exif", "xmp", "XML:com.adobe.xmp")  # of the orientation
_WHITE_16 = 65535

Read = TypeVar("Read")


class Distortions:
    """Crops, mirrors and distorts a training picture at random.

    A crop of 8 % to 100 % of the area and an aspect ratio between 3:4 and 4:3 is resized to the
    network's size and mirrored with probability ½. Then brightness, contrast and colour are
    multiplied by separate random factors, in random order. The interpolation is fixed; GoogLeNet
    chose it at random.

    Args:
        size: height and width of the network's input.
        weak: use factors 0.75 … 1.25 instead of 0.5 … 1.5.

    Raises:
        DataError: Pillow is missing.

    Source:
        Szegedy et al. 2014, arXiv:1409.4842, section 6 (crops); Howard 2013, arXiv:1312.5402,
        section 2 (0.5 … 1.5). Ioffe & Szegedy 2015, section 4.2.1, "reduce the photometric
        distortions", prints no number: half of Howard's is ours. So is drawing the aspect ratio
        evenly on a logarithmic scale.
    """

    def __init__(self, size: int, weak: bool) -> None:
        pillow()
        self._size = size
        self._strength = WEAK if weak else STRONG

    def __call__(self, picture: Picture, random: np.random.Generator) -> Tensor:
        """Return (C, size, size) uint8."""
        from PIL import Image, ImageEnhance, ImageOps

        image = opened(picture)
        box = crop(image.width, image.height, random)
        image = image.resize((self._size, self._size), Image.Resampling.BILINEAR, box=box)
        if random.random() < 0.5:
            image = ImageOps.mirror(image)
        factors = random.uniform(1 - self._strength, 1 + self._strength, 3)
        changes = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)
        for which in random.permutation(3):
            if image.mode == "RGB" or which != 2:  # grey has no colour
                image = changes[which](image).enhance(float(factors[which]))
        return tensor(image)


class Central:
    """Takes the centre of a picture, 224/256 of its shorter side.

    Args:
        size: height and width of the network's input.
    """

    def __init__(self, size: int) -> None:
        self._size = size

    def __call__(self, picture: Picture, random: np.random.Generator | None = None) -> Tensor:
        """Return (C, size, size) uint8; nothing is random."""
        image = picture if isinstance(picture, Tensor) else tensor(opened(picture))
        if image.shape[-2:] == (self._size, self._size):
            return image
        cut = centre_crop(image[None].float(), self._size)[0]
        return cut.round_().clamp_(0, 255).to(torch.uint8)


def crop(width: int, height: int, random: np.random.Generator) -> tuple[int, int, int, int]:
    """Return left, top, right, bottom of a random crop, in pixels.

    Example:
        >>> crop(100, 80, np.random.Generator(np.random.PCG64(3)))
        (12, 34, 45, 72)
    """
    for _ in range(_TRIES):
        area = width * height * random.uniform(*AREA)
        aspect = float(np.exp(random.uniform(*np.log(ASPECT))))
        w, h = round((area * aspect) ** 0.5), round((area / aspect) ** 0.5)
        if 0 < w <= width and 0 < h <= height:
            left = int(random.integers(width - w + 1))
            top = int(random.integers(height - h + 1))
            return left, top, left + w, top + h
    side = min(width, height)  # a very long picture
    left, top = (width - side) // 2, (height - side) // 2
    return left, top, left + side, top + side


def opened(picture: Picture | Path) -> Any:
    """Return a Pillow image of a picture in any form, decoded to its last byte: RGB of a file.

    Pictures that are already decoded stay grey if they are grey.

    Metadata never decide whether a file can be read; nor do Pillow's warnings, which are not shown.

    Raises:
        OSError, SyntaxError, ValueError: as Pillow finds it; it cannot be read.
    """
    if isinstance(picture, Tensor):
        array = picture.numpy()
        return pillow().fromarray(array[0] if len(array) == 1 else array.transpose(1, 2, 0))
    if isinstance(picture, (bytes, Path)):
        return read(picture, lambda image: _plain(image).convert("RGB"))
    with quiet():
        return _plain(picture)


def read(source: bytes | Path, use: Callable[[Any], Read]) -> Read:
    """Open a picture file with Pillow and return the result of ``use``.

    Raises:
        OSError, SyntaxError, ValueError: it fails, also where the file's metadata are left out.
    """
    image_module = pillow()
    with quiet():
        try:
            file = io.BytesIO(source) if isinstance(source, bytes) else source
            with image_module.open(file) as image:
                return use(image)
        except Exception:
            for orientation in (True, False):
                with contextlib.suppress(Exception):
                    raw = source if isinstance(source, bytes) else source.read_bytes()
                    rest = bare(raw, orientation=orientation)
                    with image_module.open(io.BytesIO(rest)) as image:
                        return use(image)
            raise


def _plain(picture: Any) -> Any:
    image = _upright(picture)
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        image = _of_bytes(image)
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")  # what Pillow would warn of
    if image.mode == "La":
        image = image.convert("LA")  # the only mode that Pillow makes of it
    return image if image.mode in ("L", "RGB") and picture is image else image.convert("RGB")


def _upright(image: Any) -> Any:
    """As the camera was held: turned or mirrored as the file's metadata say, if they can be read.

    `PIL.ImageOps.exif_transpose` writes the other metadata anew, which fails where they are odd.
    """
    image.load()
    turn = None
    with contextlib.suppress(Exception):
        turn = _TURNS.get(image.getexif().get(_ORIENTATION))
    if turn is None:
        return image
    turned = image  # a TIFF: Pillow does it when it decodes one; old versions do not forget it then
    if image.format != "TIFF":
        turned = image.transpose(getattr(pillow().Transpose, turn))
    for key in _TELLING:  # or somebody would turn it again
        turned.info.pop(key, None)
    return turned


def _of_bytes(image: Any) -> Any:
    """A grey image of 16 bits a pixel as one of 8: Pillow's own conversion would cut them off."""
    values = np.asarray(image)
    if image.mode == "F" or values.min() < 0 or values.max() > _WHITE_16:
        raise ValueError("its values are not 8 or 16 bits each; save it with as many")
    levels = np.rint(values.astype(np.float64) * (255 / _WHITE_16))
    return pillow().fromarray(levels.astype(np.uint8))


def tensor(image: Any) -> Tensor:
    """Return a Pillow image, grey or RGB, as (C, H, W) uint8."""
    array = torch.from_numpy(np.array(image, np.uint8))
    return array[None] if array.dim() == 2 else array.permute(2, 0, 1).contiguous()


def pillow() -> Any:
    """Return Pillow's module ``Image``.

    Raises:
        DataError: it is not installed.
    """
    try:
        from PIL import Image
    except ImportError as e:
        raise DataError("pictures need Pillow: pip install 'gammabeta[train]'") from e
    return Image
