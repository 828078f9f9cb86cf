"""Batch normalization on CPU tensors by the native kernels, where these serve.

Whatever they do not take goes to `eager`: other devices and layouts, tensor subclasses, and every
transform that has to see torch's own operators (`torch.compile`, `torch.func`, tracing,
forward-mode derivatives). So does the derivative of the backward pass.
"""

from __future__ import annotations

from functools import partial
from math import nan

import torch
import torch.nn.functional as F
from torch import Tensor

from gammabeta.ops import lean
from gammabeta.ops.cpu import library
from gammabeta.ops.cpu.autograd import Norm, apply
from gammabeta.ops.cpu.library import extension as native
from gammabeta.ops.cpu.support import (
    PLAIN,
    NoMemoryError,
    addresses,
    alike,
    are_finite,
    code_of,
    common_type,
    is_channels_last,
    refuse_freed,
    serves,
)


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
    if not are_finite(eps, 0 if momentum is None else momentum):
        return None
    if eps <= 0 or (training and geometry[1] * geometry[3] < 2):
        return None  # torch raises its own error
    if (running_mean is None) != (running_var is None):
        return None  # torch raises its own error
    if batches is not None and not _counts(batches):
        return None
    norm = Norm()
    norm.forward, norm.backward = native.batch_norm_forward, native.batch_norm_backward
    norm.geometry = norm.places = geometry
    norm.channels_last = geometry[0] and x.dim() > 2
    norm.numbers, norm.computed = 2 * geometry[2], torch.float64
    norm.parameter_type = parameter_type
    norm.activation = code_of(activation)
    try:
        running = addresses(running_mean, running_var, batches)
    except NoMemoryError:
        refuse_freed(
            running_mean=running_mean, running_var=running_var, num_batches_tracked=batches
        )
        return None
    norm.more = (
        training,
        nan if momentum is None else momentum,
        eps,
        running_type,
        *running,
        guarded,
    )
    norm.backward_more = (training,)
    norm.again = (False, 0.0, eps, running_type, 0, 0, 0, False)  # by no statistics but those given
    norm.operator = partial(_operator, training, eps)
    y = apply(x, weight, bias, residual, norm, memory)
    return None if y is None else (y, norm.returned)


def _counts(batches: Tensor) -> bool:
    """Whether ``batches`` is a counter as torch makes it."""
    return (
        type(batches) in PLAIN
        and batches.is_cpu
        and batches.dtype is torch.int64
        and batches.layout is torch.strided
        and batches.numel() == 1
    )


def _operator(
    training: bool,
    eps: float,
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    statistics: Tensor,
) -> Tensor:
    """The norm in torch's operators; ``statistics`` are means and 1/σ, those of x in training."""
    if training:
        return F.batch_norm(x, None, None, weight, bias, True, 0.0, eps)
    shape = (1, -1) + (1,) * (x.dim() - 2)
    mean, inverse = statistics.view(2, *shape)
    y: Tensor = (x - mean) * inverse
    y = y if weight is None else y * weight.view(shape)
    return (y if bias is None else y + bias.view(shape)).to(x.dtype)


def _geometry(x: Tensor) -> tuple[bool, int, int, int] | None:
    """Return (rows, n, c, s) as the kernels take x, once it is dense."""
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
