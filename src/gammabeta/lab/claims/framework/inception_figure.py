"""The figure of `inception`: accuracy by step for every recipe, and the ratio over the target."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from gammabeta.lab.claims.framework.curves import Curve
from gammabeta.lab.claims.framework.figure import (
    COOL,
    INK,
    LINE,
    OLIVE,
    PLUM,
    WARM,
    band,
    labels,
    sheet,
)

_COLOURS = (COOL, PLUM, OLIVE, INK)


def draw(path: Path, slow: Sequence[Curve], fast: Mapping[str, Sequence[Curve]]) -> None:
    """Draw the baseline's curves and each recipe's, and save them at ``path``."""
    told = "; ".join(f"{name} {_best(curves):.1f} %" for name, curves in fast.items())
    with sheet(
        path,
        "Test accuracy over training steps for the paper's recipes, each at its best rate, and "
        f"how many times fewer steps each needs. Best: inception {_best(slow):.1f} %; {told}.",
        columns=2,
        panel=(4.4, 3.0),
    ) as drawn:
        accuracy, ratio = drawn.panels
        ends = []
        for (name, curves), colour in zip(
            [("inception", slow), *fast.items()], (WARM, *_COLOURS), strict=True
        ):
            steps = curves[0].steps
            values = 100 * np.array([curve.accuracy for curve in curves])
            ends.append(band(accuracy, steps, values, colour, name))
        accuracy.set_xscale("log")
        accuracy.set_ylim(0, 100)
        accuracy.set_xlabel("steps")
        accuracy.set_ylabel("test accuracy (%)")
        accuracy.set_title("each at its best rate")
        names = []
        for (name, curves), colour in zip(fast.items(), _COLOURS, strict=True):
            points = _over_target(slow, curves)
            if points:
                x, y = zip(*points, strict=True)
                ratio.plot(x, y, color=colour)
                names.append((x[-1], y[-1], name, colour))
        ratio.axhline(1, color=LINE, zorder=0)
        ratio.set_yscale("log")
        ratio.yaxis.set_major_formatter("{x:g} ×")
        ratio.set_xlabel("test accuracy to reach (%)")
        ratio.set_ylabel("times fewer steps")
        ratio.set_title("against the baseline")
        labels(accuracy, ends)
        labels(ratio, names)


def _over_target(slow: Sequence[Curve], fast: Sequence[Curve]) -> list[tuple[float, float]]:
    points = []
    for percent in range(20, 100):
        pair = [
            statistics.median_low(curve.reach(percent / 100) for curve in curves)
            for curves in (slow, fast)
        ]
        if all(map(math.isfinite, pair)):
            points.append((float(percent), pair[0] / pair[1]))
    return points


def _best(curves: Sequence[Curve]) -> float:
    return 100 * statistics.median(curve.best() for curve in curves)
