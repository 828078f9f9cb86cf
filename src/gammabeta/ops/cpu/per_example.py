"""Layer, RMS, group and instance norm on CPU tensors by the native kernels.

Each function returns None for a call that the kernels do not take: then torch computes it, or
raises its own error.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from gammabeta.ops.cpu.autograd import Plan, plan_for, run
from gammabeta.ops.cpu.batch import instance_by_population
from gammabeta.ops.cpu.library import extension as native
from gammabeta.ops.cpu.support import (
    TYPES,
    alike,
    are_finite,
    code_of,
    common_type,
    is_channels_last,
    is_small,
    serves,
    slope_of,
)
from gammabeta.ops.spec import GROUP, INSTANCE, LAYER, RMS, Call

_ROW, _GROUP = 1, 2  # the binding's numbers


def layer_norm(call: Call) -> Tensor | None:
    """Return the output of a layer norm, which is contiguous, or None."""
    x = call.x
    if is_small(LAYER, x, fused=_is_fused(call)):
        return None
    plan = row_plan(call)
    return None if plan is None else run(call, plan)


def rms_norm(call: Call) -> Tensor | None:
    """Return the output of an RMS norm, which is contiguous, or None.

    ``eps=None`` is the machine epsilon of the arithmetic, as in torch: float32's for half inputs.
    """
    x = call.x
    if is_small(RMS, x, fused=_is_fused(call)):
        return None
    if len(x.shape) > 3 and not x.is_contiguous() and is_channels_last(x):
        return None  # torch's output keeps that layout, which is not a matter of rows
    plan = row_plan(call)
    return None if plan is None else run(call, plan)


def group_norm(call: Call) -> Tensor | None:
    """Return the output of a group norm: channels_last where x, of 4 or 5 dims, is; or None."""
    x = call.x
    if not serves(x):
        return None
    last = len(x.shape) > 3 and not x.is_contiguous() and is_channels_last(x)
    if is_small("group, channels_last" if last else GROUP, x, fused=_is_fused(call)):
        return None
    plan = group_plan(call)
    return None if plan is None else run(call, plan)


def instance_norm(call: Call) -> Tensor | None:
    """Return the output of an instance norm, or None.

    Its running statistics are not updated here: a layer that is to do so is torch's.
    """
    x, mean, var = call.x, call.running_mean, call.running_var
    if not are_finite(call.momentum):
        return None  # torch raises its own error
    if not call.training:
        return None if mean is None or var is None else instance_by_population(call)
    if mean is not None or var is not None:
        return None
    if is_small(INSTANCE, x, fused=_is_fused(call)):
        return None
    plan = group_plan(call)
    return None if plan is None else run(call, plan)


def _is_fused(call: Call) -> bool:
    return call.activation is not None or call.residual is not None


def _takes(call: Call) -> bool:
    """Whether the kernels support the call's x and residual."""
    return serves(call.x) and (call.residual is None or alike(call.residual, call.x))


def _computed(x: Tensor) -> torch.dtype:
    """The type of the arithmetic."""
    return torch.float64 if x.dtype is torch.float64 else torch.float32


def group_plan(call: Call) -> Plan | None:
    """Return how the kernels run a group or instance norm; None if they do not support it."""
    if not _takes(call):
        return None
    x, num_groups = call.x, call.num_groups
    shape, elements = x.shape, x.numel()
    if call.kind == INSTANCE:
        if len(shape) < 3 or elements < 2 * shape[0] * shape[1]:
            return None  # torch raises its own error
        num_groups = shape[1]
    if len(shape) < 2 or not elements or type(num_groups) is not int or not are_finite(call.eps):
        return None
    n, c = shape[0], shape[1]
    if num_groups < 1 or c % num_groups or elements == num_groups:
        return None  # torch raises its own error
    parameter_type = common_type(x, call.weight, call.bias, shape[1:2])
    slope = None if parameter_type is None else slope_of(call, parameter_type, c)
    if slope is None:
        return None
    s = elements // (n * c)
    channels_last = s > 1 and len(shape) > 3 and not x.is_contiguous() and is_channels_last(x)
    sizes = (_GROUP, channels_last or s == 1, n, c, c // num_groups, s)
    code = code_of(call.activation)
    norm = native.Norm(*sizes, TYPES[x.dtype], parameter_type, code, call.eps, True, slope)
    plan = plan_for(call, norm, 3 * n * num_groups, _computed(x))
    plan.channels_last = channels_last
    return plan


def row_plan(call: Call) -> Plan | None:
    """Return how the kernels run a layer or RMS norm; None if they do not support it."""
    if not isinstance(call.normalized_shape, Sequence) or not _takes(call):
        return None
    x, eps = call.x, call.eps
    if eps is None and call.kind == RMS:
        eps = torch.finfo(_computed(x)).eps
    shape, elements = tuple(call.normalized_shape), x.numel()
    if not shape or not elements or not are_finite(eps) or x.shape[-len(shape) :] != shape:
        return None
    parameter_type = common_type(x, call.weight, call.bias, shape)
    slope = None if parameter_type is None else slope_of(call, parameter_type, 1)
    if slope is None:
        return None
    d = 1
    for size in shape:
        d *= size
    rows = elements // d
    sizes = (_ROW, True, rows, d, 1, 1, TYPES[x.dtype], parameter_type)
    code, centered = code_of(call.activation), call.kind == LAYER
    norm = native.Norm(*sizes, code, eps, centered, slope)
    return plan_for(call, norm, 3 * rows, _computed(x))
