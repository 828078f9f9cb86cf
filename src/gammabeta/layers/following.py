"""Which operation of torch is an activation or a sum that a norm's kernel can do in its own pass.

`gammabeta.layers.deferred` asks this of operations as they are called, `gammabeta.conversion.pairs`
of the nodes of a traced graph.
"""

from __future__ import annotations

import inspect
import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gammabeta.ops.activations import ACTIVATIONS

PRELU = "prelu"
"""The kernels' leaky ReLU with a slope that is learned, and gets a gradient."""


class Activation(NamedTuple):
    """An activation as the kernels know it.

    Attributes:
        name: of `gammabeta.ops.activations.ACTIVATIONS`, or `PRELU`.
        slope: negative slope of a leaky ReLU, the weight of a PReLU; 0.01 for all others.
        inplace: whether it overwrites its input.
    """

    name: str
    slope: Any = 0.01
    inplace: bool = False


_Rule = Callable[..., "Activation | None"]


def _simple(name: str, inplace: bool = False) -> _Rule:
    def rule(inplace: bool = inplace) -> Activation:
        return Activation(name, inplace=inplace)

    return rule


def _leaky(negative_slope: float = 0.01, inplace: bool = False) -> Activation | None:
    usual = type(negative_slope) in (float, int)
    return Activation("leaky_relu", float(negative_slope), inplace) if usual else None


def _leaky_(negative_slope: float = 0.01) -> Activation | None:
    return _leaky(negative_slope, True)


def _prelu(weight: Any) -> Activation:
    return Activation(PRELU, weight)


def _gelu(approximate: str = "none") -> Activation | None:
    name = {"none": "gelu", "tanh": "gelu_tanh"}.get(approximate)
    return None if name is None else Activation(name)


def _hardtanh(
    min_val: float = -1.0, max_val: float = 1.0, inplace: bool = False
) -> Activation | None:
    return Activation("relu6", inplace=inplace) if (min_val, max_val) == (0, 6) else None


_RULES: dict[Any, _Rule] = {
    F.relu: _simple("relu"),
    torch.relu: _simple("relu"),
    Tensor.relu: _simple("relu"),
    torch.relu_: _simple("relu", True),
    Tensor.relu_: _simple("relu", True),
    F.relu6: _simple("relu6"),
    F.hardtanh: _hardtanh,
    F.leaky_relu: _leaky,
    F.leaky_relu_: _leaky_,
    F.prelu: _prelu,
    torch.prelu: _prelu,
    Tensor.prelu: _prelu,
    F.silu: _simple("silu"),
    F.gelu: _gelu,
    F.hardswish: _simple("hardswish"),
    F.hardsigmoid: _simple("hardsigmoid"),
    F.mish: _simple("mish"),
    F.sigmoid: _simple("sigmoid"),
    torch.sigmoid: _simple("sigmoid"),
    Tensor.sigmoid: _simple("sigmoid"),
    torch.sigmoid_: _simple("sigmoid", True),
    Tensor.sigmoid_: _simple("sigmoid", True),
    F.tanh: _simple("tanh"),
    torch.tanh: _simple("tanh"),
    Tensor.tanh: _simple("tanh"),
    torch.tanh_: _simple("tanh", True),
    Tensor.tanh_: _simple("tanh", True),
}
"""Function or method → what its arguments but the input make of it."""

_KNOWN = frozenset((*ACTIVATIONS, PRELU))

SUMS = {torch.add, Tensor.add, Tensor.add_, operator.add, operator.iadd}
"""The functions that add two tensors; in place where `ADDS_IN_PLACE`."""

ADDS_IN_PLACE = {Tensor.add_, operator.iadd}

PRODUCTS = {torch.mul, Tensor.mul, operator.mul}
"""The functions that multiply two tensors; x · sigmoid(x) is SiLU."""

_MODULES: dict[type[nn.Module], Callable[[Any], Activation | None]] = {
    nn.ReLU: lambda m: Activation("relu", inplace=m.inplace),
    nn.ReLU6: lambda m: Activation("relu6", inplace=m.inplace),
    nn.Hardtanh: lambda m: _hardtanh(m.min_val, m.max_val, m.inplace),
    nn.LeakyReLU: lambda m: _leaky(m.negative_slope, m.inplace),
    nn.PReLU: lambda m: Activation(PRELU, m.weight),
    nn.SiLU: lambda m: Activation("silu", inplace=m.inplace),
    nn.GELU: lambda m: _gelu(m.approximate),
    nn.Hardswish: lambda m: Activation("hardswish", inplace=m.inplace),
    nn.Hardsigmoid: lambda m: Activation("hardsigmoid", inplace=m.inplace),
    nn.Mish: lambda m: Activation("mish", inplace=m.inplace),
    nn.Sigmoid: lambda m: Activation("sigmoid"),
    nn.Tanh: lambda m: Activation("tanh"),
}
"""Torch's module → the activation that it applies with its settings."""


def activation_of(
    function: Any, others: Sequence[Any] = (), options: Mapping[str, Any] | None = None
) -> Activation | None:
    """Return the activation that a call of ``function`` applies; None if no kernel has it.

    Args:
        function: what is called, such as `torch.nn.functional.relu` or `torch.Tensor.relu_`.
        others: its positional arguments but the first, the input.
        options: its keyword arguments.

    Example:
        >>> activation_of(F.relu, options={"inplace": True})
        Activation(name='relu', slope=0.01, inplace=True)
        >>> activation_of(torch.exp) is None
        True
    """
    try:
        rule = _RULES.get(function)
        found = None if rule is None else rule(*others, **options or {})
    except TypeError:  # unhashable, or arguments that it does not take: torch says so itself
        return None
    return None if found is None or found.name not in _KNOWN else found


def module_activation(module: nn.Module) -> Activation | None:
    """Return the activation that ``module`` is; None if no kernel has it.

    Example:
        >>> module_activation(nn.LeakyReLU(0.2))
        Activation(name='leaky_relu', slope=0.2, inplace=False)
    """
    read = None if "forward" in module.__dict__ else _MODULES.get(type(module))
    found = None if read is None else read(module)
    return None if found is None or found.name not in _KNOWN else found


def method(name: str) -> Any:
    """Return the method of tensors called ``name``, None if there is none."""
    return inspect.getattr_static(Tensor, name, None) if name else None
