"""The activations a layer can apply after it normalizes, by PyTorch's names."""

# No `from __future__ import annotations`: `torch.jit.script` reads the types themselves.
from collections.abc import Callable

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
}
"""Name → function. ``None`` stands for no activation."""

_aten = torch.ops.aten
_DERIVATIVES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "relu": lambda g, x: _aten.threshold_backward(g, x, 0),
    "leaky_relu": lambda g, x: _aten.leaky_relu_backward(g, x, 0.01, False),
    "silu": lambda g, x: _aten.silu_backward(g, x),
    "gelu": lambda g, x: _aten.gelu_backward(g, x),
    "sigmoid": lambda g, x: _aten.sigmoid_backward(g, x.sigmoid()),
    "tanh": lambda g, x: _aten.tanh_backward(g, x.tanh()),
}

MODULES: dict[type[nn.Module], str] = {
    nn.ReLU: "relu",
    nn.LeakyReLU: "leaky_relu",
    nn.SiLU: "silu",
    nn.GELU: "gelu",
    nn.Sigmoid: "sigmoid",
    nn.Tanh: "tanh",
}
"""``torch.nn`` module type → the name used here."""


def activate(x: Tensor, activation: str | None) -> Tensor:
    """Apply the activation called ``activation`` to ``x``, elementwise; ``None`` returns ``x``."""
    if torch.jit.is_scripting():  # type: ignore[attr-defined]
        return _scripted(x, activation)
    else:
        if activation is None:
            return x
        if not isinstance(activation, str) or activation not in ACTIVATIONS:
            known_activation(activation)  # raises: an attribute of a layer can be set to anything
        return ACTIVATIONS[activation](x)


def activation_gradient(g: Tensor, x: Tensor, activation: str | None) -> Tensor:
    """Return the gradient of ``x`` where ``g`` is that of ``activate(x, activation)``."""
    return g if activation is None else _DERIVATIVES[activation](g, x)


def _scripted(x: Tensor, activation: str | None) -> Tensor:
    """The same for `torch.jit.script`, which knows no dict of functions."""
    if activation is None:
        return x
    if activation == "relu":
        x = torch.relu(x)
    elif activation == "leaky_relu":
        x = F.leaky_relu(x)
    elif activation == "silu":
        x = F.silu(x)
    elif activation == "gelu":
        x = F.gelu(x)
    elif activation == "sigmoid":
        x = torch.sigmoid(x)
    elif activation == "tanh":
        x = torch.tanh(x)
    return x


def known_activation(activation: str | None) -> str | None:
    """Return ``activation`` if it is ``None`` or known, else raise ``ValueError``."""
    return None if activation is None else known("activation", activation, ACTIVATIONS)
