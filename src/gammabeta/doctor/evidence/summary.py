"""Sum up, by feature, what a norm was given and what a module returned."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from gammabeta.doctor.evidence.forward_pass import Call, Output
from gammabeta.layers.traits import traits

_BY_CHANNEL = (nn.Conv1d, nn.ConvTranspose1d, nn.BatchNorm1d, nn.InstanceNorm1d, nn.GroupNorm)


def summed_call(path: str, module: Any, x: Tensor, *, is_batch: bool) -> Call:
    """Sum up the input of a norm by feature.

    Args:
        path: of the norm.
        module: the norm.
        x: its input.
        is_batch: whether it is of the family of batch norm.
    """
    what = traits(module, x)
    dim = what.dim if what.normalizes else 1
    dim = dim % x.dim() if x.dim() else 0
    mean: Tensor | None = None
    var: Tensor | None = None
    by_row: Tensor | None = None
    halves = None
    finite = True
    if x.dim() > 1 and x.is_floating_point():
        flat = x.movedim(dim, 0).reshape(x.shape[dim], -1).double()
        mean, var = flat.mean(1), flat.var(1, correction=0)
        finite = bool(torch.isfinite(mean).all() and torch.isfinite(var).all())
        if dim:
            by_row = x.movedim(dim, 1).reshape(x.shape[0], x.shape[dim], -1).float().mean(2)
        if is_batch and dim and x.shape[0] > 2 and x.shape[0] % 2 == 0:
            first, second = x.movedim(dim, 0).double().chunk(2, 1)
            halves = (_moments(first), _moments(second))
    return Call(
        path,
        module,
        tuple(x.shape),
        dim,
        values=x.numel() // max(1, x.shape[dim]) if x.dim() else 1,
        mean=mean,
        var=var,
        finite=finite,
        by_batch=is_batch
        and (bool(module.training) or getattr(module, "running_mean", None) is None),
        halves=halves,
        rows=by_row,
    )


def _moments(x: Tensor) -> tuple[Tensor, Tensor]:
    flat = x.flatten(1)
    return flat.mean(1), flat.var(1, correction=0)


def summed_up(
    path: str, module: nn.Module, y: Tensor, source: tuple[str, int | None] = ("", None)
) -> Output | None:
    """Sum up an output by feature.

    Args:
        path: of the module.
        module: what returned it.
        y: the output.
        source: path of the layer before, and the dim of the features if it is the same.
    """
    dim = 1 if y.dim() > 3 or y.dim() == 2 else -1
    if isinstance(module, _BY_CHANNEL):
        dim = 1
    if source[1] is not None and source[1] < y.dim():
        dim = source[1]
    dim %= y.dim()
    flat = y.movedim(dim, 0).reshape(y.shape[dim], -1).float()
    if not flat.numel():
        return None
    low, high = flat.aminmax(dim=1)
    finite = bool(torch.isfinite(low).all() and torch.isfinite(high).all())
    largest = float(torch.nan_to_num(torch.maximum(low.abs(), high.abs()), 0, 0, 0).max())
    return Output(
        path,
        module,
        tuple(y.shape),
        low,
        high,
        flat.mean(1),
        flat.var(1, correction=0),
        (flat == 0).float().mean(1),
        finite,
        largest,
        dim,
        source[0],
        "",
        y.dtype,
    )
