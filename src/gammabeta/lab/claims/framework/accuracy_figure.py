"""Test accuracy over steps, a curve an arm, in one panel for each way to choose the rates."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from gammabeta.lab.claims.framework.figure import band, labels, sheet


def draw(
    path: Path,
    describe: str,
    kept: Mapping[tuple[str, float], list[dict[str, Any]]],
    choices: Mapping[str, Mapping[str, float]],
    arms: Mapping[str, tuple[str, str]],
    *,
    scale: str = "linear",
) -> Path:
    """Draw the median over seeds and, shaded, the smallest to the largest.

    Args:
        path: of the SVG.
        describe: what it shows, for those who do not see it.
        kept: (arm, rate) → what `fit.fit` kept, one a seed; runs that diverged are left out.
        choices: a panel's title → the rate of each arm there.
        arms: arm → its words and its colour, in the order they are drawn.
        scale: of the steps, ``"linear"`` or ``"log"``.

    Returns:
        The path.
    """
    with sheet(path, describe, columns=len(choices), panel=(4.2, 3.2), sharey=True) as drawn:
        for axes, (title, chosen) in zip(drawn.panels, choices.items(), strict=True):
            ends = []
            for arm, (words, colour) in arms.items():
                results = [r for r in kept[arm, chosen[arm]] if r["diverged"] is None]
                if not results:
                    continue
                at = [step for step, _ in results[0]["accuracies"]]
                values = np.array([[a for _, a in result["accuracies"]] for result in results])
                ends.append(band(axes, at, values, colour, words))
            axes.set_title(title)
            axes.set_xscale(scale)
            axes.set_xlabel("step")
            axes.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.0f} %")
            if axes is drawn.panels[-1]:
                labels(axes, ends)
        drawn.panels[0].set_ylabel("test accuracy")
    return path
