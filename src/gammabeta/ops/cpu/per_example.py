"""Layer, RMS, group and instance norm on CPU tensors by the native kernels, where these serve.

Each function returns None where they do not: then `eager` does it, or raises torch's own error.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from gammabeta.ops.cpu import batch as cpu
from gammabeta.ops.cpu import library
from gammabeta.ops.cpu.autograd import Norm, apply
from gammabeta.ops.cpu.library import extension as native
from gammabeta.ops.cpu.support import (
    PLAIN,
    alike,
    are_finite,
    code_of,
    common_type,
    is_channels_last,
    serves,
)

SMALL: dict[str, tuple[int, int, int]] = {
    "layer": (65536, 16384, 8192),
    "group": (131072, 65536, 16384),
    "group, channels_last": (16384, 0, 8192),
}
"""Elements below which a norm is torch's: in float32 and 64, in half precision, and in either with
an activation or a residual, which cost torch more. An autograd function in Python costs some 10 µs
more than torch's own, and there the kernel does not win as much. Whether a gradient is wanted makes
no difference: with and without, the output has the same bits. Torch's RMS and instance norm are
several operators, and slower at any size."""


def layer_norm(
    x: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
    activation: str | None,
    residual: Tensor | None,
) -> Tensor | None:
    """``activation(layer_norm(x) + residual)``, or None.

    Args:
        x: (..., *normalized_shape), contiguous or not; the output is.
        normalized_shape: the last dims of x.
        weight: shaped ``normalized_shape``, of x's dtype or float32; or None.
        bias: like ``weight``, or None.
        eps: added to the variance.
        activation: a name in `ACTIVATIONS`, or None.
        residual: like x, or None.
    """
    if _small("layer", x, activation is not None or residual is not None):
        return None
    if not _takes(x, residual):
        return None
    if not isinstance(normalized_shape, Sequence):
        return None
    shape = tuple(normalized_shape)
    norm = _row_norm(x, shape, weight, bias, eps, activation, centered=True)
    if norm is None:
        return None
    norm.operator = lambda x, weight, bias, _: F.layer_norm(x, shape, weight, bias, eps)
    return apply(x, weight, bias, residual, norm)


def rms_norm(
    x: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None,
    eps: float | None,
    activation: str | None,
    residual: Tensor | None,
) -> Tensor | None:
    """``activation(rms_norm(x) + residual)``, or None; arguments as `layer_norm`'s.

    ``eps=None`` is the machine epsilon of what is computed in, as in torch: float32's for half
    inputs.
    """
    if not _takes(x, residual):
        return None
    if len(x.shape) > 3 and not x.is_contiguous() and is_channels_last(x):
        return None  # torch's output keeps that layout, which is not a matter of rows
    if not isinstance(normalized_shape, Sequence):
        return None
    shape = tuple(normalized_shape)
    if eps is None:
        eps = torch.finfo(_computed(x)).eps
    norm = _row_norm(x, shape, weight, None, eps, activation, centered=False)
    if norm is None:
        return None
    norm.operator = lambda x, weight, *_: F.rms_norm(x, shape, weight, eps)
    return apply(x, weight, None, residual, norm)


def group_norm(
    x: Tensor,
    num_groups: int,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
    activation: str | None,
    residual: Tensor | None,
) -> Tensor | None:
    """``activation(group_norm(x) + residual)``, or None.

    Args:
        x: (N, C, ...). The output is channels_last where x is, of 4 or 5 dims, else contiguous.
        num_groups: a divisor of C.
        weight: (C,), of x's dtype or float32; or None.
        bias: like ``weight``, or None.
        eps: added to the variance.
        activation: a name in `ACTIVATIONS`, or None.
        residual: like x, or None.
    """
    more = activation is not None or residual is not None
    if not _takes(x, residual):
        return None
    last = len(x.shape) > 3 and not x.is_contiguous() and is_channels_last(x)
    if _small("group, channels_last" if last else "group", x, more):
        return None
    norm = _group_norm(x, num_groups, weight, bias, eps, activation)
    if norm is None:
        return None
    norm.operator = lambda x, weight, bias, _: F.group_norm(x, num_groups, weight, bias, eps)
    return apply(x, weight, bias, residual, norm)


def instance_norm(
    x: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    use_input_stats: bool,
    eps: float,
    activation: str | None,
    residual: Tensor | None,
) -> Tensor | None:
    """``activation(instance_norm(x) + residual)``, or None; arguments as `group_norm`'s.

    With statistics of the population it is batch norm in evaluation. Those are not updated here: a
    layer that is to do so is left to torch.
    """
    if not use_input_stats:
        if running_mean is None or running_var is None:
            return None
        done = cpu.batch_norm(
            x, running_mean, running_var, weight, bias, False, 0.0, eps, activation, residual
        )
        return None if done is None else done[0]
    if running_mean is not None or running_var is not None or not _takes(x, residual):
        return None
    if x.dim() < 3:
        return None
    shape = x.shape
    if x.numel() < 2 * shape[0] * shape[1]:
        return None  # torch says why
    norm = _group_norm(x, shape[1], weight, bias, eps, activation)
    if norm is None:
        return None
    norm.operator = lambda x, weight, bias, _: F.instance_norm(
        x, None, None, weight, bias, True, 0.0, eps
    )
    return apply(x, weight, bias, residual, norm)


def _takes(x: Tensor, residual: Tensor | None) -> bool:
    """Whether the kernels are in use, and serve ``x`` and ``residual``."""
    return library.chosen and serves(x) and (residual is None or alike(residual, x))


def _computed(x: Tensor) -> torch.dtype:
    """The type of the arithmetic."""
    return torch.float64 if x.dtype is torch.float64 else torch.float32


def _small(kind: str, x: Tensor, more: bool) -> bool:
    """Whether ``x`` is too small for the kernels to pay; ``more`` than the norm alone."""
    if kind not in SMALL or type(x) not in PLAIN:
        return False
    wide, half, most = SMALL[kind]
    alone = half if x.dtype.itemsize < 4 else wide
    return x.numel() < (min(alone, most) if more else alone)


def _group_norm(
    x: Tensor,
    num_groups: int,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
    activation: str | None,
) -> Norm | None:
    """Return the call if the parameters are served; the caller adds torch's operator."""
    shape, elements = x.shape, x.numel()
    if len(shape) < 2 or not elements or type(num_groups) is not int or not are_finite(eps):
        return None
    n, c = shape[0], shape[1]
    if num_groups < 1 or c % num_groups or elements == num_groups:
        return None  # torch says why
    parameter_type = common_type(x, weight, bias, shape[1:2])
    if parameter_type is None:
        return None
    s = elements // (n * c)
    channels_last = s > 1 and len(shape) > 3 and not x.is_contiguous() and is_channels_last(x)
    rows = channels_last or s == 1
    norm = Norm()
    norm.forward, norm.backward = native.group_norm_forward, native.group_norm_backward
    norm.geometry = (rows, n, c, c // num_groups, s)
    norm.places = (True, n * s, c, 1) if rows else (False, n, c, s)
    norm.numbers, norm.computed = 3 * n * num_groups, _computed(x)
    norm.channels_last = channels_last
    norm.parameter_type = parameter_type
    norm.activation = code_of(activation)
    norm.more, norm.backward_more = (eps,), ()
    return norm


def _row_norm(
    x: Tensor,
    shape: tuple[int, ...],
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
    activation: str | None,
    *,
    centered: bool,
) -> Norm | None:
    """Return the call if the parameters are served; the caller adds torch's operator."""
    elements = x.numel()
    if not shape or not elements or not are_finite(eps) or x.shape[-len(shape) :] != shape:
        return None
    parameter_type = common_type(x, weight, bias, shape)
    if parameter_type is None:
        return None
    d = 1
    for size in shape:
        d *= size
    norm = Norm()
    norm.forward, norm.backward = native.row_norm_forward, native.row_norm_backward
    norm.geometry = (centered, elements // d, d)
    norm.places = (True, elements // d, d, 1)
    norm.numbers, norm.computed = 3 * (elements // d), _computed(x)
    norm.channels_last = False
    norm.parameter_type = parameter_type
    norm.activation = code_of(activation)
    norm.more, norm.backward_more = (eps,), ()
    return norm
