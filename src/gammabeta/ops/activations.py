"""The activations a layer can apply after it normalizes, by PyTorch's names."""

# No `from __future__ import annotations`: `torch.jit.script` reads the types themselves.
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gammabeta.names import known

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": torch.relu,
    "leaky_relu": F.leaky_relu,
    "silu": F.silu,
    "gelu": F.gelu,
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "relu6": F.relu6,
    "hardswish": F.hardswish,
    "hardsigmoid": F.hardsigmoid,
    "mish": F.mish,
    "gelu_tanh": partial(F.gelu, approximate="tanh"),
}
"""Name → function, in the order of the native kernels. ``None`` stands for no activation.

``"leaky_relu"`` has a negative slope of 0.01 here; `activate` takes others."""

_aten = torch.ops.aten
_DERIVATIVES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "relu": lambda g, x: _aten.threshold_backward(g, x, 0),
    "silu": lambda g, x: _aten.silu_backward(g, x),
    "gelu": lambda g, x: _aten.gelu_backward(g, x),
    "sigmoid": lambda g, x: _aten.sigmoid_backward(g, x.sigmoid()),
    "tanh": lambda g, x: _aten.tanh_backward(g, x.tanh()),
    "relu6": lambda g, x: _aten.hardtanh_backward(g, x, 0, 6),
    "hardswish": lambda g, x: _aten.hardswish_backward(g, x),
    # Torch's own backward pass has no derivative; it takes 1/6 in float32, whatever the type.
    "hardsigmoid": lambda g, x: g * ((x > -3) & (x < 3)) * 0.1666666716337204,
    "mish": lambda g, x: _aten.mish_backward(g, x),
    "gelu_tanh": lambda g, x: _aten.gelu_backward(g, x, approximate="tanh"),
}

MODULES: dict[type[nn.Module], str] = {
    nn.ReLU: "relu",
    nn.LeakyReLU: "leaky_relu",
    nn.SiLU: "silu",
    nn.GELU: "gelu",
    nn.Sigmoid: "sigmoid",
    nn.Tanh: "tanh",
    nn.ReLU6: "relu6",
    nn.Hardswish: "hardswish",
    nn.Hardsigmoid: "hardsigmoid",
    nn.Mish: "mish",
}
"""``torch.nn`` module type → the name used here of what it computes with its default arguments."""


def module_of(activation: str) -> nn.Module:
    """Return a new ``torch.nn`` module that computes the activation called ``activation``.

    Raises:
        ValueError: unknown activation.

    Example:
        >>> module_of("relu6"), module_of("gelu_tanh")
        (ReLU6(), GELU(approximate='tanh'))
    """
    known_activation(activation)
    if activation == "gelu_tanh":
        return nn.GELU(approximate="tanh")
    return next(cls for cls, name in MODULES.items() if name == activation)()


def activate(x: Tensor, activation: str | None, slope: float = 0.01) -> Tensor:
    """Apply an activation elementwise.

    Args:
        x: any shape.
        activation: a name in `ACTIVATIONS`; None returns ``x``.
        slope: the negative slope of ``"leaky_relu"``; the others ignore it. A number; but where the
            code is not scripted it may be the weight of a PReLU, (1,) or (C,), too.

    Returns:
        A tensor shaped as x.

    Raises:
        ValueError: unknown activation.
    """
    if torch.jit.is_scripting():  # type: ignore[attr-defined]
        return _scripted(x, activation, slope)
    else:
        if activation is None:
            return x
        if not isinstance(activation, str) or activation not in ACTIVATIONS:
            known_activation(activation)  # raises: an attribute of a layer can be set to anything
        if activation == "leaky_relu":
            return F.prelu(x, slope) if isinstance(slope, Tensor) else F.leaky_relu(x, slope)
        return ACTIVATIONS[activation](x)


def activation_gradient(
    g: Tensor, x: Tensor, activation: str | None, slope: float = 0.01
) -> Tensor:
    """Return the gradient of ``x`` where ``g`` is that of ``activate(x, activation, slope)``."""
    if activation is None:
        return g
    if activation == "leaky_relu":
        gradient: Tensor = _aten.leaky_relu_backward(g, x, slope, False)
        return gradient
    return _DERIVATIVES[activation](g, x)


def _scripted(x: Tensor, activation: str | None, slope: float) -> Tensor:
    """The same for `torch.jit.script`, which knows no dict of functions."""
    if activation is None:
        return x
    if activation == "relu":
        x = torch.relu(x)
    elif activation == "leaky_relu":
        x = F.leaky_relu(x, slope)
    elif activation == "silu":
        x = F.silu(x)
    elif activation == "gelu":
        x = F.gelu(x)
    elif activation == "sigmoid":
        x = torch.sigmoid(x)
    elif activation == "tanh":
        x = torch.tanh(x)
    elif activation == "relu6":
        x = F.relu6(x)
    elif activation == "hardswish":
        x = F.hardswish(x)
    elif activation == "hardsigmoid":
        x = F.hardsigmoid(x)
    elif activation == "mish":
        x = F.mish(x)
    elif activation == "gelu_tanh":
        x = F.gelu(x, approximate="tanh")
    return x


def known_activation(activation: str | None) -> str | None:
    """Return ``activation`` if it is ``None`` or known, else raise ``ValueError``."""
    return None if activation is None else known("activation", activation, ACTIVATIONS)
