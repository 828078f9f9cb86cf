"""What a norm is asked to compute: one call, and the statistics that it normalizes by."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

BATCH, INSTANCE, LAYER, GROUP, RMS = KINDS = ("batch", "instance", "layer", "group", "rms")
"""The norms. They differ in what shares a mean and a variance."""


class Call:
    """One call of a norm: ``activation(γ · (x − μ) / √(σ² + ε) + β + residual)``.

    This is the only list of a norm's arguments. Backends read it; none changes it but ``entered``.

    Args:
        kind: one of `KINDS`.
        x: (N, C, ...); for layer and RMS norm (..., *normalized_shape).
        weight: γ, (C,) or ``normalized_shape``; None for 1.
        bias: β, like ``weight``; None for 0.
        eps: ε; None in RMS norm for the machine epsilon of the arithmetic.
        activation: a name in `gammabeta.ops.activations.ACTIVATIONS`, or None.
        residual: shaped as x, added before the activation; or None.
        normalized_shape: the last dims of x, of layer and RMS norm.
        num_groups: of group norm, a divisor of C.
        running_mean: (C,), of batch and instance norm. With ``training`` it moves towards the mean
            of x; without, it is μ.
        running_var: (C,), likewise; it averages the unbiased variance.
        training: whether μ and σ² are those of x.
        momentum: weight of x in the running statistics; None for the cumulative average, which
            needs ``batches``.
        batches: ``num_batches_tracked``. A backend that is given it counts the batch in it.
        guarded: whether the running statistics and ``batches`` stay as they are if the update is
            not finite. Only a backend that is given ``batches`` looks at it.
        memory: ``"lean"`` to have the output made again for the backward pass, where a backend can.
        slope: the negative slope of the activation ``"leaky_relu"``; the others ignore it. It is a
            number, or the weight of a PReLU, (1,) or (C,), which gets a gradient.

    Attributes:
        entered: whether the batch entered the running statistics, once a backend has counted it.
    """

    __slots__ = (
        "activation",
        "batches",
        "bias",
        "entered",
        "eps",
        "guarded",
        "kind",
        "memory",
        "momentum",
        "normalized_shape",
        "num_groups",
        "residual",
        "running_mean",
        "running_var",
        "slope",
        "training",
        "weight",
        "x",
    )

    def __init__(
        self,
        kind: str,
        x: Tensor,
        weight: Tensor | None = None,
        bias: Tensor | None = None,
        eps: float | None = 1e-5,
        activation: str | None = None,
        residual: Tensor | None = None,
        *,
        normalized_shape: Sequence[int] = (),
        num_groups: int = 1,
        running_mean: Tensor | None = None,
        running_var: Tensor | None = None,
        training: bool = True,
        momentum: float | None = 0.0,
        batches: Tensor | None = None,
        guarded: bool = False,
        memory: str = "default",
        slope: float | Tensor = 0.01,
    ) -> None:
        self.kind = kind
        self.x = x
        self.weight = weight
        self.bias = bias
        self.eps: Any = eps
        self.activation = activation
        self.residual = residual
        self.normalized_shape = normalized_shape
        self.num_groups = num_groups
        self.running_mean = running_mean
        self.running_var = running_var
        self.training = training
        self.momentum = momentum
        self.batches = batches
        self.guarded = guarded
        self.memory = memory
        self.slope: Any = slope
        self.entered: bool | None = None

    def tensors(self) -> dict[str, Tensor | None]:
        """Return what the call reads, by the names that a person knows."""
        return {
            "input": self.x,
            "running_mean": self.running_mean,
            "running_var": self.running_var,
            "weight": self.weight,
            "bias": self.bias,
            "residual": self.residual,
            "num_batches_tracked": self.batches,
        }


class Statistics(NamedTuple):
    """What a call normalizes by.

    Attributes:
        mean: μ, float32 or wider, with the dims of x (of its groups, in group norm); zeros in RMS
            norm.
        var: σ², biased; the mean square in RMS norm.
        number: how many values each of them is taken over.
    """

    mean: Tensor
    var: Tensor
    number: int


class Gradients(NamedTuple):
    """The gradients of a call; None for what it was not given."""

    x: Tensor
    weight: Tensor | None
    bias: Tensor | None
    residual: Tensor | None


def merge(parts: Sequence[Statistics]) -> Statistics:
    """Return the statistics of all values that ``parts`` were taken over, such as one a rank.

    σ² = Σ nᵢ (σᵢ² + (μᵢ − μ)²) / n, which subtracts no large numbers.

    Example:
        >>> x = torch.randn(8, 3)
        >>> call, one, two = (Call("batch", part) for part in (x, x[:2], x[2:]))
        >>> from gammabeta import ops
        >>> whole = merge([ops.statistics(one), ops.statistics(two)])
        >>> torch.allclose(whole.var, ops.statistics(call).var)
        True
    """
    number = sum(part.number for part in parts)
    shares = [part.number / number for part in parts]
    mean = sum((s * p.mean for s, p in zip(shares, parts, strict=True)), torch.zeros(()))
    spread = (p.var + (p.mean - mean).square() for p in parts)
    var = sum((s * v for s, v in zip(shares, spread, strict=True)), torch.zeros(()))
    return Statistics(mean, var, number)
