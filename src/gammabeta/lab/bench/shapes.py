"""The shapes that layers are measured on: every batch norm's input in two networks, and tiny ones.

Images are 224 × 224, batches 32. A shape that several layers share is measured once.
"""

from __future__ import annotations

import math

from gammabeta.lab.data.examples import memory
from gammabeta.lab.models.inception_table import STEM, TABLE
from gammabeta.names import known

Shape = tuple[int, ...]

BATCH = 32

_LONGEST = 60
"""Characters of a shape that a message repeats."""

_BYTES = 48
"""Of memory for each value of an input, at least: twelve float32 tensors of its shape are held at
once, the input and the residual, their gradients, the outputs and what is kept for backward."""

_STEM_SIZES = (112, 56, 56)
_SIZE = 28
"""Of the maps of BN-Inception's stem, and of those its first module gets."""

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
    layers = list(zip(STEM, _STEM_SIZES, strict=True))
    size = _SIZE
    for module in TABLE:
        layers += module.layers(size)
        size = module.out_size(size)
    return layers


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
        ValueError: a name that is neither, or a shape that batch norm cannot take or that does not
            fit into memory.

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


def check_size(argument: str, value: object, values: float) -> None:
    """Raise unless a case whose input has so many ``values`` can fit into this machine's memory.

    Args:
        argument: what the person calls the input's size, for the message.
        value: what the person gave.
        values: how many; inf for too many to count.

    Raises:
        ValueError: it cannot.
    """
    there = memory()
    if not values * _BYTES <= there:  # NaN, too: 0 × too many to count
        raise ValueError(
            f"{argument}={value!r} does not fit into this machine's memory of {there / 1e9:.0f} "
            "GB; give a smaller input"
        )


def _shape(name: str, sizes: list[str]) -> Shape:
    name = name if len(name) <= _LONGEST else f"{name[:_LONGEST]}…"
    check_size("shapes", name, math.prod(float(size) for size in sizes))
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
