"""Batch normalization on CPU tensors.

The native kernels take what `support` says. Small tensors without an activation or a residual are
torch's: an autograd function in Python costs more than a kernel wins there.
"""

from __future__ import annotations

from math import nan

import torch
from torch import Tensor

from gammabeta.ops.allocated import PLAIN, NoMemoryError, refuse_freed
from gammabeta.ops.cpu import library
from gammabeta.ops.cpu.autograd import Plan, plan_for, run
from gammabeta.ops.cpu.library import extension as native
from gammabeta.ops.cpu.support import (
    TYPES,
    addresses,
    alike,
    are_finite,
    code_of,
    common_type,
    is_channels_last,
    is_small,
    serves,
    slope_of,
)
from gammabeta.ops.spec import BATCH, Call

_KIND = 0  # the binding's number


def forward(call: Call) -> Tensor | None:
    """Return the output of a batch norm, or None where it is not for the kernels.

    In training ``call.entered`` says whether the batch entered the running statistics.
    """
    x, training = call.x, call.training
    mean, var, batches, momentum = call.running_mean, call.running_var, call.batches, call.momentum
    if call.activation is None and call.residual is None and is_small(_name(call), x):
        return _by_torch(call) if serves(x) else None
    plan = None
    if library.reads_tensors and type(call.slope) is float:
        plan = _plan_of_tensors(call)
    if plan is not None:
        y = run(call, plan)
        if y is not None and batches is not None:
            call.entered = plan.entered
        return y
    geometry = supported(call)
    if geometry is None:
        return None
    _, n, _, s = geometry
    running_type = common_type(x, mean, var, x.shape[1:2])
    if running_type is None or not are_finite(0 if momentum is None else momentum):
        return None
    if (training and n * s < 2) or (mean is None) != (var is None):
        return None  # torch raises its own error
    if batches is not None and not _counts(batches):
        return None
    try:
        running = addresses(mean, var, batches)
    except NoMemoryError:
        refuse_freed(**call.tensors())
        return None
    parameter_type = common_type(x, call.weight, call.bias, x.shape[1:2])
    plan = None if parameter_type is None else _plan(call, geometry, parameter_type)
    if plan is None:
        return None
    plan.native.average(
        training, nan if momentum is None else momentum, running_type, *running, call.guarded
    )
    if call.memory == "lean":
        plan.again = plan.native.alone()
    y = run(call, plan)
    if y is not None and batches is not None:
        call.entered = plan.entered
    return y


def evaluate(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    mean: Tensor | None,
    var: Tensor | None,
    eps: float,
) -> Tensor | None:
    """Return a small norm by fixed statistics, alone, by torch's operator; else None."""
    if (
        torch.compiler.is_compiling()
        or mean is None
        or var is None
        or not library.chosen
        or not library.reads_tensors
        or not is_small("batch, evaluation", x)
        or not native.readable(x, weight, bias, mean, var)
    ):
        return None
    y: Tensor = torch.batch_norm(
        x, weight, bias, mean, var, False, 0.0, eps, torch.backends.cudnn.enabled
    )
    return y


def _plan_of_tensors(call: Call) -> Plan | None:
    """Return the plan that the extension makes of the tensors; None where it needs help."""
    momentum, eps = call.momentum, call.eps
    if not serves(call.x) or type(eps) is not float:
        return None
    if momentum is None:
        momentum = nan
    elif type(momentum) is not float or momentum != momentum:
        return None
    norm = native.batch_norm(
        call.x,
        call.residual,
        call.weight,
        call.bias,
        call.running_mean,
        call.running_var,
        call.batches,
        code_of(call.activation),
        eps,
        call.slope,
        call.training,
        momentum,
        call.guarded,
    )
    if norm is None:
        return None
    plan = plan_for(call, norm, 2 * norm.channels, torch.float64)
    plan.channels_last, plan.reads = norm.channels_last, True
    if call.memory == "lean":
        plan.again = norm.alone()
    return plan


def supported(call: Call) -> tuple[bool, int, int, int] | None:
    """Return (rows, n, c, s) as the kernels take x, once it is dense; None if they do not."""
    x, residual = call.x, call.residual
    if not serves(x) or (residual is not None and not alike(residual, x)):
        return None
    return _geometry(x) if are_finite(call.eps) and call.eps > 0 else None


def plan_of(call: Call) -> Plan | None:
    """Return the plan that normalizes by given statistics, or None if it is not for the kernels."""
    geometry = supported(call)
    if geometry is None:
        return None
    parameter_type = common_type(call.x, call.weight, call.bias, call.x.shape[1:2])
    return None if parameter_type is None else _plan(call, geometry, parameter_type)


def _plan(call: Call, geometry: tuple[bool, int, int, int], parameter_type: int) -> Plan | None:
    rows, n, c, s = geometry
    slope = slope_of(call, parameter_type, c)
    if slope is None:
        return None
    sizes = (_KIND, rows, n, c, 1, s, TYPES[call.x.dtype], parameter_type)
    norm = native.Norm(*sizes, code_of(call.activation), call.eps, True, slope)
    plan = plan_for(call, norm, 2 * c, torch.float64)
    plan.channels_last = rows and call.x.dim() > 2
    return plan


def _name(call: Call) -> str:
    return "batch" if call.training else "batch, evaluation"


def _by_torch(call: Call) -> Tensor | None:
    """The norm by torch's operator, under the native guard; None where that is not possible."""
    x, weight, bias, training = call.x, call.weight, call.bias, call.training
    mean, var, momentum, batches = call.running_mean, call.running_var, call.momentum, call.batches
    shape, elements = x.shape, x.numel()
    # What torch.nn.functional.batch_norm refuses is left to it.
    if len(shape) < 2 or not elements or (training and elements == shape[1]):
        return None
    if momentum is None and batches is None:
        momentum = 0.0
    if momentum is None or not are_finite(call.eps, momentum) or call.eps <= 0:
        return None
    kept = None
    try:
        addresses(x, weight, bias)  # torch's operator does not look
        running = addresses(mean, var, batches)
        if batches is not None:
            running_type = common_type(x, mean, var, shape[1:2])
            if running_type is None or mean is None or var is None or not _counts(batches):
                return None
            if call.guarded:
                kept = native.remember(*running[:2], shape[1], running_type)
    except NoMemoryError:
        refuse_freed(**call.tensors())
        return None
    y: Tensor = torch.batch_norm(
        x, weight, bias, mean, var, training, momentum, call.eps, torch.backends.cudnn.enabled
    )
    if kept is not None:
        call.entered = native.commit(*running[:2], shape[1], running_type, kept, running[2])
    elif batches is not None:
        batches.add_(1)
        call.entered = True
    return y


def _counts(batches: Tensor) -> bool:
    """Whether ``batches`` is a counter as torch makes it."""
    return (
        type(batches) in PLAIN
        and batches.is_cpu
        and batches.dtype is torch.int64
        and batches.layout is torch.strided
        and batches.numel() == 1
    )


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


def instance_by_population(call: Call) -> Tensor | None:
    """Instance norm with statistics of the population: batch norm in evaluation."""
    return forward(
        Call(
            BATCH,
            call.x,
            call.weight,
            call.bias,
            call.eps,
            call.activation,
            call.residual,
            running_mean=call.running_mean,
            running_var=call.running_var,
            training=False,
            slope=call.slope,
        )
    )
