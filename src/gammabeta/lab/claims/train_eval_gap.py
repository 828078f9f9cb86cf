"""How much accuracy the moving average costs in evaluation, beside Algorithm 2 and pooling."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from gammabeta.lab.claims.framework.claim import Claim, Number, Outcome, verdict
from gammabeta.lab.claims.framework.context import Context
from gammabeta.lab.claims.framework.figure import (
    COOL,
    MUTED,
    OLIVE,
    PLUM,
    WARM,
    band,
    labels,
    sheet,
)
from gammabeta.lab.claims.framework.fit import batches, fit, held_out_accuracy
from gammabeta.lab.claims.framework.training import SUBSET, subset
from gammabeta.lab.data.flat import Dataset
from gammabeta.lab.models import Stack
from gammabeta.lab.train.accuracy import count_correct, split
from gammabeta.statistics import calibrate

BATCHES = (60, 8)
MOMENTA = (0.01, 0.1, 0.5)
DEFAULT = 0.1
POINTS = (5, 20, 50, 100, 300, 1000, 3000)
QUICK_POINTS = (5, 20, 50, 100, 300)
RATE, DEPTH, WIDTH = 0.1, 5, 100
EXAMPLES = 3000
CLOSE, FAR = 0.01, 0.05
COLOURS = {
    "Algorithm 2": COOL,
    "pooled": OLIVE,
    "moving average, 0.01": WARM,
    "moving average, 0.1": PLUM,
    "moving average, 0.5": MUTED,
}
Gaps = dict[str, dict[str, float]]


def run(context: Context) -> Outcome:
    """Train with each momentum and batch size, and test with each estimator at each point."""
    context.plan(len(BATCHES) * len(MOMENTA) * len(context.seeds))
    kept = {
        (size, momentum): [_arm(context, size, momentum, seed) for seed in context.seeds]
        for size in BATCHES
        for momentum in MOMENTA
    }
    points = [str(point) for point in _points(context)]
    first, last = points[0], points[-1]
    numbers, held, reasons, headline = [], [], [], ""
    for size in BATCHES:
        found = {
            (name, point): [gaps[name][point] for gaps in results]
            for name in COLOURS
            for point in points
            for results in [_of(kept, size, name)]
        }
        middle = {key: float(np.median(values)) for key, values in found.items()}
        moving = [f"moving average, {momentum:g}" for momentum in MOMENTA]
        default = f"moving average, {DEFAULT:g}"
        worst = max(
            middle["Algorithm 2", point] - middle[name, point]
            for point in points
            for name in (*moving, "pooled")
        )
        never_worse = worst <= CLOSE and all(
            abs(middle["Algorithm 2", point] - middle["pooled", point]) <= CLOSE for point in points
        )
        early = middle[default, first] - middle["Algorithm 2", first]
        late = middle[default, last] - middle["Algorithm 2", last]
        held.append(never_worse and early >= FAR and abs(late) <= CLOSE)
        reasons.append(
            f"batch {size}: moving average ({DEFAULT:g}) {100 * early:.1f} points below Algorithm "
            f"2 after {first} steps, {100 * late:.1f} after {last}".replace("-", "−")
            + (f", Algorithm 2 up to {100 * worst:.1f} below another" if worst > CLOSE else "")
        )
        headline = headline or (
            f"{100 * early:.1f} points: what the moving average loses against Algorithm 2 after "
            f"{first} steps, batch {size}; {100 * late:.1f} after {int(last):,}".replace("-", "−")
        )
        for point in (first, last):
            for name in ("Algorithm 2", "pooled", *moving):
                numbers.append(
                    Number.over(
                        f"accuracy lost, {name}, batch {size}, {point} steps",
                        [100 * value for value in found[name, point]],
                        "points",
                    )
                )
    figure = _draw(context, kept)
    return Outcome(numbers, verdict(held), "; ".join(reasons), [figure], headline=headline)


def _points(context: Context) -> list[int]:
    last = context.steps(POINTS[-1], QUICK_POINTS[-1])
    chosen = QUICK_POINTS if context.quick else POINTS
    return sorted({point for point in chosen if point < last} | {last})


def _of(kept: dict[tuple[int, float], list[dict[str, Any]]], size: int, name: str) -> list[Gaps]:
    """The gaps of one estimator, a dict a seed. Weights do not depend on the momentum."""
    if name.startswith("moving"):
        momentum = float(name.rpartition(" ")[2])
        return [{name: result["gaps"]["moving average"]} for result in kept[size, momentum]]
    return [result["gaps"] for result in kept[size, DEFAULT]]


def _arm(context: Context, size: int, momentum: float, seed: int) -> dict[str, Any]:
    points = _points(context)

    def train() -> dict[str, Any]:
        data = context.images()
        model = Stack(
            data.train_x.shape[1],
            data.classes,
            depth=DEPTH,
            width=WIDTH,
            activation="relu",
            seed=seed,
            momentum=momentum,
        )
        optimizer = torch.optim.SGD(model.parameters(), lr=RATE)
        gaps: Gaps = {"moving average": {}}

        def measure(step: int) -> None:
            if step not in points:
                return
            as_trained = _by_its_own_batches(model, data, size)
            gaps["moving average"][str(step)] = as_trained - held_out_accuracy(model, data, SUBSET)
            if momentum == DEFAULT:
                for name, method in (("Algorithm 2", "algorithm2"), ("pooled", "pooled")):
                    twin = copy.deepcopy(model)
                    count = max(2, EXAMPLES // size)
                    calibrate(
                        twin,
                        [x for _, x, _ in batches(data, size, count, seed + 1_000_000)],
                        method,
                        progress=False,
                    )
                    lost = as_trained - held_out_accuracy(twin, data, SUBSET)
                    gaps.setdefault(name, {})[str(step)] = lost

        fit(
            model,
            optimizer,
            data,
            steps=points[-1],
            batch_size=size,
            seed=seed,
            after=measure,
            context=context,
        )
        return {"gaps": gaps}

    key = {"batch": size, "momentum": momentum, "seed": seed, "steps": points[-1]}
    return context.run(key, train)


def _by_its_own_batches(model: nn.Module, data: Dataset, size: int) -> float:
    """Test accuracy with every test mini-batch normalized by itself, as training does."""
    twin = copy.deepcopy(model).train()
    for module in twin.modules():
        if isinstance(module, _BatchNorm):
            module.momentum = 0.0
    images, labels = subset(data)
    whole = len(labels) // size * size
    right, seen = count_correct(twin, split(images[:whole], labels[:whole], size))
    return int(right) / seen


def _draw(context: Context, kept: dict[tuple[int, float], list[dict[str, Any]]]) -> Path:
    path = context.figure("gap")
    describe = (
        "Test accuracy lost in evaluation by each estimator of the population statistics, over "
        "the number of training steps, for two batch sizes."
    )
    points = _points(context)
    with sheet(path, describe, columns=len(BATCHES), panel=(4.2, 3.2), sharey=True) as drawn:
        for axes, size in zip(drawn.panels, BATCHES, strict=True):
            ends = []
            for name, colour in COLOURS.items():
                values = np.array(
                    [[gaps[name][str(p)] for p in points] for gaps in _of(kept, size, name)]
                )
                ends.append(band(axes, points, values, colour, name, marker="o", markersize=3))
            axes.axhline(0, color=MUTED, linewidth=0.7, linestyle=":")
            axes.set_xscale("log")
            axes.set_title(f"batch {size}")
            axes.set_xlabel("training steps")
            axes.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.0f}".replace("-", "−"))
        drawn.panels[0].set_ylabel("accuracy lost in evaluation, points")
        labels(drawn.panels[-1], ends)
    return path


CLAIM = Claim(
    name="train-eval-gap",
    title="Training and evaluation differ",
    statement=(
        "Evaluation needs the population's statistics. Algorithm 2 measures them; the moving "
        "average of training is a stand-in that costs accuracy early and little late."
    ),
    source=(
        "Ioffe & Szegedy 2015, section 3.1 and Algorithm 2; pooled: Wu & Johnson 2021, "
        "arXiv:2105.07576, section 3"
    ),
    protocol=(
        f"{DEPTH} fully connected ReLU layers of {WIDTH} with batch norm on Fashion-MNIST, plain "
        f"SGD at {RATE:g}, batch {BATCHES[0]} and batch {BATCHES[1]}, 3 seeds. After "
        f"{', '.join(map(str, POINTS))} steps {SUBSET:,} fixed test images are classified with "
        "statistics of (a) each test mini-batch itself, of the training's size, as in training "
        "(a last one that is smaller is left out); (b) the moving average with momentum "
        f"{', '.join(f'{m:g}' for m in MOMENTA)}; (c) Algorithm 2 and (d) the pooled estimator, "
        f"both on {EXAMPLES:,} training images in mini-batches of the training's size. The number "
        "is (a) less the others: accuracy lost in evaluation. "
        f"--quick: up to {QUICK_POINTS[-1]} steps."
    ),
    criterion=(
        "At a batch size, medians over seeds: Algorithm 2 is nowhere more than "
        f"{100 * CLOSE:.0f} point below any moving average, and within {100 * CLOSE:.0f} point of "
        f"the pooled estimator; the moving average with momentum {DEFAULT:g} is at least "
        f"{100 * FAR:.0f} points below Algorithm 2 at the first point and within "
        f"{100 * CLOSE:.0f} at the last. Holds: at both batch sizes; holds under this protocol: at "
        "one; does not hold here: at neither."
    ),
    paper="no number; the population statistics are to be used (Algorithm 2)",
    minutes_quick=0.6,
    minutes_full=3,
    run=run,
    version=2,
)
