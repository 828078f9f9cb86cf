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
from torch.autograd import forward_ad
from torch.nn import Parameter

from gammabeta.kernels import lean, library
from gammabeta.kernels.activations import ACTIVATIONS
from gammabeta.kernels.library import extension as native
from gammabeta.kernels.twice import batch_norm_gradients

TYPES = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2, torch.float64: 3}
_CODES: dict[str | None, int] = {None: 0, **{name: i for i, name in enumerate(ACTIVATIONS, 1)}}
_NAMES = {code: name for name, code in _CODES.items()}
_RELU = _CODES["relu"]
_PLAIN = frozenset({Tensor, Parameter, lean.LeanOutput})

_is_compiling = torch.compiler.is_compiling
_tracing_state = torch._C._get_tracing_state
_transform = torch._C._functorch.peek_interpreter_stack
_dispatch_modes = torch._C._len_torch_dispatch_stack


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
    if not library.chosen or not _serves(x) or (residual is not None and not _alike(residual, x)):
        return None
    parameter_type = _common_type(x, weight, bias)
    running_type = _common_type(x, running_mean, running_var)
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
    call.activation = _CODES[activation]
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


def _serves(x: Tensor) -> bool:
    """Whether ``x`` is a plain CPU tensor with values, and nobody has to see torch's operators."""
    return (
        type(x) in _PLAIN
        and x.is_cpu
        and x.dtype in TYPES
        and x.layout is torch.strided
        and not _is_compiling()
        and _tracing_state() is None
        and _transform() is None
        and not _dispatch_modes()
        and forward_ad._current_level < 0
        and not x.is_neg()
    )


def _alike(a: Tensor, b: Tensor) -> bool:
    return (
        type(a) in _PLAIN
        and a.dtype is b.dtype
        and a.is_cpu
        and a.shape == b.shape
        and a.layout is torch.strided
        and not a.is_neg()
    )


def _common_type(x: Tensor, one: Tensor | None, other: Tensor | None) -> int | None:
    """Return the binding's number of the parameters' type, None where they are not as expected."""
    some = one if one is not None else other
    if some is None:
        return TYPES[x.dtype]
    dtype = some.dtype
    if dtype is not x.dtype and (dtype is not torch.float32 or x.dtype is torch.float64):
        return None
    for p in (one, other):
        if p is not None and not (
            type(p) in _PLAIN
            and p.is_cpu
            and p.dtype is dtype
            and p.shape == x.shape[1:2]
            and p.is_contiguous()
        ):
            return None
    return TYPES[dtype]


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
    if x.is_contiguous() or not _channels_last(x):
        return False, n, c, elements // (n * c)
    return True, elements // c, c, 1


def _channels_last(x: Tensor) -> bool:
    dims = x.dim()
    if dims == 4:
        return x.is_contiguous(memory_format=torch.channels_last)
    if dims == 5:
        return x.is_contiguous(memory_format=torch.channels_last_3d)
    return x.transpose(1, -1).is_contiguous() if dims == 3 else False


def _dense(x: Tensor, rows: bool) -> Tensor:
    return x if x.is_contiguous() or (rows and x.dim() > 2) else x.contiguous()


def _like(a: Tensor, x: Tensor) -> Tensor:
    """Return ``a`` with the strides of the dense ``x``."""
    return a if a.stride() == x.stride() else torch.empty_like(x).copy_(a)


# ---- the function --------------------------------------------------------------------------------


def _address(t: Tensor | None) -> int:
    return 0 if t is None else t.data_ptr()


def _forward(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, residual: Tensor | None, call: _Call
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Run the kernel; returns y, the statistics, and what a ReLU after a residual let through."""
    rows, n, c, s = call.geometry
    x = _dense(x, rows)
    bits = None
    if residual is not None:
        residual = _like(residual, x)
        if call.activation == _RELU:
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
        _address(residual),
        _address(weight),
        _address(bias),
        _address(bits),
        statistics.data_ptr(),
        y.data_ptr(),
        call.training,
        call.momentum,
        call.eps,
        call.running_type,
        _address(call.running_mean),
        _address(call.running_var),
        _address(call.batches),
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
        _address(weight),
        _address(bias),
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
    g = _like(g, x)
    residual = None if residual is None else _like(residual, x)
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
        _address(residual),
        _address(weight),
        _address(bias),
        _address(bits),
        statistics.data_ptr(),
        call.training,
        g.data_ptr(),
        _address(gx),
        _address(gresidual),
        _address(gweight),
        _address(gbias),
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
        kept = residual if call.activation > _RELU else None
        ctx.save_for_backward(x, weight, bias, kept, statistics, bits)
        ctx.call = call
        call.statistics = statistics
        return y

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        call: _Call = ctx.call
        x, weight, bias, residual, statistics, bits = ctx.saved_tensors
        needs = ctx.needs_input_grad
        # Many gradients in one (``is_grads_batched``) look like a plain tensor, without memory.
        plain = type(g) in _PLAIN and torch._C._has_storage(g)
        if plain and not torch.is_grad_enabled() and _transform() is None:
            return *_backward(g, x, weight, bias, residual, statistics, bits, call, needs), None
        activation, mask = _NAMES[call.activation], None
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
