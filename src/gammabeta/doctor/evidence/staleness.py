"""How far running statistics are from those of the batches, beyond what chance explains."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from gammabeta.doctor.evidence.forward_pass import Call
from gammabeta.doctor.evidence.gather import Evidence

_NOISES = 3.0
"""Distances below this many standard errors are chance."""
_FORGOTTEN = 0.05
"""A running average has nearly forgotten its initial values if their weight is below this: after
29 steps with the momentum 0.1. If variances are small, the rest matters for a few steps more."""


@dataclass(frozen=True)
class Distance:
    """The distance between the running statistics of a layer and those of the batches.

    Attributes:
        shift: root mean square over channels of the difference of the means, in σ.
        ratio: mean over channels of the magnitude of the logarithm of the variances' ratio.
        noise, ratio_noise: as much of both is expected by chance: of few batches, and of an
            exponential average.
    """

    shift: float
    ratio: float
    noise: float
    ratio_noise: float

    def exceeds(self, shift: float, ratio: float) -> bool:
        """Whether it is above these limits, and more than chance explains."""
        return self.shift > max(shift + self.noise, _NOISES * self.noise) or (
            self.ratio > max(ratio + self.ratio_noise, _NOISES * self.ratio_noise)
        )

    @property
    def largest(self) -> float:
        """The larger one of the two, less what chance explains."""
        return max(self.shift - self.noise, self.ratio - self.ratio_noise)


def distances(evidence: Evidence, *, warm: bool = False) -> dict[str, Distance]:
    """Return the distance of each batch norm's running statistics, by path.

    Norms with fewer than 5 values a channel are left out: their statistics mean nothing.

    Args:
        evidence: the passes.
        warm: take out what is left of the initial mean 0 and variance 1, if it is a small part.
    """
    found = {}
    for path, (mean, var) in evidence.statistics.items():
        calls = [c for p in evidence.trained for c in p.of(path) if c.by_batch and c.finite]
        if calls and max(call.values for call in calls) > 4:
            found[path] = _distance(evidence.targets[path], mean, var, calls, warm)
    return found


def _rest(layer: Any) -> float:
    """Return the weight of the initial values in the running average; 0 if it is not small."""
    steps = getattr(layer, "num_batches_tracked", None)
    if not isinstance(steps, Tensor) or not layer.momentum:
        return 0.0
    rest = float((1 - layer.momentum) ** int(steps))
    return rest if rest <= _FORGOTTEN else 0.0


def _distance(
    layer: Any, mean: Tensor, var: Tensor, calls: list[Call], warm: bool = False
) -> Distance:
    rest = _rest(layer) if warm else 0.0
    stored_mean = layer.running_mean.double() / (1 - rest)
    stored = ((layer.running_var.double() - rest) / (1 - rest)).clamp_min(0) + layer.eps
    # a channel that is dead in both says nothing, so it is measured in the larger σ
    scale = torch.maximum(stored, var + layer.eps)
    shift = (stored_mean - mean).square() / scale
    ratio = ((var + layer.eps) / stored).log().abs()
    momentum = layer.momentum if layer.momentum is not None else 0.0
    # variance of the mean of the batches, and of an exponential average of batches
    share = 1 / len(calls) + momentum / (2 - momentum)
    if len(calls) > 1:
        means = torch.stack([c.mean for c in calls])
        spreads = torch.stack([c.var for c in calls])
        spread = (means.var(0) / scale).mean()
        log_spread = (spreads + layer.eps).log().var(0).mean()
    else:
        examples = max(2, calls[0].shape[0])
        spread = (var / scale).mean() / examples
        log_spread = torch.tensor(2.0 / examples)
    return Distance(
        float(shift.mean().sqrt()),
        float(ratio.mean()),
        float((spread * share).sqrt()),
        float((log_spread * share).sqrt()),
    )
