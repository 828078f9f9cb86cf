"""How far results in float32 are from the truth, and when two are equally far."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

FACTOR = 2.0
"""Most that our distance may be of torch's."""

FLOOR = 1e-6
"""Distances below some eight roundings of float32 are equal: below, both are as good as exact."""

CHAOS = 0.3
"""A distance of torch's own from which a network's float32 results say nothing."""

NOTHING = 1e-8
"""Size of a tensor's values, in units of all tensors' typical value, below which it counts as zero:
some networks of transformers compute their softmax in float32, in a float64 model too."""

Tensors = Mapping[str, Tensor]


def tensors_of(out: Any, name: str = "out") -> dict[str, Tensor]:
    """Return all floating-point tensors in ``out``: name → tensor.

    Example:
        >>> list(tensors_of({"a": torch.ones(2), "b": [torch.ones(1), None]}))
        ['out.a', 'out.b.0']
    """
    if isinstance(out, Tensor):
        return {name: out} if out.is_floating_point() else {}
    parts: Any = ()
    if isinstance(out, Mapping):
        parts = out.items()
    elif isinstance(out, (list, tuple)):
        parts = enumerate(out)
    found: dict[str, Tensor] = {}
    for key, part in parts:
        found |= tensors_of(part, f"{name}.{key}")
    return found


def distance(found: Tensors, truth: Tensors) -> float:
    """Return the root mean square, over the tensors, of their relative distances from the truth.

    A tensor's distance is ‖found − truth‖ ÷ ‖truth‖, at most 2. A tensor that is zero but for
    rounding does not count (the gradient of a bias that a norm takes away again): what
    float32 makes of it is chance.

    Example:
        >>> distance({"y": torch.tensor([3.0, 4.4])}, {"y": torch.tensor([3.0, 4.0])})
        0.08...
    """
    size = sum(t.numel() for t in truth.values())
    total = sum(float(t.double().square().sum()) for t in truth.values())
    typical = math.sqrt(total / max(1, size))
    squares = []
    for name, true in truth.items():
        norm = float(true.double().norm())
        if norm <= NOTHING * typical * math.sqrt(true.numel()):
            continue
        relative = float((found[name].double() - true.double()).norm()) / norm
        squares.append(min(2.0, relative) ** 2 if math.isfinite(relative) else 4.0)
    return math.sqrt(sum(squares) / len(squares)) if squares else 0.0


def as_near(ours: Sequence[float], theirs: Sequence[float]) -> bool:
    """Return whether ``ours`` are not further from the truth than ``theirs``: medians, factor 2.

    Args:
        ours, theirs: distances under several roundings of the same network.
    """
    return statistics.median(ours) <= FACTOR * statistics.median(theirs) + FLOOR


def perturb(weight: Tensor, seed: int) -> None:
    """Move every value of ``weight`` by one rounding of its type, up or down, in place."""
    signs = torch.randint(0, 2, weight.shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1
    with torch.no_grad():
        weight.mul_(1 + signs.to(weight.dtype) * torch.finfo(weight.dtype).eps)


def finite(tensors: Tensors) -> bool:
    """Return whether there is no infinity and no NaN in ``tensors``."""
    return all(bool(t.isfinite().all()) for t in tensors.values())
