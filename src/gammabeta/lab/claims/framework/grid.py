"""The grid of learning rate × initial scale that two claims share: which cells train."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from gammabeta.lab.claims.framework.batched_stacks import Crowd
from gammabeta.lab.claims.framework.context import Context
from gammabeta.lab.claims.framework.curves import Net
from gammabeta.lab.claims.framework.training import train
from gammabeta.lab.models.stack import Stack

TRAINS = 0.7
"""Accuracy from which a cell is said to train; a linear classifier has 0.8."""
NETS = (Net(3, "sigmoid"), Net(10, "relu"))
_SHARED = "grid-1"
_STEPS, _DEEP_STEPS = (2000, 600), (1500, 300)
_TOGETHER = 45
"""Cells trained in one crowd: more are no faster, and a result kept is a shorter wait lost."""

PROTOCOL = (
    "Stacks of 100 units a layer on Fashion-MNIST, "
    f"{' and '.join(net.title() for net in NETS)}: every cell of a grid of 10 learning rates, "
    "0.001 to 32, by 9 scales of Glorot's standard deviation, 1/16 to 16 (quick: 7 by 5 over the "
    "same ranges), with and without batch norm, trained for 2,000 steps (the deep one 1,500; "
    "quick: 600 and 300) of plain SGD with mini-batches of 60. A cell trains if its accuracy on "
    f"2,000 test images is at least {TRAINS:.0%}; it has diverged if a loss was not finite. Each "
    "seed is counted by itself; in the figure a cell is the median over seeds. The classifier's "
    "weights are not scaled."
)


@dataclass(frozen=True)
class Grid:
    """What became of every cell.

    Attributes:
        net: the network.
        rates, scales: the axes, evenly spaced in the logarithm.
        accuracy: norm → (seeds, rates, scales).
        diverged: norm → (seeds, rates, scales).
    """

    net: Net
    rates: Sequence[float]
    scales: Sequence[float]
    accuracy: dict[str, npt.NDArray[np.float64]]
    diverged: dict[str, npt.NDArray[np.bool_]]

    def trains(self, norm: str) -> npt.NDArray[np.bool_]:
        """Which cells train, in the median over seeds; (rates, scales)."""
        return np.asarray(np.median(self.accuracy[norm], 0) >= TRAINS)

    def areas(self, norm: str) -> list[int]:
        """Return how many cells train, one a seed."""
        return [int((seed >= TRAINS).sum()) for seed in self.accuracy[norm]]

    def area_ratios(self) -> list[float]:
        """Return how many times more cells train with batch norm, one a seed."""
        return [over(*pair) for pair in zip(self.areas("batch"), self.areas("none"), strict=True)]

    def rate_ratios(self) -> list[float]:
        """Return how many times higher the highest rate is with batch norm, one a seed."""
        pairs = zip(self.highest_rates("batch"), self.highest_rates("none"), strict=True)
        return [over(*pair) for pair in pairs]

    def highest_rates(self, norm: str) -> list[float]:
        """Return the highest rate that trains from Glorot's own scale, one a seed; 0 if none."""
        column = int(np.argmin(np.abs(np.log(self.scales))))
        found = []
        for seed in self.accuracy[norm]:
            good = [
                rate for rate, a in zip(self.rates, seed[:, column], strict=True) if a >= TRAINS
            ]
            found.append(max(good, default=0.0))
        return found

    def scale_ranges(self, norm: str) -> list[float]:
        """Return how far apart, as a ratio, the scales are that train at some rate; one a seed."""
        found = []
        for seed in self.accuracy[norm]:
            good = [
                s for s, column in zip(self.scales, seed.T, strict=True) if column.max() >= TRAINS
            ]
            found.append(max(good) / min(good) if good else np.nan)
        return found


def over(more: float, less: float) -> float:
    """Return ``more`` over ``less``, where 0 is none at all: none over none is no answer (NaN).

    Example:
        >>> over(2.0, 0.5), over(2.0, 0.0), over(0.0, 0.0)
        (4.0, inf, nan)
    """
    return more / less if less else math.inf if more else math.nan


def grid(context: Context, net: Net) -> Grid:
    """Train every cell; kept for both claims."""
    rates = _spaced(1e-3, 32.0, 7 if context.quick else 10)
    scales = _spaced(1 / 16, 16.0, 5 if context.quick else 9)
    steps = context.steps(*(_DEEP_STEPS if net.depth > 5 else _STEPS))
    cells = [(rate, scale) for rate in rates for scale in scales]
    accuracy: dict[str, npt.NDArray[np.float64]] = {}
    diverged: dict[str, npt.NDArray[np.bool_]] = {}
    for norm in ("none", "batch"):
        members = []
        for seed in context.seeds:
            found: list[dict[str, Any]] = []
            for start in range(0, len(cells), _TOGETHER):
                part = cells[start : start + _TOGETHER]
                result = context.run(
                    {
                        "net": net.title(),
                        "norm": norm,
                        "cells": f"{start + 1} … {start + len(part)} of {len(cells)}",
                        "steps": steps,
                        "seed": seed,
                    },
                    _cells(context, net, norm, part, steps, seed),
                    shared=_SHARED,
                )
                found += result["members"]
            members.append(found)
        shape = (len(context.seeds), len(rates), len(scales))
        accuracy[norm] = np.array([[m["accuracy"][-1] for m in f] for f in members]).reshape(shape)
        lost = np.array([[m["diverged"] is not None for m in f] for f in members])
        diverged[norm] = lost.reshape(shape)
    return Grid(net, rates, scales, accuracy, diverged)


def runs(context: Context) -> int:
    """Return how many results the grids ask for."""
    cells = 35 if context.quick else 90
    return len(NETS) * 2 * len(context.seeds) * -(-cells // _TOGETHER)


def _cells(
    context: Context,
    net: Net,
    norm: str,
    cells: Sequence[tuple[float, float]],
    steps: int,
    seed: int,
) -> Callable[[], dict[str, Any]]:
    def function() -> dict[str, Any]:
        data = context.images()
        stacks: list[Stack] = [
            Net(net.depth, net.activation, scale=scale).build(
                data.train_x.shape[1], data.classes, norm, seed
            )
            for _, scale in cells
        ]
        return train(
            Crowd(stacks),
            data,
            [rate for rate, _ in cells],
            steps=steps,
            seed=seed,
            measure=[steps],
            within=context.progress.within,
        )

    return function


def _spaced(first: float, last: float, count: int) -> list[float]:
    """``count`` numbers evenly spaced in the logarithm, to three digits."""
    return [float(f"{value:.3g}") for value in np.geomspace(first, last, count)]
