"""Training of many small stacks at once with plain SGD, on data in memory."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gammabeta.lab.claims.framework.batched_stacks import Crowd, CrowdSGD
from gammabeta.lab.data.flat import Dataset
from gammabeta.lab.train.accuracy import count_correct, evaluating, split
from gammabeta.lab.train.step import quiet_layers, take_step
from gammabeta.layers import BatchNorm1d, BatchNorm2d, NonFiniteBatchError
from gammabeta.statistics import calibrate

BATCH_SIZE = 60
"""Examples per mini-batch, as in section 4.1 of the paper."""
SUBSET = 2000
"""Number of test images for a curve; the final accuracy uses all of them."""
CHUNK = 1000
"""Test images in one forward pass."""
CALIBRATION = 8
"""Number of mini-batches for population statistics."""


def milestones(steps: int, ratio: float = 1.06, first: int = 10) -> list[int]:
    """Return the steps at which a curve is measured: logarithmically spaced, and the last one.

    Example:
        >>> milestones(40, ratio=2.0)
        [10, 20, 40]
        >>> milestones(3)
        [3]
    """
    found: list[int] = []
    mark = float(first)
    while round(mark) < steps:
        if not found or round(mark) > found[-1]:
            found.append(round(mark))
        mark *= ratio
    return [*found, steps]


def train(
    crowd: Crowd,
    data: Dataset,
    rates: Sequence[float],
    *,
    steps: int,
    seed: int,
    measure: Sequence[int] | None = None,
    own_batches: bool = False,
    batch_size: int = BATCH_SIZE,
    calibrated: bool = False,
    within: Callable[[float], None] = lambda fraction: None,
) -> dict[str, Any]:
    """Train ``crowd`` by SGD without momentum, each member at its own constant rate.

    Args:
        crowd: the networks.
        data: training and test images.
        rates: learning rate of each member.
        steps: number of steps.
        seed: random seed for the mini-batches, drawn with replacement. The global random state is
            neither read nor changed.
        measure: steps at which accuracy is measured, including the last one; by default
            `milestones`.
        own_batches: draw separate mini-batches for each member; otherwise they share them.
        batch_size: examples per mini-batch.
        calibrated: measure accuracy with `population_statistics` instead of moving averages.
        within: called with the progress, 0 … 1.

    Returns:
        ``steps``: the measured steps. ``members``: for each member its ``accuracy`` on `SUBSET`
        test images in evaluation mode and its mean training ``loss`` since the last measurement,
        at each of these steps; ``final``, its accuracy on all test images; ``diverged``, the first
        measured step by which a loss was not finite, or None.

    Raises:
        ValueError: the number of rates is not the number of members.
    """
    optimizer = CrowdSGD(crowd, rates)
    marks = list(measure) if measure is not None else milestones(steps)
    generator = torch.Generator().manual_seed(seed)
    examples, test = len(data.train_x), subset(data)
    drawn = (crowd.members, batch_size) if own_batches else (batch_size,)
    curves: list[dict[str, Any]] = [
        {"accuracy": [], "loss": [], "diverged": None} for _ in range(crowd.members)
    ]
    total, since, taken = torch.zeros(crowd.members), 0, 0
    crowd.train()
    for mark in marks:
        for _ in range(mark - taken):
            chosen = torch.randint(examples, drawn, generator=generator)
            x, y = data.train_x[chosen], data.train_y[chosen]
            total += take_step(crowd, optimizer, x, y, loss=_losses).loss
        since, taken = mark - taken, mark
        if calibrated:
            population_statistics(crowd, data.train_x, seed, batch_size)
        means, tested = (total / since).tolist(), accuracies(crowd, *test)
        for curve, mean, right in zip(curves, means, tested, strict=True):
            curve["accuracy"].append(round(right, 5))
            curve["loss"].append(mean)
            if curve["diverged"] is None and not math.isfinite(mean):
                curve["diverged"] = mark
        total.zero_()
        within(mark / steps)
    final = accuracies(crowd, data.test_x, data.test_y)
    for curve, right in zip(curves, final, strict=True):
        curve["final"] = round(right, 5)
    return {"steps": marks, "members": curves}


def population_statistics(
    model: nn.Module,
    x: Tensor,
    seed: int,
    batch_size: int,
    shaped: Callable[[Tensor], Tensor] = lambda x: x,
) -> None:
    """Set the statistics of ``model``, if it has any, by Algorithm 2 on `CALIBRATION` mini-batches.

    Moving averages lag behind after few steps, and always at a high learning rate. A network that
    has diverged keeps its statistics.

    Args:
        model: any network.
        x: training images.
        seed: random seed for choosing among them.
        batch_size: images per mini-batch.
        shaped: reshapes a mini-batch to the input of ``model``.
    """
    if not any(isinstance(module, (BatchNorm1d, BatchNorm2d)) for module in model.modules()):
        return
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.randint(len(x), (CALIBRATION, batch_size), generator=generator)
    with quiet_layers(), contextlib.suppress(NonFiniteBatchError):
        calibrate(model, [shaped(x[batch]) for batch in chosen], progress=False)


def accuracies(crowd: Crowd, x: Tensor, y: Tensor) -> list[float]:
    """Return the accuracy of each member in evaluation mode, in float32."""
    with evaluating(crowd):
        right, seen = count_correct(crowd, split(x, y, CHUNK))
    found: list[float] = (right / seen).tolist()
    return found


def subset(data: Dataset, count: int = SUBSET) -> tuple[Tensor, Tensor]:
    """Return ``count`` fixed test images, on which curves are measured."""
    generator = torch.Generator().manual_seed(0)
    chosen = torch.randperm(len(data.test_y), generator=generator)[:count]
    return data.test_x[chosen], data.test_y[chosen]


def _losses(output: Tensor, y: Tensor) -> Tensor:
    """Mean cross-entropy of each member, (members,)."""
    y = y.expand(output.shape[:-1])
    each = F.cross_entropy(output.flatten(0, 1), y.flatten(), reduction="none")
    return each.view(len(output), -1).mean(1)
