"""The native path: batch normalization in C++, on CPU tensors, as one autograd function.

Whatever it does not take goes to `eager`: other devices and layouts, tensor subclasses, and every
transform that has to see torch's own operators (`torch.compile`, `torch.func`, tracing,
forward-mode derivatives). So does the derivative of its backward pass.
"""

from __future__ import annotations

from functools import partial
from math import nan
from typing import Any

import torch
from torch import Tensor

from gammabeta.kernels import lean, library
from gammabeta.kernels.library import extension as native
from gammabeta.kernels.served import (
    CODES,
    NAMES,
    RELU,
    TYPES,
    address,
    alike,
    common_type,
    is_channels_last,
    like,
    serves,
    takes_gradient,
)
from gammabeta.kernels.twice import batch_norm_gradients


class _Call:
    """What one call knows beside its tensors, for forward and backward; the binding's words."""

    __slots__ = (
        "activation",
        "batches",
        "entered",
        "eps",
        "geometry",
        "guarded",
        "momentum",
        "parameter_type",
        "running_mean",
        "running_type",
        "running_var",
        "statistics",
        "training",
    )
    activation: int
    batches: Tensor | None
    entered: bool
    eps: float
    geometry: tuple[bool, int, int, int]
    guarded: bool
    momentum: float
    parameter_type: int
    running_mean: Tensor | None
    running_type: int
    running_var: Tensor | None
    statistics: Tensor
    training: bool


def batch_norm(
    x: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    training: bool,
    momentum: float | None,
    eps: float,
    activation: str | None,
    residual: Tensor | None,
    batches: Tensor | None = None,
    guarded: bool = False,
    memory: str = "default",
) -> tuple[Tensor, bool] | None:
    """``activation(batch_norm(x) + residual)``, or None where the native kernels do not serve.

    Args:
        x: (N, C, ...).
        running_mean: (C,), updated in training; with ``running_var`` what evaluation uses.
        running_var: (C,).
        weight: (C,) or None.
        bias: (C,) or None.
        training: whether to use the mini-batch's statistics.
        momentum: weight of this batch; None for the cumulative average over ``batches``.
        eps: added to the variance.
        activation: a name in `ACTIVATIONS`, or None.
        residual: like x, or None.
        batches: ``num_batches_tracked``, which counts the batches that enter.
        guarded: whether a batch is kept out of the running statistics that would not leave them
            finite.
        memory: ``"lean"`` for an output that is made again where the backward pass needs it; one
            with a residual is not, as that would have to be kept instead.

    Returns:
        The output, and whether the batch entered the running statistics.
    """
    if lean.is_open(x) or lean.is_open(residual):
        given = (weight, bias, training, momentum, eps, activation, residual, batches, guarded)
        arguments = (x, running_mean, running_var, *given, memory)
        done: tuple[Tensor, bool] | None = lean.run(batch_norm, arguments, {})
        return done
    if not library.chosen or not serves(x) or (residual is not None and not alike(residual, x)):
        return None
    parameter_type = common_type(x, weight, bias, x.shape[1:2])
    running_type = common_type(x, running_mean, running_var, x.shape[1:2])
    geometry = _geometry(x)
    if parameter_type is None or running_type is None or geometry is None:
        return None
    if eps <= 0 or (training and geometry[1] * geometry[3] < 2):
        return None  # torch says why
    call = _Call()
    call.geometry = geometry
    call.parameter_type, call.running_type = parameter_type, running_type
    call.training = training
    call.momentum = nan if momentum is None else momentum
    call.eps = eps
    call.activation = CODES[activation]
    call.running_mean, call.running_var, call.batches = running_mean, running_var, batches
    call.guarded = guarded
    if torch.is_grad_enabled() and (
        x.requires_grad
        or (weight is not None and weight.requires_grad)
        or (bias is not None and bias.requires_grad)
        or (residual is not None and residual.requires_grad)
    ):
        y: Tensor = _BatchNorm.apply(x, weight, bias, residual, call)  # type: ignore[no-untyped-call]
        if memory == "lean" and residual is None and lean.may_be_lean():
            y = lean.as_lean(y, partial(_again, call, call.statistics), (x, weight, bias))
        del call.statistics
    else:
        y = _forward(x, weight, bias, residual, call)[0]
    return y, call.entered


# ---- what is served ------------------------------------------------------------------------------


def _geometry(x: Tensor) -> tuple[bool, int, int, int] | None:
    """Return (rows, n, c, s) as the kernels take x, once `_dense` has made it so."""
    shape = x.shape
    dims = len(shape)
    if dims < 2:
        return None
    n, c = shape[0], shape[1]
    if dims == 2:
        return (True, n, c, 1) if n and c else None
    elements = x.numel()
    if not elements:
        return None
    if x.is_contiguous() or not is_channels_last(x):
        return False, n, c, elements // (n * c)
    return True, elements // c, c, 1


def _dense(x: Tensor, rows: bool) -> Tensor:
    return x if x.is_contiguous() or (rows and x.dim() > 2) else x.contiguous()


# ---- the function --------------------------------------------------------------------------------


def _forward(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, residual: Tensor | None, call: _Call
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Run the kernel; returns y, the statistics, and what a ReLU after a residual let through."""
    rows, n, c, s = call.geometry
    x = _dense(x, rows)
    bits = None
    if residual is not None:
        residual = like(residual, x)
        if call.activation == RELU:
            size = native.bits_size(rows, n, c, s, TYPES[x.dtype])
            bits = torch.empty(size, dtype=torch.uint8)
    y = torch.empty_like(x)
    statistics = torch.empty((2, c), dtype=torch.float64)
    call.entered = native.batch_norm_forward(
        rows,
        n,
        c,
        s,
        TYPES[x.dtype],
        call.parameter_type,
        call.activation,
        x.data_ptr(),
        address(residual),
        address(weight),
        address(bias),
        address(bits),
        statistics.data_ptr(),
        y.data_ptr(),
        call.training,
        call.momentum,
        call.eps,
        call.running_type,
        address(call.running_mean),
        address(call.running_var),
        address(call.batches),
        call.guarded,
    )
    return y, statistics, bits


def _again(
    call: _Call, statistics: Tensor, x: Tensor, weight: Tensor | None, bias: Tensor | None
) -> Tensor:
    """Make the output of ``call`` again, from its statistics."""
    rows, n, c, s = call.geometry
    x = _dense(x, rows)
    y = torch.empty_like(x)
    native.batch_norm_forward(
        rows,
        n,
        c,
        s,
        TYPES[x.dtype],
        call.parameter_type,
        call.activation,
        x.data_ptr(),
        0,
        address(weight),
        address(bias),
        0,
        statistics.data_ptr(),
        y.data_ptr(),
        False,
        0.0,
        call.eps,
        call.running_type,
        0,  # no running statistics: those given are used
        0,
        0,
        False,
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
    call: _Call,
    needs: tuple[bool, ...],
) -> tuple[Tensor | None, ...]:
    rows, n, c, s = call.geometry
    x = _dense(x, rows)
    g = like(g, x)
    residual = None if residual is None else like(residual, x)
    separate = needs[3] and call.activation  # the residual's gradient, made beside that of x
    gx = torch.empty_like(x) if needs[0] or separate else None
    gweight = None if weight is None else torch.empty_like(weight)
    gbias = None if bias is None else torch.empty_like(bias)
    gresidual = torch.empty_like(x) if separate else None
    native.batch_norm_backward(
        rows,
        n,
        c,
        s,
        TYPES[x.dtype],
        call.parameter_type,
        call.activation,
        x.data_ptr(),
        address(residual),
        address(weight),
        address(bias),
        address(bits),
        statistics.data_ptr(),
        call.training,
        g.data_ptr(),
        address(gx),
        address(gresidual),
        address(gweight),
        address(gbias),
    )
    if needs[3] and not call.activation:
        gresidual = g
    return gx if needs[0] else None, gweight, gbias, gresidual


class _BatchNorm(torch.autograd.Function):
    """Batch norm, residual and activation in one pass; the output is not kept."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        residual: Tensor | None,
        call: _Call,
    ) -> Tensor:
        y, statistics, bits = _forward(x, weight, bias, residual, call)
        kept = residual if call.activation > RELU else None
        ctx.save_for_backward(x, weight, bias, kept, statistics, bits)
        ctx.call = call
        call.statistics = statistics
        return y

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        call: _Call = ctx.call
        x, weight, bias, residual, statistics, bits = ctx.saved_tensors
        needs = ctx.needs_input_grad
        if takes_gradient(g):
            return *_backward(g, x, weight, bias, residual, statistics, bits, call, needs), None
        activation, mask = NAMES[call.activation], None
        if bits is not None:
            only = (False, False, False, True)
            with torch.no_grad():
                ones = torch.ones_like(x)
                mask = _backward(ones, x, weight, bias, None, statistics, bits, call, only)[3]
            activation = None
        gradients = batch_norm_gradients(
            g,
            x,
            weight,
            bias,
            residual,
            statistics,
            mask,
            needs,
            training=call.training,
            eps=call.eps,
            activation=activation,
        )
        return *gradients, None
