"""Accuracy curves of stacks over a grid of learning rates, and how many steps they save."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from gammabeta.lab.claims.framework.batched_stacks import Crowd
from gammabeta.lab.claims.framework.claim import Number
from gammabeta.lab.claims.framework.context import Context
from gammabeta.lab.claims.framework.training import train
from gammabeta.lab.models.stack import Stack

FLOOR = 0.5
"""A network whose accuracy never reaches this is said not to train; chance is 0.1."""
_SHARED = "stacks-1"


@dataclass(frozen=True)
class Net:
    """A stack of 100 units a layer.

    Attributes:
        depth: number of layers.
        activation: of every layer.
        sigma: standard deviation of all weights; None for Glorot's.
        scale: multiplies Glorot's.
    """

    depth: int
    activation: str
    sigma: float | None = None
    scale: float = 1.0

    def title(self) -> str:
        """Return a few words, such as ``"3 × 100 sigmoid, σ = 0.01"``."""
        init = "Glorot" if self.sigma is None else f"σ = {self.sigma:g}"
        if self.scale != 1:
            init += f" × {self.scale:g}"
        name = "ReLU" if self.activation == "relu" else self.activation
        return f"{self.depth} × 100 {name}, {init}"

    def build(self, inputs: int, classes: int, norm: str, seed: int) -> Stack:
        """Return the network; with the same seed its weights are the same whatever the norm."""
        stack = Stack(
            inputs,
            classes,
            depth=self.depth,
            width=100,
            activation=self.activation,
            norm=norm,
            init_scale=self.scale,
            seed=seed,
        )
        if self.sigma is not None:
            generator = torch.Generator().manual_seed(seed)
            for module in stack.modules():
                if isinstance(module, nn.Linear):
                    nn.init.normal_(module.weight, 0.0, self.sigma, generator)
        return stack


@dataclass(frozen=True)
class Curve:
    """Test accuracy over steps.

    Attributes:
        steps: at which it was measured.
        accuracy: there.
        final: at the end, on the whole test set.
    """

    steps: Sequence[int]
    accuracy: Sequence[float]
    final: float

    def best(self) -> float:
        """Return the highest accuracy."""
        return max(self.accuracy)

    def reach(self, target: float) -> float:
        """Return the first measured step with at least ``target``; infinite if there is none.

        Example:
            >>> curve = Curve([10, 20, 40], [0.1, 0.6, 0.8], 0.8)
            >>> curve.reach(0.6), curve.reach(0.9)
            (20, inf)
        """
        pairs = zip(self.steps, self.accuracy, strict=True)
        return next((step for step, accuracy in pairs if accuracy >= target), math.inf)


@dataclass(frozen=True)
class Fewer:
    """How many times fewer steps the second of two curves needed; ``bound`` as in `Number`."""

    ratio: float
    bound: str


def fewer(slow: Curve, fast: Curve) -> Fewer:
    """Return the ratio of the steps to the best accuracy of ``slow``.

    Where ``slow`` does not train, the accuracy is `FLOOR` and its steps are all it had: the ratio
    is then a lower bound. Where ``fast`` does not get there, it is an upper bound.

    Example:
        >>> slow, fast = Curve([10, 40], [0.1, 0.6], 0.6), Curve([10, 40], [0.7, 0.8], 0.8)
        >>> fewer(slow, fast)
        Fewer(ratio=4.0, bound='')
        >>> fewer(Curve([10, 40], [0.1, 0.1], 0.1), fast)
        Fewer(ratio=4.0, bound='≥')
    """
    trains = slow.best() >= FLOOR
    target = slow.best() if trains else FLOOR
    needed = slow.reach(target) if trains else slow.steps[-1]
    saved = fast.reach(target)
    if math.isinf(saved):
        return Fewer(needed / fast.steps[-1], "≤")
    return Fewer(needed / saved, "" if trains else "≥")


def typical(ratios: Sequence[Fewer]) -> Fewer:
    """Return the median; one that never got there counts as the least, whatever its bound.

    Example:
        >>> typical([Fewer(9.0, "≥"), Fewer(2.0, ""), Fewer(4.0, "≤")])
        Fewer(ratio=2.0, bound='')
    """
    least_first = sorted(ratios, key=lambda each: (each.bound != "≤", each.ratio))
    return least_first[(len(ratios) - 1) // 2]


def soonness(slow: Sequence[Curve], fast: Sequence[Curve]) -> tuple[bool, float]:
    """Return what sorts contenders ``fast``, the soonest last.

    Those that get where ``slow`` gets, by their `typical` ratio; before them those that do not, by
    the accuracy they get to: the bound of a ratio is large where a run was short.
    """
    middle = typical(ratios(slow, fast))
    if middle.bound == "≤":
        return False, statistics.median(curve.best() for curve in fast)
    return True, middle.ratio


def ratios(slow: Sequence[Curve], fast: Sequence[Curve]) -> list[Fewer]:
    """Return the ratio of each seed."""
    return [fewer(a, b) for a, b in zip(slow, fast, strict=True)]


@dataclass(frozen=True)
class Curves:
    """Curves of one network without (``"none"``) and with (``"batch"``) batch norm.

    Attributes:
        net: the network.
        rates: the grid of learning rates.
        of: norm → rate → a curve a seed.
    """

    net: Net
    rates: Sequence[float]
    of: dict[str, dict[float, list[Curve]]]

    def best_rate(self) -> float:
        """Return the rate with which the network without norm does best, in the median."""
        return max(
            self.rates,
            key=lambda rate: statistics.median(curve.best() for curve in self.of["none"][rate]),
        )

    def matched(self, rate: float) -> list[Fewer]:
        """Return the ratio at one rate for both, one a seed."""
        return ratios(self.of["none"][rate], self.of["batch"][rate])

    def own_best(self) -> tuple[float, float, list[Fewer]]:
        """Return each side's best rate, and the ratio at those, one a seed.

        Without norm the best rate is that of the highest accuracy; with it, that which is first
        (in the median) at the accuracy the other reaches.
        """
        rate = self.best_rate()
        slow = self.of["none"][rate]
        fastest = max(self.rates, key=lambda r: soonness(slow, self.of["batch"][r]))
        return rate, fastest, ratios(slow, self.of["batch"][fastest])

    def soonest(self, norm: str, target: float) -> float:
        """Return the steps to ``target``: the median over seeds, of the best rate for it."""
        return min(
            statistics.median_low(curve.reach(target) for curve in curves)
            for curves in self.of[norm].values()
        )

    def best_final(self, norm: str) -> list[float]:
        """Return the final accuracies, one a seed, at the rate whose median is highest."""
        finals = [[curve.final for curve in curves] for curves in self.of[norm].values()]
        return max(finals, key=statistics.median)


def curves(
    context: Context,
    net: Net,
    rates: Sequence[float],
    steps: int,
    norms: Sequence[str],
    calibrated: bool = False,
) -> Curves:
    """Train ``net`` with each norm, rate and seed; kept for every claim that asks for the same.

    With ``calibrated`` accuracies are those with `population_statistics`.
    """
    found: dict[str, dict[float, list[Curve]]] = {n: {rate: [] for rate in rates} for n in norms}
    for norm in norms:
        for seed in context.seeds:
            result = context.run(
                {
                    "net": net.title(),
                    "norm": norm,
                    "rates": list(rates),
                    "steps": steps,
                    "seed": seed,
                    **({"statistics": "Algorithm 2"} if calibrated else {}),
                },
                _arms(context, net, norm, rates, steps, seed, calibrated),
                shared=_SHARED,
            )
            for rate, member in zip(rates, result["members"], strict=True):
                curve = Curve(result["steps"], member["accuracy"], member["final"])
                found[norm][rate].append(curve)
    return Curves(net, rates, found)


def _arms(
    context: Context,
    net: Net,
    norm: str,
    rates: Sequence[float],
    steps: int,
    seed: int,
    calibrated: bool,
) -> Callable[[], dict[str, Any]]:
    def function() -> dict[str, Any]:
        data = context.images()
        inputs = data.train_x.shape[1]
        crowd = Crowd([net.build(inputs, data.classes, norm, seed) for _ in rates])
        return train(
            *(crowd, data, rates),
            steps=steps,
            seed=seed,
            calibrated=calibrated,
            within=context.progress.within,
        )

    return function


def ratio_number(label: str, found: Sequence[Fewer], paper: str = "", target: str = "") -> Number:
    """Return the `typical` one of ``found`` with its own bound."""
    middle = typical(found)
    values = [each.ratio for each in found]
    spread = Number.over(label, values, "×", paper, target, middle.bound)
    return replace(spread, value=middle.ratio)
