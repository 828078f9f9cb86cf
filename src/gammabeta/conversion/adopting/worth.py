"""From which size on an adopted norm is faster by the kernels than by its own code."""

from __future__ import annotations

import torch
from torch import Tensor

from gammabeta import ops
from gammabeta.conversion.adopting.recipe import Recipe, layout

_NEVER = 2**62

# Elements with a gradient: contiguous, channels_last; and without: contiguous, channels_last.
_Least = tuple[int, int, int, int]

_LEAST: dict[str, _Least] = {
    "rms": (0, 0, 8192, 8192),
    "rms, 1 + γ": (0, 0, 16384, 16384),
    "layer by hand": (0, 0, 8192, 8192),
    "layer by hand, moved": (_NEVER, 8192, _NEVER, 16384),
    "layer": (2_000_000, 2_000_000, 2_000_000, 2_000_000),
    "layer, moved": (2_000_000, 2_000_000, _NEVER, 2_000_000),
    "group": (262144, 16384, 262144, 16384),
    "group, activation": (131072, 16384, 131072, 16384),
    "instance": (65536, 65536, 65536, 65536),
    "batch": (262144, 524288, 524288, 524288),
    "batch, relu": (32768, 65536, 131072, 65536),
    "batch, activation": (65536, 1_000_000, 1_000_000, 131072),
    "fixed": (_NEVER, _NEVER, 131072, 65536),
}
"""Measured on two threads and on one, float32, against the classes of transformers and against
timm's conventions. An autograd function in Python costs more than a few of torch's operators.

By hand: in torch's elementwise operators. Then also torch's own layer norm is faster. Moved: with
features in dim 1, which costs two copies where they are not last in memory. The backward pass of a
norm by fixed statistics is a product in torch, and more in the kernels, which know γ as learned."""


def worthwhile(recipe: Recipe, x: Tensor) -> bool:
    """Whether the kernels compute ``recipe`` of ``x`` faster than torch's operators.

    Example:
        >>> recipe = Recipe(ops.RMS, 1e-6)
        >>> with torch.no_grad():
        ...     worthwhile(recipe, torch.ones(2, 8)), worthwhile(recipe, torch.ones(1024, 8))
        (False, True)
    """
    index = 0 if torch.is_grad_enabled() else 2
    return x.numel() >= _LEAST[_style(recipe)][index + (layout(x) == "channels_last")]


def least(recipe: Recipe, trains: bool) -> int:
    """The number of elements below which ``recipe`` is not worth it in any memory layout."""
    index = 0 if trains else 2
    return min(_LEAST[_style(recipe)][index : index + 2])


def _style(recipe: Recipe) -> str:
    kind = recipe.kind
    if kind == ops.RMS:
        return "rms, 1 + γ" if recipe.offset else "rms"
    if kind == ops.LAYER:
        return f"layer{' by hand' * recipe.by_hand}{', moved' * recipe.moved}"
    if kind == ops.BATCH:
        if recipe.statistics == "fixed":
            return "fixed"
        known = recipe.activation == "relu"
        return "batch, relu" if known else f"batch{', activation' * bool(recipe.activation)}"
    return f"group{', activation' * bool(recipe.activation)}" if kind == ops.GROUP else kind
