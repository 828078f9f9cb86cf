"""A norm's output that is not computed yet: its kernel may be able to do the next operation too.

A kernel that normalizes, adds a residual and applies the activation reads and writes memory once;
the three alone do so three times. In most networks they are three calls in a row. So a layer after
which `gammabeta.conversion.pairs` has found such calls (`fuses`) may return a `Deferred`. The next
operation on it decides: an activation of the kernels becomes part of the norm's call; so does a
sum, and then the activation after it. Whatever else happens to it, or is asked of it, has the norm
computed first: then it *is* the output, the same object.

Nothing is ever computed from a wrong value. Until it is computed a `Deferred` is a tensor on the
meta device, so that code that goes past Python (an extension that reads its memory) fails aloud.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules import module as _module

from gammabeta import ops
from gammabeta.layers.following import (
    ADDS_IN_PLACE,
    PRELU,
    PRODUCTS,
    SUMS,
    Activation,
    activation_of,
)
from gammabeta.layers.waiting import Finish, Waiting, again, version
from gammabeta.ops.cpu import library
from gammabeta.ops.cpu.support import serves
from gammabeta.ops.spec import LAYER, RMS, Call

ACTIVATION, SUM, SWISH = "activation", "sum", "swish"
"""What may follow: an activation; a sum, then perhaps an activation; x · sigmoid(x)."""

KNOWS = "knows_deferred_outputs"
"""Name of an attribute of forward hooks that may get a `Deferred`, and look at it by `peek`."""

_FEWEST, _FEWEST_ALONE = 65536, 1 << 21
"""Elements below which it does not pay to wait, with and without a backward pass to save time in.
Waiting costs some 15 µs, and with cold caches 50."""

_apart = torch._C.DisableTorchFunctionSubclass
_swap = torch._C._swap_tensor_impl
_SIGMOID = Activation("sigmoid")
_CONTAINERS = frozenset((tuple, list))

# These are answered from the shape; none of them needs a value.
_SHAPES = frozenset(
    (Tensor.size, Tensor.dim, Tensor.numel, Tensor.ndimension, Tensor.nelement, Tensor.__len__)
)
_SHAPE_GETTERS = frozenset((Tensor.shape, Tensor.ndim, Tensor.dtype, Tensor.layout))
_DEVICE = Tensor.device


def may_defer(layer: nn.Module, call: Call) -> bool:
    """Whether the output of ``layer`` may be a `Deferred`: nobody looks at it on its way.

    Hooks of the layer would; a small tensor is not worth it; `torch.compile`, `torch.func`, tracing
    and dispatch modes have to see the norm where it is called.
    """
    x = call.x
    return (
        call.activation is None
        and call.residual is None
        and not (
            _is_looked_at(layer)
            or layer._backward_hooks
            or layer._backward_pre_hooks
            or _module._global_forward_hooks
            or _module._global_forward_pre_hooks
            or _module._global_backward_hooks
            or _module._global_backward_pre_hooks
        )
        and getattr(layer, "on_nonfinite", None) != "raise"
        and library.chosen
        and serves(x)
        and _fits(call)
        and pays(x)
    )


def pays(x: Tensor) -> bool:
    """Whether ``x`` is large enough for it to pay to wait."""
    return x.numel() >= (_FEWEST if torch.is_grad_enabled() else _FEWEST_ALONE)


def _is_looked_at(layer: nn.Module) -> bool:
    """Whether a hook gets the output of ``layer``, and does not know what a `Deferred` is."""
    return any(not getattr(f, KNOWS, False) for f in layer._forward_hooks.values())


def _fits(call: Call) -> bool:
    """Whether x has the shape that the layer takes: else it raises where it is called."""
    shape = call.x.shape
    if call.kind in (LAYER, RMS):
        wanted = tuple(call.normalized_shape)
        return tuple(shape[len(shape) - len(wanted) :]) == wanted
    features = call.weight if call.weight is not None else call.running_mean
    return (features is None or features.shape == shape[1:2]) and call.x.numel() > shape[1]


def defer(layer: nn.Module, call: Call, finish: Finish, follows: str) -> Tensor:
    """Return the output of ``call``, to be computed by ``finish`` when it is known what follows."""
    return _deferred(Waiting(call, finish, layer, follows))


def complete(layer: Any, call: Call) -> Tensor:
    """Return the output of ``call``, which updates nothing; deferred where ``layer`` may defer."""
    fuses = layer.fuses
    if fuses is not None and fuses[layer.training] and may_defer(layer, call):
        return defer(layer, call, ops.normalize, fuses[layer.training])
    return ops.normalize(call)


class Deferred(Tensor):
    """A norm's output that is still to be computed. To everybody else it is a tensor."""

    _norm: Waiting
    _residual: Tensor | None
    _residual_version: int
    _gate: bool  # whether this is the sigmoid of the norm, which may be half of x · sigmoid(x)
    _value: Tensor | None

    @classmethod
    def __torch_function__(
        cls,
        func: Any,
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        first = args[0] if args else None
        if type(first) is Deferred and first._value is None and first._norm.same_modes():
            done = _fuse(first, func, args, kwargs)
            if done is not None:
                return done
            getter = func.__self__ if getattr(func, "__name__", "") == "__get__" else None
            if getter is _DEVICE:
                return first._norm.call.x.device
            if getter in _SHAPE_GETTERS or func in _SHAPES:
                with _apart():
                    return func(*args, **kwargs)
        elif _adds_last(func, args, kwargs):
            done = _add(args[1], first, inplace=False)
            if done is not None:
                return done
        return func(*(computed(a) for a in args), **{k: computed(v) for k, v in kwargs.items()})

    # A compiled function has its graph broken where it uses one, and gets the output.
    __torch_function__.__func__._torchdynamo_disable = True  # type: ignore[attr-defined]

    def __repr__(self, **kwargs: Any) -> str:  # type: ignore[override]
        """As the output's."""
        return repr(computed(self))

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Pickled, it is the output."""
        return computed(self).__reduce_ex__(protocol)

    def __deepcopy__(self, memo: Any) -> Any:
        """Copied, it is the output."""
        return computed(self).__deepcopy__(memo)


def computed(value: Any) -> Any:
    """Return ``value`` with every `Deferred` in it computed: the same objects, mostly."""
    kind = type(value)
    if kind is Deferred:
        return _compute(value)
    if kind in _CONTAINERS:
        return kind(computed(v) for v in value)
    if kind is dict:
        return {k: computed(v) for k, v in value.items()}
    return value


def peek(y: Tensor) -> Tensor:
    """Return the values of ``y``, without a graph; a `Deferred` remains one."""
    if type(y) is not Deferred or y._value is not None:
        return computed(y)  # type: ignore[no-any-return]
    call = again(y._norm.call)
    call.residual = y._residual
    if y._gate:
        call.activation = _SIGMOID.name
    with torch.no_grad():
        return ops.normalize(call)


def _compute(p: Deferred) -> Tensor:
    if p._value is not None:
        return p._value
    return _become(p, _value_of(p))


def _value_of(p: Deferred, activation: str | None = None, slope: Any = 0.01) -> Tensor:
    residual = p._residual
    if residual is not None and version(residual) != p._residual_version:
        raise RuntimeError(
            "a tensor that was added to a norm's output was changed in place before the sum was "
            "used; use the sum first, or convert the model with fuse=False"
        )
    if p._gate:
        activation = _SIGMOID.name
    return p._norm.compute(residual, activation, slope)


def _become(p: Deferred, y: Tensor) -> Tensor:
    """Have the object ``p`` be the tensor ``y`` from now on."""
    kind, attributes = type(y), y.__dict__
    try:
        with _apart():
            _swap(p, y)
    except RuntimeError:  # somebody in C++ holds it: it stays, and stands for y
        p._value = y
        p._norm = p._residual = None  # type: ignore[assignment]
        return y
    for name in _OWN:
        del p.__dict__[name]
    p.__class__ = kind  # type: ignore[assignment]
    p.__dict__.update(attributes)
    return p


_OWN = ("_norm", "_residual", "_residual_version", "_gate", "_value")


def _deferred(norm: Waiting, residual: Tensor | None = None, gate: bool = False) -> Deferred:
    with _apart():
        p: Any = torch.empty_like(norm.call.x, device="meta")
    if norm.grad and p.is_floating_point():
        p.requires_grad_()  # an autograd function of C++ that gets it fails, and loses no gradient
    p.__class__ = Deferred
    p._norm, p._residual, p._gate, p._value = norm, residual, gate, None
    p._residual_version = 0 if residual is None else version(residual)
    made: Deferred = p
    return made


def _fuse(p: Deferred, func: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> Tensor | None:
    """Have ``func`` done by the norm's kernel; None if it cannot be."""
    norm = p._norm
    if func in SUMS:
        if len(args) == 2 and not kwargs:
            return _add(p, args[1], inplace=func in ADDS_IN_PLACE)
        return None
    if func in PRODUCTS:
        return _gated(p, args, kwargs)
    activation = activation_of(func, args[1:], kwargs)
    if activation is None or p._gate:
        return None
    if norm.follows == SWISH and activation == _SIGMOID:
        return _deferred(norm, p._residual, gate=True)
    name, slope = activation.name, activation.slope
    if name == PRELU:
        if type(slope) not in (Tensor, nn.Parameter) or slope.shape not in _slopes(norm.call):
            return None
        name = "leaky_relu"
    y = _value_of(p, name, slope)
    return _become(p, y) if activation.inplace else y


def _slopes(call: Call) -> tuple[tuple[int, ...], ...]:
    """The shapes that a PReLU's weight may have after ``call``."""
    shape = call.x.shape
    return ((1,),) if len(shape) < 2 else ((1,), (shape[1],))


def _adds_last(func: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> bool:
    """Whether this is r + y, where y is deferred; r += y is to change r."""
    if func not in SUMS or func in ADDS_IN_PLACE or len(args) != 2 or kwargs:
        return False
    return type(args[1]) is Deferred and args[1]._value is None


def _add(p: Deferred, other: Any, *, inplace: bool) -> Tensor | None:
    """Return ``p + other``, for an activation to complete; None if no kernel can add them."""
    if p._residual is not None or p._gate or other is p or not isinstance(other, Tensor):
        return None
    other = computed(other)
    x = p._norm.call.x
    if not (
        type(other) in (Tensor, nn.Parameter)
        and other.dtype is x.dtype
        and other.is_cpu
        and other.shape == x.shape
        and p._norm.same_modes()
    ):
        return None
    if inplace:
        p._residual, p._residual_version = other, version(other)
        total = p
    else:
        total = _deferred(p._norm, other)
    # Where no activation is to come, there is nothing to wait for.
    return total if p._norm.follows == f"{SUM}, {ACTIVATION}" else _compute(total)


def _gated(p: Deferred, args: Sequence[Any], kwargs: dict[str, Any]) -> Tensor | None:
    """Return x · sigmoid(x) as SiLU, where the two factors are these of one norm."""
    q = args[1] if len(args) == 2 and not kwargs else None
    if type(q) is not Deferred or q._value is not None or q._norm is not p._norm:
        return None
    if p._gate == q._gate or p._residual is not q._residual:
        return None
    return p._norm.compute(p._residual, "silu")
