"""How smooth the loss is along its gradient: the three measures of Santurkar et al. 2018."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor, nn

from gammabeta.lab.measures.objective import Loss, Objective, difference, norm

FACTORS = (0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 4.0)
"""Of the learning rate: the paper's range of step sizes, [1/2, 4]."""


@dataclass(frozen=True)
class Landscape:
    """What was met along the gradient from one point θ.

    Attributes:
        lr: the learning rate.
        factors: f; the step sizes are η = f · lr.
        loss: L(θ).
        gradient_norm: ‖g(θ)‖₂.
        losses: L(θ − ηg), by factor.
        distances: ‖g(θ) − g(θ − ηg)‖₂, by factor.
    """

    lr: float
    factors: tuple[float, ...]
    loss: float
    gradient_norm: float
    losses: tuple[float, ...]
    distances: tuple[float, ...]

    @property
    def loss_range(self) -> tuple[float, float]:
        """(a) The least and the largest loss met; NaN if one is NaN."""
        return _range(self.losses)

    @property
    def gradient_range(self) -> tuple[float, float]:
        """(b) Gradient predictiveness: the least and the largest ‖g(θ) − g(θ − ηg)‖₂."""
        return _range(self.distances)

    @property
    def smoothness(self) -> float:
        """(c) Effective β-smoothness: the largest change of gradient over distance moved.

        ``max over η of ‖g(θ) − g(θ − ηg)‖₂ / (η‖g‖₂)``; NaN where g = 0, as nothing was moved.
        """
        if self.gradient_norm == 0:
            return math.nan
        steps = np.array(self.factors) * (self.lr * self.gradient_norm)
        return float(np.max(np.array(self.distances) / steps))

    def __str__(self) -> str:
        """One line for each measure."""
        (low, high), (near, far) = self.loss_range, self.gradient_range
        return (
            f"loss {self.loss:.4g}, gradient norm {self.gradient_norm:.4g}; along the gradient, "
            f"{min(self.factors):g} to {max(self.factors):g} × lr {self.lr:g}:\n"
            f"loss                  {low:.4g} to {high:.4g}\n"
            f"change of gradient    {near:.4g} to {far:.4g}\n"
            f"effective smoothness  {self.smoothness:.4g}"
        )


def landscape(
    model: nn.Module,
    loss: Loss,
    batch: Any,
    *,
    lr: float,
    factors: Iterable[float] = FACTORS,
) -> Landscape:
    """Measure how the loss and its gradient change along the gradient.

    With g = ∇L(θ) for one batch, and η = factor · lr: ``L(θ − ηg)`` and ``‖g(θ) − g(θ − ηg)‖₂``.
    The model is left as it was, bit by bit, whether this returns or raises: parameters and their
    ``.grad``, buffers, modes, hooks and random states.

    Args:
        model: any module, in the mode to be measured; training mode for what training meets.
        loss: ``loss(output, target)`` returns a scalar tensor.
        batch: a pair (input, target); an input that is a mapping is given as keyword arguments.
        lr: the learning rate of training, above 0. Momentum and the like play no part.
        factors: what to multiply it by, each above 0.

    Returns:
        A `Landscape`.

    Raises:
        ValueError: ``lr`` or a factor is not a positive finite number; no factors; the loss is no
            scalar; no parameter requires a gradient.
        TypeError: ``model`` is no module, ``batch`` no pair, or the loss no tensor.

    Numerics:
        Gradients are in the parameters' dtype, distances are summed in float64. Each point is
        evaluated with the same random numbers and from the same buffers. A loss that overflows
        gives inf or NaN, and so do the measures. Costs a forward and backward pass a factor, and
        one more; memory for two more copies of the parameters.

    Source:
        Santurkar, Tsipras, Ilyas & Madry 2018, arXiv:1805.11604, section 3.1 and figure 4.

    Example:
        >>> import torch  # L = ½ · 3 · θ² at θ = 2: every number is known
        >>> model = nn.Linear(1, 1, bias=False)
        >>> _ = nn.init.constant_(model.weight, 2.0)
        >>> batch = torch.ones(1, 1), torch.zeros(1, 1)
        >>> found = landscape(model, lambda y, t: 1.5 * (y - t).square().sum(), batch, lr=0.1)
        >>> found.loss, found.gradient_norm
        (6.0, 6.0)
        >>> round(found.smoothness, 3), [round(loss, 3) for loss in found.loss_range]
        (3.0, [0.06, 4.335])
    """
    steps = tuple(float(factor) for factor in factors)
    if not steps:
        raise ValueError("factors is empty; give step sizes as multiples of lr, such as (0.5, 4)")
    for name, value in (("lr", lr), *(("factors", factor) for factor in steps)):
        if not (math.isfinite(value) and value > 0):
            raise ValueError(f"{name}: {value} must be a positive number")
    objective = Objective(model, loss, batch)
    value, gradient = objective.gradient()
    losses, distances = [], []
    for factor in steps:
        there, moved = objective.gradient(moved=_moved(objective, gradient, factor * lr))
        losses.append(there)
        distances.append(difference(gradient, moved))
    return Landscape(
        lr=float(lr),
        factors=steps,
        loss=value,
        gradient_norm=norm(gradient),
        losses=tuple(losses),
        distances=tuple(distances),
    )


def _moved(objective: Objective, gradient: dict[str, Tensor], step: float) -> dict[str, Tensor]:
    """θ − ηg, by name."""
    return {
        name: parameter.detach() - step * gradient[name]
        for name, parameter in objective.parameters.items()
    }


def _range(values: tuple[float, ...]) -> tuple[float, float]:
    return float(np.min(values)), float(np.max(values))
