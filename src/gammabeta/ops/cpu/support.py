"""Which calls the native kernels support: plain CPU tensors, outside of transforms.

Whoever has to see torch's own operators gets them: `torch.compile`, `torch.func`, tracing,
forward-mode derivatives, dispatch modes and tensor subclasses.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from gammabeta.ops.activations import ACTIVATIONS, known_activation
from gammabeta.ops.allocated import PLAIN, NoMemoryError
from gammabeta.ops.lean import is_open
from gammabeta.ops.spec import Call

TYPES = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2, torch.float64: 3}
DTYPES = {number: dtype for dtype, number in TYPES.items()}
CODES: dict[str | None, int] = {None: 0, **{name: i for i, name in enumerate(ACTIVATIONS, 1)}}
NAMES = {code: name for name, code in CODES.items()}
MASKED = frozenset((CODES["relu"], CODES["relu6"]))
"""Those whose backward pass needs to know no more than which elements they let through."""
NEGATIVE_PART = len(CODES)
"""An activation of the binding's own, whose "gradient" is g · min(z, 0): for a PReLU's slope."""
MOST = sys.float_info.max

_transform = torch._C._functorch.peek_interpreter_stack
_batched = torch._C._functorch.is_legacy_batchedtensor  # ``is_grads_batched=True``
_is_compiling = torch.compiler.is_compiling
_tracing_state = torch._C._get_tracing_state
_dispatch_modes = torch._C._len_torch_dispatch_stack


def serves(x: Tensor) -> bool:
    """Whether ``x`` is a plain CPU tensor, and nobody has to see torch's operators."""
    return (
        type(x) in PLAIN
        and not is_open(x)
        and x.is_cpu
        and x.dtype in TYPES
        and x.layout is torch.strided
        and not x.is_nested
        and not _is_compiling()
        and _tracing_state() is None
        and _transform() is None
        and not _dispatch_modes()
        and forward_ad._current_level < 0
        and not x.is_neg()
    )


def alike(a: Tensor, b: Tensor) -> bool:
    """Whether ``a`` can go element for element with ``b``, which is served."""
    return (
        type(a) in PLAIN
        and a.dtype is b.dtype
        and a.is_cpu
        and a.layout is torch.strided
        and not a.is_nested
        and a.shape == b.shape
        and not a.is_neg()
    )


def code_of(activation: str | None) -> int:
    """Return the binding's number of ``activation``.

    Raises:
        ValueError: it is not known; an attribute of a layer can be set to anything.
    """
    try:
        return CODES[activation]
    except (KeyError, TypeError):
        return CODES[known_activation(activation)]


def slope_of(call: Call, parameter_type: int, channels: int) -> float | None:
    """Return the slope that the binding is told; None where its kernels do not take the call's.

    Args:
        call: its slope is a number, or the weight of a PReLU, (1,) or (C,); the kernels read the
            latter by themselves, and then the number says nothing.
        parameter_type: of γ and β, which the weight has to have, too.
        channels: C; 1 where channels have none of their own.
    """
    slope = call.slope
    if type(slope) is float:
        return slope
    if not isinstance(slope, Tensor):
        return float(slope)
    if not (
        type(slope) in PLAIN
        and slope.is_cpu
        and slope.dtype is DTYPES[parameter_type]
        and slope.layout is torch.strided
        and slope.shape in ((1,), (channels,))
        and slope.is_contiguous()
        and not slope.is_neg()
        and slope.data_ptr()
    ):
        return None
    return slope.item() if slope.numel() == 1 else 0.0


def are_finite(*values: Any) -> bool:
    """Whether ``values``, ε or a momentum, are finite numbers; the rest is torch's to answer."""
    return all(type(v) in (float, int) and -MOST < v < MOST for v in values)


def takes_gradient(g: Tensor) -> bool:
    """Whether the gradient ``g`` has values at its address, and nobody asks for a graph."""
    return (
        not torch.is_grad_enabled()
        and type(g) in PLAIN
        and _transform() is None
        and not _batched(g)
        and g.layout is torch.strided
        and not g.is_neg()
    )


def common_type(
    x: Tensor, one: Tensor | None, other: Tensor | None, shape: Sequence[int]
) -> int | None:
    """Return the binding's number of the parameters' type, None where they are not as expected."""
    some = one if one is not None else other
    if some is None:
        return TYPES[x.dtype]
    if type(some) not in PLAIN:
        return None
    dtype = some.dtype
    if dtype is not x.dtype and (dtype is not torch.float32 or x.dtype is torch.float64):
        return None
    for p in (one, other):
        if p is not None and not (
            type(p) in PLAIN
            and p.is_cpu
            and p.dtype is dtype
            and p.layout is torch.strided
            and p.shape == shape
            and p.is_contiguous()
            and not p.is_neg()
        ):
            return None
    return TYPES[dtype]


def is_channels_last(x: Tensor) -> bool:
    """Whether the channels of (N, C, ...) lie side by side, and nothing between."""
    dims = x.dim()
    if dims == 4:
        return x.is_contiguous(memory_format=torch.channels_last)
    if dims == 5:
        return x.is_contiguous(memory_format=torch.channels_last_3d)
    return x.transpose(1, -1).is_contiguous() if dims == 3 else False


def like(a: Tensor, x: Tensor) -> Tensor:
    """Return ``a`` with the strides of the dense ``x``."""
    if a.stride() == x.stride():
        return a
    addresses(a)  # torch would copy from a freed storage
    return torch.empty_like(x).copy_(a)


def addresses(*tensors: Tensor | None) -> list[int]:
    """Where the values of each tensor are, 0 for None.

    Raises:
        NoMemoryError: they are nowhere: a storage was freed, or never filled.
    """
    found = []
    for t in tensors:
        if t is None:
            found.append(0)
            continue
        at = t.data_ptr()
        # Of a part of a freed storage, torch gives the offset as the address.
        if not at or (t.storage_offset() and not t.untyped_storage().data_ptr()):
            raise NoMemoryError
        found.append(at)
    return found


SMALL: dict[str, tuple[int, int, int]] = {
    "batch": (12288, 0, 0),
    "batch, evaluation": (1 << 62, 0, 0),
    "layer": (2_000_000, 16384, 8192),
    "group": (262144, 65536, 16384),
    "group, channels_last": (16384, 0, 8192),
}
"""Elements below which a norm is torch's: in float32 and 64, in half precision, and in either with
an activation or a residual, which cost torch more. An autograd function in Python costs some 10 µs
more than torch's own, and there the kernel does not win as much. Whether a gradient is wanted makes
no difference: with and without, the output has the same bits. Torch's RMS and instance norm are
several operators, and slower at any size; so is its batch norm in half precision.
Batch norm in evaluation, alone and in float32, is torch's at any size: in whole networks ours was
never faster."""


def is_small(kind: str, x: Tensor, *, fused: bool = False) -> bool:
    """Whether ``x`` is too small for the kernels to pay; ``fused``: with what follows the norm."""
    if kind not in SMALL or type(x) not in PLAIN:
        return False
    wide, half, most = SMALL[kind]
    alone = half if x.dtype.itemsize < 4 else wide
    return x.numel() < (min(alone, most) if fused else alone)
