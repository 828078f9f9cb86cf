"""Count, mean and variance of each channel of a batch, and of two batches together."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import torch
from torch import Tensor

_CHUNK = 1 << 22
"""Values turned into float64 at a time: 32 MiB."""


@dataclass(frozen=True)
class Moments:
    """Count, mean and biased variance of each channel.

    Attributes:
        count: m, the values a channel has; the same for all channels.
        mean: (C,), float64.
        var: (C,), float64; divisor m.

    Source:
        Ioffe & Szegedy 2015, arXiv:1502.03167, Algorithm 1, lines 1 and 2.
    """

    count: int
    mean: Tensor
    var: Tensor

    @property
    def finite(self) -> bool:
        """Whether every mean and variance is finite; on an accelerator this waits for it."""
        return bool(torch.isfinite(self.mean).all() & torch.isfinite(self.var).all())


def moments(x: Tensor) -> Moments:
    """Measure each channel of ``x`` over the batch and all positions.

    Args:
        x: (N, C) or (N, C, ...), any floating dtype, any strides; at least one value a channel.

    Raises:
        ValueError: ``x`` has no channels to measure or no values.

    Numerics:
        Values are turned into float64 a part of the batch at a time, so that no float64 copy of a
        large x is held, and the parts are merged as `merge` does. Devices without float64 are
        measured on the CPU.

    Example:
        >>> moments(torch.tensor([[1.0], [2.0], [6.0]]))
        Moments(count=3, mean=tensor([3.], dtype=torch.float64), var=tensor([4.6667], dtype=torch.float64))
    """  # noqa: E501 (what a doctest prints is one line)
    if x.dim() < 2 or x.numel() == 0:
        raise ValueError(f"x has shape {tuple(x.shape)}; it must be (N, C, ...), no size 0")
    x = where_float64_is(x)
    dims = (0, *range(2, x.dim()))
    parts = []
    for part in torch.split(x, max(1, _CHUNK * x.shape[0] // x.numel())):
        var, mean = torch.var_mean(part.double(), dims, correction=0)
        parts.append(Moments(part.numel() // part.shape[1], mean, var))
    return functools.reduce(merge, parts)


def merge(a: Moments, b: Moments) -> Moments:
    """Return the moments of the values of ``a`` and ``b`` together.

    With δ = μ_b − μ_a and m = m_a + m_b: mean μ_a + δ m_b/m, variance
    (m_a σ²_a + m_b σ²_b + δ² m_a m_b/m) / m.

    Numerics:
        Exact in exact arithmetic, and free of the cancellation of E[x²] − E[x]².

    Source:
        Chan, Golub & LeVeque 1979, *Updating formulae and a pairwise algorithm for computing
        sample variances*, equation 2.1.

    Example:
        >>> one, two = torch.tensor([[1.0], [2.0]]), torch.tensor([[6.0]])
        >>> merge(moments(one), moments(two)).mean, moments(torch.cat([one, two])).mean
        (tensor([3.], dtype=torch.float64), tensor([3.], dtype=torch.float64))
    """
    count = a.count + b.count
    share = b.count / count
    delta = b.mean - a.mean
    return Moments(
        count,
        a.mean + delta * share,
        a.var * (a.count / count) + b.var * share + delta**2 * (share * (a.count / count)),
    )


def where_float64_is(x: Tensor) -> Tensor:
    """``x``, detached, on a device that has float64."""
    return x.detach().cpu() if x.device.type == "mps" else x.detach()
