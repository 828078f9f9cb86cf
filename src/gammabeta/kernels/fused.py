"""The native path of the norms without running statistics, as one autograd function.

Layer, RMS, group and instance norm differ in their geometry and their kernels, not in what goes in
and out: this is what they share. `cpu_family` says which calls come here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from gammabeta.kernels.library import extension as native
from gammabeta.kernels.served import NAMES, RELU, TYPES, address, like, takes_gradient
from gammabeta.kernels.twice import norm_gradients


class Norm:
    """What one call knows beside its tensors.

    Attributes:
        forward: the binding's function.
        backward: the binding's function.
        geometry: the sizes, as both take them.
        places: (rows, n, c, s), as `native.bits_size` takes them.
        standards: how many stretches are normalized, each with statistics of its own.
        channels_last: whether x stays in that layout; else it is made contiguous.
        operator: torch's own, of x, weight and bias.
        parameter_type: the binding's number of the parameters' type.
        activation: the binding's number.
        eps: ε.
    """

    __slots__ = (
        "activation",
        "backward",
        "channels_last",
        "eps",
        "forward",
        "geometry",
        "operator",
        "parameter_type",
        "places",
        "standards",
    )

    forward: Callable[..., None]
    backward: Callable[..., None]
    geometry: tuple[int, ...]
    places: tuple[bool, int, int, int]
    standards: int
    channels_last: bool
    operator: Callable[[Tensor, Tensor | None, Tensor | None], Tensor]
    parameter_type: int
    activation: int
    eps: float


def apply(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, residual: Tensor | None, norm: Norm
) -> Tensor:
    """Return ``activation(norm(x) + residual)``, with a graph if one is wanted."""
    if torch.is_grad_enabled() and (
        x.requires_grad
        or (weight is not None and weight.requires_grad)
        or (bias is not None and bias.requires_grad)
        or (residual is not None and residual.requires_grad)
    ):
        y: Tensor = _Fused.apply(x, weight, bias, residual, norm)  # type: ignore[no-untyped-call]
        return y
    return _forward(x, weight, bias, residual, norm)[0]


def _dense(x: Tensor, norm: Norm) -> Tensor:
    return x if norm.channels_last else x.contiguous()


def _forward(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, residual: Tensor | None, norm: Norm
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Run the kernel; returns y, the statistics, and what a ReLU after a residual let through."""
    x = _dense(x, norm)
    bits = None
    number = TYPES[x.dtype]
    if residual is not None:
        residual = like(residual, x)
        if norm.activation == RELU:
            bits = torch.empty(native.bits_size(*norm.places, number), dtype=torch.uint8)
    y = torch.empty_like(x)
    computed = torch.float64 if x.dtype is torch.float64 else torch.float32
    statistics = torch.empty(3 * norm.standards, dtype=computed)
    norm.forward(
        *norm.geometry,
        number,
        norm.parameter_type,
        norm.activation,
        x.data_ptr(),
        address(residual),
        address(weight),
        address(bias),
        address(bits),
        statistics.data_ptr(),
        y.data_ptr(),
        norm.eps,
    )
    return y, statistics, bits


def _backward(
    g: Tensor,
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    residual: Tensor | None,
    statistics: Tensor,
    bits: Tensor | None,
    norm: Norm,
    needs: tuple[bool, ...],
) -> tuple[Tensor | None, ...]:
    x = _dense(x, norm)
    g = like(g, x)
    residual = None if residual is None else like(residual, x)
    gweight = None if weight is None else torch.empty_like(weight)
    gbias = None if bias is None else torch.empty_like(bias)
    gresidual = torch.empty_like(x) if needs[3] and norm.activation else None
    # One loop writes both, and gx where it goes.
    gx = torch.empty_like(x) if needs[0] or gresidual is not None else None
    norm.backward(
        *norm.geometry,
        TYPES[x.dtype],
        norm.parameter_type,
        norm.activation,
        x.data_ptr(),
        address(residual),
        address(weight),
        address(bias),
        address(bits),
        statistics.data_ptr(),
        g.data_ptr(),
        address(gx),
        address(gresidual),
        address(gweight),
        address(gbias),
    )
    if needs[3] and not norm.activation:
        gresidual = g
    return gx if needs[0] else None, gweight, gbias, gresidual


class _Fused(torch.autograd.Function):
    """Norm, residual and activation in one pass; the output is not kept."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        residual: Tensor | None,
        norm: Norm,
    ) -> Tensor:
        y, statistics, bits = _forward(x, weight, bias, residual, norm)
        kept = residual if norm.activation > RELU else None
        ctx.save_for_backward(x, weight, bias, kept, statistics, bits)
        ctx.norm = norm
        return y

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        norm: Norm = ctx.norm
        x, weight, bias, residual, statistics, bits = ctx.saved_tensors
        needs = ctx.needs_input_grad
        if takes_gradient(g):
            return *_backward(g, x, weight, bias, residual, statistics, bits, norm, needs), None
        activation, mask = NAMES[norm.activation], None
        if bits is not None:
            only = (False, False, False, True)
            with torch.no_grad():
                ones = torch.ones_like(x)
                mask = _backward(ones, x, weight, bias, None, statistics, bits, norm, only)[3]
            activation = None
        gradients = norm_gradients(
            norm.operator, g, x, weight, bias, residual, mask, needs, activation
        )
        return *gradients, None
