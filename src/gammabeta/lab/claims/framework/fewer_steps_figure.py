"""The figure of `fewer-steps`: the ratio over target accuracy, and over depth."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from gammabeta.lab.claims.framework.curves import Curves, typical
from gammabeta.lab.claims.framework.figure import (
    COOL,
    INK,
    LINE,
    MUTED,
    OLIVE,
    PLUM,
    WARM,
    labels,
    sheet,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_TARGETS = [percent / 100 for percent in range(30, 96)]
_COLOURS = (WARM, COOL, PLUM, OLIVE, INK, MUTED)


def draw(path: Path, found: Sequence[Curves]) -> None:
    """Draw the ratios of ``found``, and save them at ``path``."""
    told = "; ".join(
        f"{each.net.title()}: {typical(each.own_best()[2]).ratio:.3g} times fewer steps"
        for each in found
    )
    with sheet(
        path,
        f"How many times fewer steps with batch normalization, over the accuracy to reach and "
        f"over depth. {told}.",
        columns=2,
        panel=(4.4, 3.0),
    ) as drawn:
        over_target, over_depth = drawn.panels
        ends = []
        lines = [(each.net.title(), _over_target(each)) for each in found]
        some = [(title, points) for title, points in lines if points]
        for (title, points), colour in zip(some, _COLOURS, strict=False):
            x, y = zip(*points, strict=True)
            over_target.plot(x, y, color=colour)
            ends.append((x[-1], y[-1], title, colour))
        over_target.set_title("to reach an accuracy, each at its best rate for it")
        over_target.set_xlabel("test accuracy to reach (%)")
        over_target.set_ylabel("times fewer steps")
        names = _over_depth(over_depth, found)
        for axes in drawn.panels:
            axes.set_yscale("log")
            axes.yaxis.set_major_formatter("{x:g} ×")
            axes.axhline(1, color=LINE, zorder=0)
        labels(over_target, ends)
        labels(over_depth, names)


def _over_target(each: Curves) -> list[tuple[float, float]]:
    """Percent accuracy and ratio, for the accuracies that both reach."""
    points = []
    for target in _TARGETS:
        slow, fast = each.soonest("none", target), each.soonest("batch", target)
        if math.isfinite(slow) and math.isfinite(fast):
            points.append((100 * target, slow / fast))
    return points


def _over_depth(axes: Axes, found: Sequence[Curves]) -> list[tuple[float, float, str, str]]:
    """The sigmoid stacks with Glorot's weights, under both protocols."""
    nets = [each for each in found if each.net.activation == "sigmoid" and each.net.sigma is None]
    depths = [each.net.depth for each in nets]
    ends: list[tuple[float, float, str, str]] = []
    for name, colour, ratios in (
        ("each at its best rate", PLUM, [each.own_best()[2] for each in nets]),
        ("both at the lowest rate", OLIVE, [each.matched(min(each.rates)) for each in nets]),
    ):
        middles = [typical(seeds) for seeds in ratios]
        sure = [middle.ratio if not middle.bound else math.nan for middle in middles]
        axes.plot(depths, sure, color=colour)
        # How far a bound is says how long the run was.
        axes.plot(depths, [middle.ratio for middle in middles], ":", color=colour, linewidth=1)
        for depth, middle in zip(depths, middles, strict=True):
            marker = {"≥": "^", "≤": "v", "": "o"}[middle.bound]
            axes.plot([depth], [middle.ratio], marker, color=colour, markersize=5)
        ends.append((depths[-1], middles[-1].ratio, name, colour))
    axes.set_title("sigmoid, Glorot; ▲ at least, ▼ at most")
    axes.set_xlabel("layers")
    axes.set_xticks(depths)
    return ends
