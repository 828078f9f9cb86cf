"""Stable distributions: the input to a sigmoid of the last hidden layer while it trains."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from gammabeta.lab.claims.framework.claim import (
    DOES_NOT_HOLD,
    HOLDS,
    UNDER_THIS_PROTOCOL,
    Claim,
    Number,
    Outcome,
)
from gammabeta.lab.claims.framework.context import Context
from gammabeta.lab.claims.framework.curves import Net
from gammabeta.lab.claims.framework.figure import COOL, MUTED, WARM, label, sheet
from gammabeta.lab.claims.framework.fit import fit, follow
from gammabeta.lab.claims.framework.training import BATCH_SIZE, milestones, subset
from gammabeta.lab.models.stack import Stack, StackLayer

NET = Net(3, "sigmoid")
RATE = 0.3
PERCENTILES = (15, 50, 85)
HALF = 0.5
_STEPS, _QUICK_STEPS, _RECORDED_STEPS = 20_000, 3_000, 300
_BEGIN = 10


def run(context: Context) -> Outcome:
    """Train both arms, and follow the percentiles of every unit of the last hidden layer."""
    context.plan(2 * len(context.seeds) + 1)
    steps = context.steps(_STEPS, _QUICK_STEPS)
    found: dict[str, list[npt.NDArray[np.float64]]] = {"none": [], "batch": []}
    marks: list[int] = []
    for norm, seeds in found.items():
        for seed in context.seeds:
            result = context.run(
                {"net": NET.title(), "norm": norm, "rate": RATE, "steps": steps, "seed": seed},
                lambda norm=norm, seed=seed: _percentiles(context, norm, seed, steps),  # type: ignore[misc]
            )
            marks = result["steps"]
            seeds.append(np.array(result["percentiles"]))  # (marks, percentiles, units)
    context.run({"recorded": NET.title(), "steps": _RECORDED_STEPS}, lambda: _record(context))
    wandered = {norm: [_wandering(seed) for seed in seeds] for norm, seeds in found.items()}
    travelled = {norm: [_wandering(seed, True) for seed in seeds] for norm, seeds in found.items()}
    ratio = Number.over(
        "how far the percentiles move, with over without",
        [b / a for a, b in zip(wandered["none"], wandered["batch"], strict=True)],
        paper="figure 1b, c: much more stable",
        target=f"≤ {HALF:g}",
    )
    numbers = [ratio]
    for norm, word in (("none", "without"), ("batch", "with")):
        numbers.append(Number.over(f"how far they move {word}", wandered[norm], "of z"))
    for norm, word in (("none", "without"), ("batch", "with")):
        numbers.append(
            Number.over(f"the same in units of the spread, {word}", travelled[norm], "spreads")
        )
    if ratio.high <= HALF:
        verdict = HOLDS
    elif ratio.value < 1:
        verdict = UNDER_THIS_PROTOCOL
    else:
        verdict = DOES_NOT_HOLD
    because = (
        f"With batch norm the percentiles of a typical unit move {ratio.text()} times as far "
        f"({ratio.spread() or ratio.text()}) as without; target ≤ {HALF:g} for every seed."
    )
    figure = context.figure("percentiles")
    _draw(context, marks, found, ratio)
    return Outcome(numbers, verdict, because, [figure])


def _percentiles(context: Context, norm: str, seed: int, steps: int) -> dict[str, Any]:
    """Train one arm; percentiles of each unit's input to the sigmoid, over 2,000 test images."""
    data = context.images()
    model = NET.build(data.train_x.shape[1], data.classes, norm, seed)
    optimizer = torch.optim.SGD(model.parameters(), lr=RATE)
    images, _ = subset(data)
    marks = milestones(steps, first=_BEGIN)
    levels = torch.tensor([p / 100 for p in PERCENTILES])
    found = []

    def measure(step: int) -> None:
        if step in marks:
            z = _input_to_last(model, images)
            found.append(torch.quantile(z, levels, dim=0).round(decimals=4).tolist())

    fit(
        model,
        optimizer,
        data,
        steps=steps,
        batch_size=BATCH_SIZE,
        seed=seed,
        after=measure,
        context=context,
    )
    return {"steps": marks, "percentiles": found}


@torch.no_grad()
def _input_to_last(model: Stack, x: Tensor) -> Tensor:
    """What enters the last hidden layer's sigmoids, normalized as in training, (N, units)."""
    copied = copy.deepcopy(model)  # in training mode a layer moves its running statistics
    seen: list[Tensor] = []
    last = [layer for layer in copied.layers if isinstance(layer, StackLayer)][-1]
    last.activation.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    copied(x)
    return seen[0]


def _wandering(seed: npt.NDArray[np.float64], in_spreads: bool = False) -> float:
    """How far the three percentiles move: largest − smallest over training, mean of the three.

    The median over the units is the typical unit's. In spreads: over the mean distance between the
    outer percentiles, so that a wider distribution may move more.
    """
    ranges = (seed.max(0) - seed.min(0)).mean(0)  # (units,)
    if in_spreads:
        ranges = ranges / (seed[:, -1] - seed[:, 0]).mean(0)
    return float(np.median(ranges))


def _draw(
    context: Context,
    marks: list[int],
    found: dict[str, list[npt.NDArray[np.float64]]],
    ratio: Number,
) -> None:
    """The first seed's typical unit, as in figure 1b and c."""
    arms = (("none", "without", WARM), ("batch", "with batch norm", COOL))
    with sheet(
        context.figure("percentiles"),
        "The 15th, 50th and 85th percentiles of the input to one typical sigmoid of the last "
        "hidden layer over training, without and with batch normalization. With it they move "
        f"{ratio.text()} times as far.",
        columns=2,
        panel=(3.8, 2.9),
        sharey=True,
    ) as drawn:
        for axes, (norm, name, colour) in zip(drawn.panels, arms, strict=True):
            seed = found[norm][0]
            ranges = (seed.max(0) - seed.min(0)).mean(0)
            typical = int(np.argsort(ranges)[len(ranges) // 2])
            low, middle, high = seed[:, 0, typical], seed[:, 1, typical], seed[:, 2, typical]
            axes.fill_between(marks, low, high, color=colour, alpha=0.12, lw=0)
            for line, width in ((low, 1.0), (middle, 2.0), (high, 1.0)):
                axes.plot(marks, line, color=colour, lw=width)
            for line, text in ((low, "15 %"), (middle, "50 %"), (high, "85 %")):
                label(axes, marks[-1], line[-1], text, MUTED, fontsize=8)
            axes.set_title(name, color=colour)
            axes.set_xlabel("steps")
            axes.set_xscale("log")
        drawn.panels[0].set_ylabel("input to the sigmoid")


def _record(context: Context) -> dict[str, str]:
    """A pair to be looked at."""
    data, path = context.images(), context.record("three-layers")
    arms = {
        name: (NET.build(data.train_x.shape[1], data.classes, norm, 0), RATE)
        for name, norm in (("without", "none"), ("with batch norm", "batch"))
    }
    steps = context.steps(_RECORDED_STEPS)
    follow(arms, data, path, f"{NET.title()} · lr {RATE:g}", steps=steps, seed=0)
    return {"record": path.name}


CLAIM = Claim(
    name="stable-distributions",
    title="More stable distributions",
    statement="With batch normalization the distribution of a sigmoid's input is much more stable "
    "while the network trains.",
    source="Ioffe & Szegedy 2015, section 4.1, figure 1b and c",
    protocol=f"{NET.title()}, on Fashion-MNIST, mini-batches of 60, plain SGD at rate {RATE:g}, "
    f"{_STEPS:,} steps (quick: {_QUICK_STEPS:,}). At steps 6 % apart, from step {_BEGIN}, the "
    "15th, 50th and 85th percentiles over 2,000 test images of what enters each sigmoid of the "
    "last hidden layer; with batch norm, normalized by these images' own mean and variance, as in "
    "training. How far they move is the largest minus the smallest value over training, averaged "
    "over the three percentiles, of the median unit.",
    criterion=f"With batch norm the percentiles move at most {HALF:g} times as far as without in "
    "every seed: the claim holds. Less far in the median: it holds under this protocol. Else it "
    "does not hold here.",
    paper="figure 1b, c (no number)",
    minutes_quick=0.5,
    minutes_full=2.5,
    run=run,
)
