"""What each module does to each example of a batch: where an example begins to depend on others."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn


@dataclass
class Trace:
    """One call of a module, example by example.

    Attributes:
        layer: path of the module.
        module: the module.
        before, after: (N, 2): mean and mean square of each row of its input and of its output;
            None if it is no tensor.
    """

    layer: str
    module: nn.Module
    before: Tensor | None
    after: Tensor | None


def rows(value: Any) -> Tensor | None:
    """Return mean and mean square of ``value`` along its first dim, or None."""
    if isinstance(value, (tuple, list)):
        value = next((each for each in value if isinstance(each, Tensor)), None)
    if not isinstance(value, Tensor) or value.dim() == 0 or not value.numel():
        return None
    if value.is_complex() or value.is_sparse or value.is_nested:
        return None
    flat = value.detach().reshape(value.shape[0], -1).double()
    return torch.stack((flat.mean(1), flat.square().mean(1)), 1)


def differs(whole: Tensor | None, part: Tensor | None, sizes: tuple[int, int]) -> bool | None:
    """Return whether the examples of ``part`` are not the last ones of ``whole``.

    Args:
        whole, part: what `rows` returned for a batch and for the last examples of it.
        sizes: their numbers of examples.

    Returns:
        None if the two cannot be compared.
    """
    if whole is None or part is None:
        return None
    n, k = sizes
    if whole.shape[0] % n or part.shape[0] * n != whole.shape[0] * k:
        return None
    last = whole[-part.shape[0] :]
    square = whole[:, 1].mean().clamp_min(1e-24)
    scale = torch.stack((square.sqrt(), square))
    return bool(((last - part).abs() / scale).max() > 1e-2)


def culprit(whole: list[Trace], part: list[Trace], sizes: tuple[int, int]) -> Trace | None:
    """Return the innermost module that makes examples depend on others, the first one of them."""
    if [each.layer for each in whole] != [each.layer for each in part]:
        return None
    for a, b in zip(whole, part, strict=True):
        if differs(a.before, b.before, sizes) is False and differs(a.after, b.after, sizes):
            return a
    return None
