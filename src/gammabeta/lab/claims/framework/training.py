"""Training for claims: many small stacks at once, from memory, by plain SGD."""

from __future__ import annotations

import contextlib
import math
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gammabeta.lab.claims.framework.batched_stacks import Crowd
from gammabeta.lab.data.flat import Dataset
from gammabeta.layers import BatchNorm1d, BatchNorm2d, NonFiniteBatchError, NonFiniteBatchWarning
from gammabeta.statistics import calibrate

BATCH_SIZE = 60
"""Examples a mini-batch, as in the paper's section 4.1."""
SUBSET = 2000
"""Test images that a curve is measured on; the final accuracy is that of all."""
CALIBRATION = 8
"""Mini-batches that population statistics are measured on."""


def milestones(steps: int, ratio: float = 1.06, first: int = 10) -> list[int]:
    """Return the steps at which a curve is measured: evenly spaced in the logarithm, and the last.

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
        data: what they are trained and tested on.
        rates: learning rate of each member.
        steps: how many to take.
        seed: of the mini-batches, drawn with replacement. The global random state is not touched.
        measure: steps at which accuracy is measured, the last one among them; `milestones` unless
            given.
        own_batches: whether each member gets mini-batches of its own; else all get the same.
        batch_size: examples a mini-batch.
        calibrated: whether every accuracy is that with `population_statistics`; else with the
            moving averages.
        within: told how far it is, 0 … 1.

    Returns:
        ``steps``: where it was measured; ``members``: for each one its ``accuracy`` on `SUBSET`
        test images in evaluation mode and mean training ``loss`` since the last measurement, at
        each of these steps; ``final``, accuracy on all test images; ``diverged``, the first
        measured step by which a loss was not finite, or None.

    Raises:
        ValueError: there are not as many rates as members.
    """
    if len(rates) != crowd.members:
        raise ValueError(f"rates={list(rates)} must be {crowd.members}, one a member")
    marks = list(measure) if measure is not None else milestones(steps)
    generator = torch.Generator().manual_seed(seed)
    examples, test = len(data.train_x), subset(data)
    trained = [(p, r) for p, r in _with_rates(crowd, rates) if p.requires_grad]
    parameters = [p for p, _ in trained]
    drawn = (crowd.members, batch_size) if own_batches else (batch_size,)
    curves: list[dict[str, Any]] = [
        {"accuracy": [], "loss": [], "diverged": None} for _ in range(crowd.members)
    ]
    total, since, taken = torch.zeros(crowd.members), 0, 0
    crowd.train()
    for mark in marks:
        for _ in range(mark - taken):
            chosen = torch.randint(examples, drawn, generator=generator)
            losses = _losses(crowd, data.train_x[chosen], data.train_y[chosen])
            gradients = torch.autograd.grad(losses.sum(), parameters, allow_unused=True)
            with torch.no_grad():
                for (parameter, rate), gradient in zip(trained, gradients, strict=True):
                    if gradient is not None:  # a bias before batch norm has none
                        parameter.addcmul_(gradient, rate, value=-1)
            total += losses.detach()
        since, taken = mark - taken, mark
        if calibrated:
            population_statistics(crowd, data.train_x, seed, batch_size)
        accuracies = accuracy(crowd, *test).tolist()
        for curve, mean, right in zip(curves, (total / since).tolist(), accuracies, strict=True):
            curve["accuracy"].append(round(right, 5))
            curve["loss"].append(mean)
            if curve["diverged"] is None and not math.isfinite(mean):
                curve["diverged"] = mark
        total.zero_()
        within(mark / steps)
    final = accuracy(crowd, data.test_x, data.test_y).tolist()
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

    Right after a few steps the moving averages lag behind; at a high rate they always do. A network
    that has diverged keeps what it has: its result tells of it.

    Args:
        model: any network.
        x: training images.
        seed: of the choice among them, the same at every call.
        batch_size: images a mini-batch.
        shaped: makes of a mini-batch what ``model`` takes.
    """
    if not any(isinstance(module, (BatchNorm1d, BatchNorm2d)) for module in model.modules()):
        return
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.randint(len(x), (CALIBRATION, batch_size), generator=generator)
    with warnings.catch_warnings():
        # A run that diverges is reported by its result, not by its layers.
        warnings.simplefilter("ignore", NonFiniteBatchWarning)
        with contextlib.suppress(NonFiniteBatchError):
            calibrate(model, [shaped(x[batch]) for batch in chosen], progress=False)


@torch.no_grad()
def scores(model: nn.Module, x: Tensor, chunk: int = 1000) -> Tensor:
    """Return the class scores of ``x`` in evaluation mode; (…, N, classes)."""
    was_training = model.training
    model.eval()
    try:
        return torch.cat([model(part) for part in torch.split(x, chunk)], dim=-2)
    finally:
        model.train(was_training)


def accuracy(model: nn.Module, x: Tensor, y: Tensor, chunk: int = 1000) -> Tensor:
    """Return the fraction of ``x`` whose largest score is at ``y``, one a member for a crowd."""
    return (scores(model, x, chunk).argmax(-1) == y).float().mean(-1)


def subset(data: Dataset, count: int = SUBSET) -> tuple[Tensor, Tensor]:
    """Return the test images that curves are measured on: the same ones always."""
    generator = torch.Generator().manual_seed(0)
    chosen = torch.randperm(len(data.test_y), generator=generator)[:count]
    return data.test_x[chosen], data.test_y[chosen]


def _with_rates(crowd: Crowd, rates: Sequence[float]) -> list[tuple[Tensor, Tensor]]:
    each = torch.tensor(rates, dtype=crowd.weights[0].dtype)
    return list(zip(crowd.parameters(), crowd.per_member(each), strict=True))


def _losses(crowd: Crowd, x: Tensor, y: Tensor) -> Tensor:
    """Mean cross-entropy of each member, (members,)."""
    output = crowd(x)
    y = y.expand(output.shape[:-1])
    each = F.cross_entropy(output.flatten(0, 1), y.flatten(), reduction="none")
    return each.view(crowd.members, -1).mean(1)
