"""What a function that ``forward`` calls does to the signal: one table, by the function's name.

``F.relu``, ``torch.relu``, ``Tensor.relu`` and ``Tensor.relu_`` are one function here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

PRODUCERS: dict[str, int] = {
    "linear": -1,
    "bilinear": -1,
    "embedding": -1,
    "embedding_bag": -1,
    "lstm": -1,
    "gru": -1,
    "rnn_tanh": -1,
    "rnn_relu": -1,
    **{f"conv{d}d": 1 for d in (1, 2, 3)},
    **{f"conv_transpose{d}d": 1 for d in (1, 2, 3)},
}
"""Functions that multiply by weights → the dim of their output that indexes features."""

PRODUCTS = frozenset({"addmm", "matmul", "mm", "bmm", "baddbmm", "einsum", "tensordot", "rmatmul"})
"""Products, which are layers if one factor is a parameter."""

ACTIVATIONS = frozenset(
    {
        *("relu", "relu6", "leaky_relu", "prelu", "rrelu", "elu", "celu", "selu", "gelu", "silu"),
        *("sigmoid", "logsigmoid", "tanh", "hardtanh", "hardswish", "hardsigmoid", "hardshrink"),
        *("softshrink", "tanhshrink", "mish", "softplus", "softsign", "threshold", "clamp_min"),
    }
)
"""Elementwise functions that networks use as activations."""

NORM_FUNCTIONS: dict[str, tuple[int, int, int]] = {
    "batch_norm": (3, 4, 1),
    "instance_norm": (3, 4, 1),
    "group_norm": (2, 3, 1),
    "layer_norm": (2, 3, -1),
    "rms_norm": (2, -1, -1),
}
"""Norms → the places of γ and β among their arguments (−1: none), and the features' dim."""

SUMS = frozenset({"add", "iadd", "radd"})

SOFTMAX = "softmax"
ATTENTION = "scaled_dot_product_attention"

PASSED_THROUGH = frozenset(
    {
        *("view", "reshape", "flatten", "unflatten", "permute", "transpose", "t", "contiguous"),
        *("squeeze", "unsqueeze", "to", "type_as", "float", "half", "bfloat16", "clone", "view_as"),
        *("dropout", "dropout1d", "dropout2d", "dropout3d", "alpha_dropout"),
        *("feature_alpha_dropout", "movedim", "swapaxes"),
    }
)
"""Functions whose output is their input for a reader: moved, cast, or thinned out."""


def name_of(function: Callable[..., Any]) -> str:
    """Return the name of ``function`` without the marks of a variant.

    Example:
        >>> import torch
        >>> name_of(torch.Tensor.relu_), name_of(torch.Tensor.__iadd__), name_of(torch.relu)
        ('relu', 'iadd', 'relu')
    """
    name = getattr(function, "__name__", "")
    return name.strip("_")


def argument(args: tuple[Any, ...], kwargs: dict[str, Any], place: int, *names: str) -> Any:
    """Return an argument given by position or by one of its names; None if it is missing."""
    if 0 <= place < len(args):
        return args[place]
    return next((kwargs[name] for name in names if name in kwargs), None)


def first_tensor(value: Any) -> Tensor | None:
    """Return the first tensor in an output: itself, or that of a tuple, dict or data class."""
    for _ in range(4):
        if isinstance(value, Tensor):
            return value
        if isinstance(value, dict):
            value = next(iter(value.values()), None)
        elif isinstance(value, (tuple, list)):
            value = value[0] if value else None
        else:
            return None
    return None
