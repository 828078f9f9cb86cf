"""Take a few thousand values of a tensor, without copying the tensor.

The sample is every k-th value in the order of memory. The stride k leaves at most the asked number
of values and is coprime to the size, and so to the size of every dim: the sample takes from all
features and positions alike. From frame to frame it begins at one of a few places in turn, so that
values are seen later that were not seen before.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gammabeta.ops.cpu import library

# A call of the extension costs half as much as two of torch's operators on a cold cache.
_extension = library.extension if hasattr(library.extension, "sample") else None

SAMPLE = 8192
"""Maximum number of values that are looked at, of one signal in one frame."""

Shape = tuple[int, ...]


class CannotSampleError(TypeError):
    """A tensor's values cannot be looked at here; the message says why."""


LEAST = 512
"""Minimum size of a sample of a large tensor."""
PHASES = 4
"""How many places a sample begins at in turn."""


def take(x: Tensor, most: int = SAMPLE, phase: int = 0) -> Tensor:
    """Return a sample of ``x`` as a tensor of its own: (n,), at least float32, on x's device.

    Args:
        x: floating; any shape and strides. Of a sharded tensor, the local part is taken.
        most: maximum number of values.
        phase: where the sample begins, from 0 to `PHASES` − 1.

    Raises:
        CannotSampleError: ``x`` has no values to look at.

    Example:
        >>> take(torch.arange(6.0).reshape(2, 3), most=4)
        tensor([0., 5.])
    """
    x = plain(x)
    stride, start, count, dense = _plan(tuple(x.shape), x.stride(), most, phase)
    flat = x.detach()
    if dense:
        sample = flat.as_strided((count,), (stride,), flat.storage_offset() + start)
    else:
        offsets = _offsets(tuple(x.shape), x.stride(), stride, start, count)
        extent = int(offsets.max()) + 1 if count else 0
        sample = flat.as_strided((extent,), (1,)).index_select(0, offsets.to(x.device))
    if sample.dtype in (torch.float32, torch.float64):
        return sample.clone()
    return sample.float()


Grabbed = Tensor | bytes
"""A sample: a tensor, or the bytes of float32 values."""


def grab(x: Tensor, most: int = SAMPLE, phase: int = 0) -> Grabbed:
    """Take a sample as `take` does, in the cheapest way.

    Args:
        x: a result of `plain`.
        most, phase: see `take`.
    """
    if x.dtype is torch.float32 and x.is_cpu and _extension is not None and not x.is_neg():
        stride, start, count, dense = _plan(tuple(x.shape), x.stride(), most, phase)
        address = x.data_ptr()
        if dense and address:
            sample: bytes = _extension.sample(address, start, stride, count)
            return sample
    return take(x, most, phase)


def array(sample: Grabbed | None) -> NDArray[Any]:
    """Return a sample as a NumPy array, (n,) float32 or float64."""
    if sample is None:
        return np.zeros(0, dtype=np.float32)
    if isinstance(sample, bytes):
        return np.frombuffer(sample, dtype=np.float32)
    if sample.dtype not in (torch.float32, torch.float64):
        sample = sample.float()
    found: NDArray[Any] = (sample if sample.device.type == "cpu" else sample.cpu()).numpy()
    return found


def plain(x: Tensor) -> Tensor:
    """Return ``x`` as a tensor whose memory can be read.

    Raises:
        CannotSampleError: it has none.
    """
    if type(x) not in (Tensor, torch.nn.Parameter):
        local = getattr(x, "to_local", None)  # DTensor
        if local is not None:
            with torch.no_grad():
                x = local()
        elif type(x).__torch_dispatch__ is not Tensor.__torch_dispatch__:
            raise CannotSampleError(f"a {type(x).__name__} has no values to look at")
    if torch._C._functorch.is_functorch_wrapped_tensor(x):  # vmap, grad, jvp
        raise CannotSampleError("it runs inside a torch.func transform")
    if x.layout is not torch.strided or x.is_meta or x.is_nested or x.is_quantized:
        raise CannotSampleError("it is not a dense tensor with values")
    if not x.is_floating_point():
        kind = "complex" if x.is_complex() else "integer"
        raise CannotSampleError(f"{kind} tensors cannot be measured")
    return x


@functools.lru_cache(4096)
def feature_of(
    shape: Shape, strides: Shape, dim: int, most: int = SAMPLE, phase: int = 0
) -> NDArray[Any]:
    """Return the index along ``dim`` of each sampled value of a tensor of this shape: (n,) int32.

    The last arguments are those of `take`.
    """
    dim %= max(1, len(shape))
    stride, start, count, dense = _plan(shape, strides, most, phase)
    order = _memory_order(shape, strides) if dense else range(len(shape))
    inner = 1
    for each in reversed(list(order)):
        if each == dim:
            break
        inner *= shape[each]
    positions = start + np.arange(count, dtype=np.int64) * stride
    size = shape[dim] if shape else 1
    found: NDArray[Any] = (positions // inner % max(1, size)).astype(np.int32)
    return found


@functools.lru_cache(4096)
def _plan(shape: Shape, strides: Shape, most: int, phase: int) -> tuple[int, int, int, bool]:
    """Return the stride of the sample, its start, its size, and whether memory is dense."""
    total = math.prod(shape)
    dense = _is_dense(shape, strides)
    order = _memory_order(shape, strides) if dense else range(len(shape))
    stride = _stride(tuple(shape[dim] for dim in order), most)
    start = stride * phase // PHASES
    return stride, start, max(0, math.ceil((total - start) / stride)), dense


@functools.lru_cache(4096)
def _stride(sizes: Shape, most: int) -> int:
    """Return a stride for dims of these sizes, the outermost first, that is coprime to all.

    The smallest such stride can nearly divide the distance between two values of one feature, and
    the sample would then see few features. Of a few strides, the first is taken that sees as many
    along every dim as a random sample would, or else the best one.
    """
    total = math.prod(sizes)
    if total <= most:
        return 1
    best, best_evenness = 1, -1.0
    for more in _LARGER:
        stride = math.ceil(total / most * (1 + more))
        while math.gcd(stride, total) > 1:
            stride += 1
        positions = np.arange(0, total, stride, dtype=np.int64)
        evenness, inner = 1.0, 1
        for size in reversed(sizes):
            if size > 1:
                seen = len(np.unique(positions // inner % size))
                evenness = min(evenness, seen / (size * (1 - (1 - 1 / size) ** len(positions))))
            inner *= size
        if evenness > best_evenness:
            best, best_evenness = stride, evenness
        if evenness >= _EVEN:
            break
    return best


_LARGER = (0.0, 0.03, 0.05, 0.07, 0.09, 0.118, 0.14, 0.16)
_EVEN = 0.97


def _memory_order(shape: Shape, strides: Shape) -> list[int]:
    """Return the dims from the outermost in memory to the innermost; dims of size 1 first."""
    return sorted(range(len(shape)), key=lambda d: (shape[d] != 1, -strides[d]))


def _is_dense(shape: Shape, strides: Shape) -> bool:
    """Whether the values fill a range of memory without holes or overlaps."""
    expected = 1
    for dim in reversed(_memory_order(shape, strides)):
        if shape[dim] != 1 and strides[dim] != expected:
            return False
        expected *= shape[dim]
    return True


@functools.lru_cache(512)
def _offsets(shape: Shape, strides: Shape, stride: int, start: int, count: int) -> Tensor:
    """Return where in memory the sampled values are, of a tensor that is not dense."""
    positions = start + np.arange(count, dtype=np.int64) * stride
    offsets = np.zeros(count, dtype=np.int64)
    for size, step in zip(reversed(shape), reversed(strides), strict=True):
        offsets += positions % size * step
        positions = positions // size
    return torch.from_numpy(offsets)
