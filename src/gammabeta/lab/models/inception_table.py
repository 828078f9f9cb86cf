"""The table of BN-Inception: figure 5 of the paper, as data.

Everything that is counted, built or measured of the network is read from here.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from gammabeta.names import known

CHANNELS = {
    "written": "the numbers in the table's cells; modules 4c, 4d and 4e give 608, 608 and 1056",
    "printed": "pool projections of 96 in 4c and 4d, so that they give the 576, 576 and 1024 that "
    "the table prints as its outputs",
}
"""Two readings of a table that contradicts itself."""

STEM = (64, 64, 192)
"""Channels of the three convolutions before the modules: 7×7/2, 1×1, 3×3."""

DEPTH_MULTIPLIER = 8
"""Of the separable 7×7 convolution: maps each channel of the image is turned into."""

MULTIPLE = 4
"""Scaled numbers of channels are multiples of this one."""


@dataclass(frozen=True)
class Module:
    """A row of the table: one inception module.

    Attributes:
        name: ``"3a"`` … ``"5b"``.
        one: channels of the 1×1 convolution; 0 for none.
        reduce: channels of the 1×1 convolution before the 3×3.
        three: channels of the 3×3 convolution.
        double_reduce: channels of the 1×1 convolution before the double 3×3.
        double: channels of both convolutions of the double 3×3.
        project: channels of the 1×1 convolution after the pooling; 0 where it hands its input on.
        pool: ``"avg"`` or ``"max"``.
        stride: of the last convolutions and the pooling: 1 or 2.
    """

    name: str
    one: int
    reduce: int
    three: int
    double_reduce: int
    double: int
    project: int
    pool: str = "avg"
    stride: int = 1

    def outputs(self, inputs: int) -> int:
        """Return the channels that come out where ``inputs`` go in."""
        return self.one + self.three + self.double + (self.project or inputs)

    def out_size(self, size: int) -> int:
        """Return the height and width of the maps that come out, of those that go in."""
        return halved(size) if self.stride == 2 else size

    def layers(self, size: int) -> Iterator[tuple[int, int]]:
        """Yield channels and width of every convolution's output, in the network's order."""
        out = self.out_size(size)
        if self.one:
            yield self.one, out
        yield self.reduce, size
        yield self.three, out
        yield self.double_reduce, size
        yield self.double, size
        yield self.double, out
        if self.project:
            yield self.project, out


TABLE = (
    Module("3a", 64, 64, 64, 64, 96, 32),
    Module("3b", 64, 64, 96, 64, 96, 64),
    Module("3c", 0, 128, 160, 64, 96, 0, "max", 2),
    Module("4a", 224, 64, 96, 96, 128, 128),
    Module("4b", 192, 96, 128, 96, 128, 128),
    Module("4c", 160, 128, 160, 128, 160, 128),
    Module("4d", 96, 128, 192, 160, 192, 128),
    Module("4e", 0, 128, 192, 192, 256, 0, "max", 2),
    Module("5a", 352, 192, 320, 160, 224, 128),
    Module("5b", 352, 192, 320, 192, 224, 128, "max"),
)
"""Ioffe & Szegedy 2015, figure 5, cell by cell."""


def modules(channels: str = "written", width: float = 1.0) -> tuple[Module, ...]:
    """Return the ten modules.

    Args:
        channels: of `CHANNELS`.
        width: multiplies every number of channels; see `scaled`.

    Raises:
        ValueError: ``channels`` is not known.

    Example:
        >>> [module.outputs(576) for module in modules("printed")[3:7]]
        [576, 576, 576, 576]
        >>> modules(width=0.25)[0]
        Module(name='3a', one=16, reduce=16, three=16, double_reduce=16, double=24, project=8, \
pool='avg', stride=1)
    """
    known("channels", channels, CHANNELS)
    chosen: tuple[Module, ...] = TABLE
    if channels == "printed":
        chosen = tuple(replace(m, project=96) if m.name in ("4c", "4d") else m for m in TABLE)
    return tuple(
        replace(
            m,
            one=scaled(m.one, width),
            reduce=scaled(m.reduce, width),
            three=scaled(m.three, width),
            double_reduce=scaled(m.double_reduce, width),
            double=scaled(m.double, width),
            project=scaled(m.project, width),
        )
        for m in chosen
    )


def scaled(channels: int, width: float) -> int:
    """Return ``channels`` times ``width``, rounded to a multiple of `MULTIPLE`, at least one.

    All numbers of the table are multiples of 32, so that a half, a quarter and an eighth are
    exact. 0, which stands for no convolution, stays 0.

    Example:
        >>> scaled(96, 0.25), scaled(96, 0.3), scaled(32, 0.01), scaled(0, 2.0)
        (24, 28, 4, 0)
    """
    if not channels:
        return 0
    return max(MULTIPLE, int(channels * width / MULTIPLE + 0.5) * MULTIPLE)


def halved(size: int) -> int:
    """Return what stride 2 leaves of ``size``: every second position, the first one included."""
    return (size + 1) // 2
