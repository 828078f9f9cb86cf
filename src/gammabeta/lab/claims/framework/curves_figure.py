"""Accuracy over steps, without and with batch norm, every rate of the grid."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from gammabeta.lab.claims.framework.curves import Curves
from gammabeta.lab.claims.framework.figure import COOL, LINE, MUTED, WARM, label, sheet

ARMS = (("none", "without", WARM), ("batch", "with batch norm", COOL))


def draw_curves(path: Path, found: Curves) -> None:
    """Draw the median over seeds for every rate, the best one bold, and the spread about it."""
    best = {norm: 100 * float(np.median(found.best_final(norm))) for norm, _, _ in ARMS}
    with sheet(
        path,
        f"Test accuracy of {found.net.title()} over training steps. Without batch normalization "
        f"it ends at {best['none']:.1f} %, with it at {best['batch']:.1f} %.",
        panel=(6.0, 3.0),
    ) as drawn:
        axes = drawn.panels[0]
        for norm, name, colour in ARMS:
            steps = next(iter(found.of[norm].values()))[0].steps
            seeds = {
                rate: 100 * np.array([curve.accuracy for curve in curves])
                for rate, curves in found.of[norm].items()
            }
            top = max(seeds, key=lambda rate: float(np.median(seeds[rate][:, -1])))
            for rate, values in seeds.items():
                bold = rate == top
                middle = np.median(values, 0)
                axes.plot(steps, middle, color=colour, lw=2 if bold else 0.8)
            values = seeds[top]
            axes.fill_between(steps, values.min(0), values.max(0), color=colour, alpha=0.15, lw=0)
            text = f"{name}, rate {top:g}"
            label(axes, steps[-1], float(np.median(values[:, -1])), text, colour)
        axes.axhline(10, color=LINE, zorder=0)
        axes.annotate(
            "chance", (axes.get_xlim()[0], 10), color=MUTED, fontsize=8,
            xytext=(2, -10), textcoords="offset points",
        )  # fmt: skip
        axes.set_xscale("log")
        axes.set_ylim(0, 100)
        axes.set_xlabel("steps")
        axes.set_ylabel("test accuracy (%)")
        axes.set_title(f"{found.net.title()}; thin: the other rates")
