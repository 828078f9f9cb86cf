"""The shapes that layers are measured on: every batch norm's input in two networks, and tiny ones.

Images are 224 × 224, batches 32. A shape that several layers share is measured once.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from gammabeta.names import known

Shape = tuple[int, ...]

BATCH = 32

# Ioffe & Szegedy 2015, figure 5. Per module: the width of its maps, stride 2 or not, and the
# channels: 1×1, 3×3 reduce, 3×3, double 3×3 reduce, double 3×3 (both), pool projection; 0 for none.
_MODULES: dict[str, tuple[int, bool, tuple[int, int, int, int, int, int]]] = {
    "3a": (28, False, (64, 64, 64, 64, 96, 32)),
    "3b": (28, False, (64, 64, 96, 64, 96, 64)),
    "3c": (28, True, (0, 128, 160, 64, 96, 0)),
    "4a": (14, False, (224, 64, 96, 96, 128, 128)),
    "4b": (14, False, (192, 96, 128, 96, 128, 128)),
    "4c": (14, False, (160, 128, 160, 128, 160, 128)),
    "4d": (14, False, (96, 128, 192, 160, 192, 128)),
    "4e": (14, True, (0, 128, 192, 192, 256, 0)),
    "5a": (7, False, (352, 192, 320, 160, 224, 128)),
    "5b": (7, False, (352, 192, 320, 192, 224, 128)),
}

_STEM = ((64, 112), (64, 56), (192, 56))
"""Channels and width of the three convolutions before the modules."""

# He et al. 2016, table 1, with the stride in the 3 × 3 convolution, as it is usually built.
_RESNET_50 = (
    *((64, 112), (64, 56), (256, 56), (128, 56), (128, 28), (512, 28), (256, 28), (256, 14)),
    *((1024, 14), (512, 14), (512, 7), (2048, 7)),
)


def bn_inception() -> list[tuple[int, int]]:
    """Channels and width of every batch norm of BN-Inception, in order, repeated as there.

    Example:
        >>> len(bn_inception()), bn_inception()[:4]
        (69, [(64, 112), (64, 56), (192, 56), (64, 28)])
    """
    return [*_STEM, *(layer for module in _MODULES for layer in _module(module))]


def _module(name: str) -> Iterator[tuple[int, int]]:
    width, strided, (one, reduce, three, double_reduce, double, pool) = _MODULES[name]
    out = width // 2 if strided else width
    if one:
        yield one, width
    yield reduce, width
    yield three, out
    yield double_reduce, width
    yield double, width
    yield double, out
    if pool:
        yield pool, width


def _distinct(layers: list[tuple[int, int]]) -> list[Shape]:
    """Each shape once, the largest maps first."""
    order = sorted(set(layers), key=lambda layer: (-layer[1], layer[0]))
    return [(BATCH, channels, width, width) for channels, width in order]


LISTS: dict[str, list[Shape]] = {
    "bn-inception": _distinct(bn_inception()),
    "resnet-50": _distinct(list(_RESNET_50)),
    "tiny": [(64, 100), (32, 16, 8, 8)],
    "quick": [(32, 64, 28, 28), (32, 512, 7, 7)],
}
"""Name → distinct shapes, (N, C) or (N, C, H, W)."""


def chosen(names: list[str]) -> dict[Shape, str]:
    """Return the shapes that ``names`` stand for.

    Args:
        names: of `LISTS`, or shapes themselves, such as ``"32x64x56x56"``.

    Returns:
        shape → the lists it is in, joined by blanks (``"own"`` for one that was written out).

    Raises:
        ValueError: a name that is neither, or a shape that batch norm cannot take.

    Example:
        >>> chosen(["tiny", "8x4x2x2"])
        {(64, 100): 'tiny', (32, 16, 8, 8): 'tiny', (8, 4, 2, 2): 'own'}
    """
    found: dict[Shape, list[str]] = {}
    for name in names:
        sizes = name.replace("×", "x").split("x")
        if all(size.isdecimal() for size in sizes):
            found.setdefault(_shape(name, sizes), []).append("own")
            continue
        known("shapes", name, (*LISTS, "32x64x56x56"))
        for shape in LISTS[name]:
            found.setdefault(shape, []).append(name)
    return {shape: " ".join(dict.fromkeys(lists)) for shape, lists in found.items()}


def _shape(name: str, sizes: list[str]) -> Shape:
    shape = tuple(map(int, sizes))
    if len(shape) not in (2, 4) or math.prod(shape) <= shape[1]:
        raise ValueError(
            f"shapes={name!r} must be NxC or NxCxHxW, such as 32x64x56x56, with two values a "
            "channel or more"
        )
    return shape


def text(shape: Shape) -> str:
    """Return ``shape`` as it is printed: ``32×64×56×56``."""
    return "×".join(map(str, shape))
