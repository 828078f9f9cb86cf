"""The native path: a norm, a residual and an activation in C++, as one autograd function.

The norms differ in their geometry and their kernels, not in what goes in and out: this is what they
share. `cpu` says which calls of batch norm come here, `cpu_family` which of the others.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from gammabeta.ops import lean
from gammabeta.ops.cpu.double_backward import norm_gradients
from gammabeta.ops.cpu.library import extension as native
from gammabeta.ops.cpu.support import (
    NAMES,
    RELU,
    TYPES,
    NoMemoryError,
    addresses,
    like,
    refuse_freed,
    takes_gradient,
)


class Norm:
    """What one call knows beside its tensors.

    Attributes:
        forward: the binding's function.
        backward: the binding's function.
        geometry: the sizes, as both take them.
        places: (rows, n, c, s), as `native.bits_size` takes them.
        statistics: made by ``forward``, once it has run with a graph.
        numbers: how many numbers they are.
        computed: their type.
        channels_last: whether x stays in that layout; else it is made contiguous.
        operator: torch's own, of x, weight, bias and the statistics.
        parameter_type: the binding's number of the parameters' type.
        activation: the binding's number.
        more: what ``forward`` takes beside that.
        backward_more: what ``backward`` takes beside that.
        again: what ``forward`` takes instead, to make an output again from its statistics.
        returned: what ``forward`` returned.
    """

    __slots__ = (
        "activation",
        "again",
        "backward",
        "backward_more",
        "channels_last",
        "computed",
        "forward",
        "geometry",
        "more",
        "numbers",
        "operator",
        "parameter_type",
        "places",
        "returned",
        "statistics",
    )

    forward: Callable[..., Any]
    backward: Callable[..., None]
    geometry: tuple[int, ...]
    places: tuple[bool, int, int, int]
    statistics: Tensor | None
    numbers: int
    computed: torch.dtype
    channels_last: bool
    operator: Callable[[Tensor, Tensor | None, Tensor | None, Tensor], Tensor]
    parameter_type: int
    activation: int
    more: tuple[Any, ...]
    backward_more: tuple[Any, ...]
    again: tuple[Any, ...]
    returned: Any


def apply(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    residual: Tensor | None,
    norm: Norm,
    memory: str = "default",
) -> Tensor | None:
    """Return ``activation(norm(x) + residual)``, with a graph if one is wanted.

    With ``memory="lean"`` the output is made again where the backward pass needs it; one with a
    residual is not, as that would have to be kept instead.

    Returns:
        The output, or None where a tensor of zeros has no values in memory.

    Raises:
        RuntimeError: the storage of a tensor was freed.
    """
    try:
        return _apply(x, weight, bias, residual, norm, memory)
    except NoMemoryError:
        refuse_freed(input=x, weight=weight, bias=bias, residual=residual)
        return None


def _apply(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    residual: Tensor | None,
    norm: Norm,
    memory: str,
) -> Tensor:
    if not (
        torch.is_grad_enabled()
        and (
            x.requires_grad
            or (weight is not None and weight.requires_grad)
            or (bias is not None and bias.requires_grad)
            or (residual is not None and residual.requires_grad)
        )
    ):
        return _forward(x, weight, bias, residual, norm)[0]
    y: Tensor = _Norm.apply(x, weight, bias, residual, norm)  # type: ignore[no-untyped-call]
    statistics, norm.statistics = norm.statistics, None  # the graph keeps them, and lets them go
    if memory == "lean" and statistics is not None and residual is None and lean.may_be_lean():
        y = lean.as_lean(y, partial(_again, norm, statistics), (x, weight, bias))
    return y


def _dense(x: Tensor, norm: Norm) -> Tensor:
    if norm.channels_last or x.is_contiguous():
        return x
    addresses(x)  # torch would copy from a freed storage
    return x.contiguous()


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
            size = native.bits_size(*norm.places, number)
            bits = torch.empty(size, dtype=torch.uint8, device=x.device)
    y = torch.empty_like(x)
    statistics = torch.empty(norm.numbers, dtype=norm.computed, device=x.device)
    norm.returned = norm.forward(
        *norm.geometry,
        number,
        norm.parameter_type,
        norm.activation,
        *addresses(x, residual, weight, bias),
        0 if bits is None else bits.data_ptr(),
        statistics.data_ptr(),
        y.data_ptr(),
        *norm.more,
    )
    return y, statistics, bits


def _again(
    norm: Norm, statistics: Tensor, x: Tensor, weight: Tensor | None, bias: Tensor | None
) -> Tensor:
    """Make an output again, from its statistics."""
    x = _dense(x, norm)
    y = torch.empty_like(x)
    norm.forward(
        *norm.geometry,
        TYPES[x.dtype],
        norm.parameter_type,
        norm.activation,
        *addresses(x, None, weight, bias),
        0,
        statistics.data_ptr(),
        y.data_ptr(),
        *norm.again,
    )
    return y


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
        *addresses(x, residual, weight, bias, bits, statistics, g),
        0 if gx is None else gx.data_ptr(),
        0 if gresidual is None else gresidual.data_ptr(),
        0 if gweight is None else gweight.data_ptr(),
        0 if gbias is None else gbias.data_ptr(),
        *norm.backward_more,
    )
    if needs[3] and not norm.activation:
        gresidual = g
    return gx if needs[0] else None, gweight, gbias, gresidual


class _Norm(torch.autograd.Function):
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
        norm.statistics = statistics
        return y

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        norm: Norm = ctx.norm
        x, weight, bias, residual, statistics, bits = ctx.saved_tensors
        needs = ctx.needs_input_grad
        if takes_gradient(g):
            try:
                return *_backward(g, x, weight, bias, residual, statistics, bits, norm, needs), None
            except NoMemoryError:
                refuse_freed(gradient=g, input=x, weight=weight, bias=bias, residual=residual)
                if g._is_zerotensor():  # torch's group norm reads from where it has no values
                    g = torch.zeros_like(x)
        activation, mask = NAMES[norm.activation], None
        if bits is not None:
            only = (False, False, False, True)
            with torch.no_grad():
                ones = torch.ones_like(x)
                mask = _backward(ones, x, weight, bias, None, statistics, bits, norm, only)[3]
            activation = None
        gradients = norm_gradients(
            lambda x, weight, bias: norm.operator(x, weight, bias, statistics),
            *(g, x, weight, bias, residual, mask, needs, activation),
        )
        return *gradients, None
