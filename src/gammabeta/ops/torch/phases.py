"""The phases of a norm in torch's operators: statistics, apply, backward.

They are for whoever comes between them, such as a reduction over ranks, and so they have no graph
of their own. A whole norm in one process is `forward`.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from gammabeta.ops.activations import activation_gradient
from gammabeta.ops.spec import BATCH, GROUP, INSTANCE, RMS, Call, Gradients, Statistics
from gammabeta.ops.torch.norms import finish


@torch.no_grad()
def statistics(call: Call) -> Statistics:
    """Return μ and the biased σ² of x, in float32 or wider."""
    x, dims, number = _grouped(call, call.x), _dims(call), statistics_shape(call)[1]
    x = x.to(torch.promote_types(x.dtype, torch.float32))
    if call.kind == RMS:
        var = x.square().mean(dims, keepdim=True)
        return Statistics(torch.zeros_like(var), var, number)
    var, mean = torch.var_mean(x, dims, correction=0, keepdim=True)
    return Statistics(mean, var, number)


@torch.no_grad()
def apply(call: Call, statistics: Statistics) -> Tensor:
    """Return ``activation(γ x̂ + β + residual)`` with x̂ by ``statistics``."""
    y = _affine(call, _standardized(call, statistics)[0])
    return finish(y.to(call.x.dtype), call.activation, call.residual, call.slope)


@torch.no_grad()
def backward(
    call: Call,
    statistics: Statistics,
    g: Tensor,
    reduce: Callable[[Tensor], Tensor] | None = None,
) -> Gradients:
    """Return the gradients of what `apply` was given.

    With g = ∂ℓ/∂x̂ and means over what shares the statistics,
    ∂ℓ/∂x = (g − mean(g) − x̂ · mean(g x̂)) / σ. Fixed statistics (batch norm not in training) have no
    means to subtract, and RMS norm not the first.
    """
    x_hat, inverse = _standardized(call, statistics)
    if call.activation is not None:
        before = _affine(call, x_hat)
        if call.residual is not None:
            before = before + call.residual
        g = activation_gradient(g.to(before.dtype), before, call.activation, call.slope)
    ungrouped = x_hat.reshape(call.x.shape)
    shared = _shared(call)
    weight, bias = call.weight, call.bias
    exact = g.to(x_hat.dtype)
    gweight = None if weight is None else _sum(exact * ungrouped, shared)
    gbias = None if bias is None else _sum(exact, shared)
    gx = _grouped(call, exact if weight is None else exact * _parameter(call, weight))
    if call.training or call.kind not in (BATCH, INSTANCE):
        dims = _dims(call)
        sums = torch.stack([gx.sum(dims, keepdim=True), (gx * x_hat).sum(dims, keepdim=True)])
        first, second = (sums if reduce is None else reduce(sums)) / statistics.number
        gx = gx - x_hat * second
        gx = gx if call.kind == RMS else gx - first
    return Gradients(
        (gx * inverse).reshape(call.x.shape).to(call.x.dtype),
        None if gweight is None or weight is None else gweight.to(weight.dtype),
        None if gbias is None or bias is None else gbias.to(bias.dtype),
        None if call.residual is None else g.to(call.x.dtype),
    )


def statistics_shape(call: Call) -> tuple[list[int], int]:
    """Return the shape of the call's statistics, and how many values each is taken over."""
    shape, dims = list(_grouped(call, call.x).shape), _dims(call)
    number = math.prod(shape[d] for d in dims)
    for d in dims:
        shape[d] = 1
    return shape, number


def _standardized(call: Call, statistics: Statistics) -> tuple[Tensor, Tensor]:
    """Return x̂ and 1/σ, grouped."""
    mean, var, _ = statistics
    eps = call.eps
    if eps is None:
        eps = torch.finfo(torch.promote_types(call.x.dtype, torch.float32)).eps
    inverse = (var + eps).rsqrt()
    return (_grouped(call, call.x).to(inverse.dtype) - mean) * inverse, inverse


def _affine(call: Call, x_hat: Tensor) -> Tensor:
    y = x_hat.reshape(call.x.shape)
    y = y if call.weight is None else y * _parameter(call, call.weight)
    return y if call.bias is None else y + _parameter(call, call.bias)


def _grouped(call: Call, x: Tensor) -> Tensor:
    """(N, C, ...) as (N, G, C/G, ...) in group norm; else as it is."""
    return x.reshape(x.shape[0], call.num_groups, -1, *x.shape[2:]) if call.kind == GROUP else x


def _dims(call: Call) -> tuple[int, ...]:
    """Which dims of the grouped x share a mean and a variance."""
    if call.kind == BATCH:
        return (0, *range(2, call.x.dim()))
    if call.kind == INSTANCE:
        return tuple(range(2, call.x.dim()))
    if call.kind == GROUP:
        return tuple(range(2, call.x.dim() + 1))
    return tuple(range(-len(call.normalized_shape), 0))


def _shared(call: Call) -> tuple[int, ...]:
    """Which dims of x share a γ and a β."""
    if call.kind in (BATCH, INSTANCE, GROUP):
        return (0, *range(2, call.x.dim()))
    return tuple(range(call.x.dim() - len(call.normalized_shape)))


def _sum(x: Tensor, dims: tuple[int, ...]) -> Tensor:
    return x.sum(dims) if dims else x  # torch takes no dims for all dims


def _parameter(call: Call, parameter: Tensor) -> Tensor:
    """γ or β, so that it broadcasts against x."""
    if call.kind in (BATCH, INSTANCE, GROUP):
        return parameter.view(-1, *(1,) * (call.x.dim() - 2))
    return parameter
