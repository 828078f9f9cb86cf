"""Describe a layer of one family, and build the layer of another that takes its place.

Two sorts: *channel* families normalize (N, C, ...) and have γ and β for each of C channels; *shape*
families normalize the last dims and have γ and β of their shape. A class is a member of a family by
being one of the classes listed in `gammabeta.layers.traits.FAMILIES`, exactly; a subclass may do
anything.
"""

from __future__ import annotations

import inspect
import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import type_before_parametrizations

from gammabeta.layers.epilogue import Epilogue
from gammabeta.layers.traits import FAMILIES, NORMS, TWINS

__all__ = [
    "FAMILIES",
    "NORMS",
    "TWINS",
    "Norm",
    "OneValueGroupError",
    "build",
    "describe",
    "family_of",
]

Type = type[nn.Module]

_OLD_LAYERS = frozenset(
    {"num_features", "num_channels", "num_groups", "normalized_shape", "affine"}
    | {"elementwise_affine", "bias", "device", "dtype"}
)
"""Arguments that follow from the layer a new one replaces."""


class OneValueGroupError(ValueError):
    """The layer asked for would normalize single values: its output would be β for any input."""


@dataclass(frozen=True)
class Norm:
    """What of a layer its successor in another family is built from.

    Attributes:
        family: its family's name.
        dims: spatial dims it takes, or None if any.
        channels: C for a channel family, else None.
        shape: the normalized shape for a shape family, else None.
        eps: ε, or None for the machine epsilon.
        weight, bias: whether it has γ and β.
        activation: its fused activation, or None.
        device, dtype: of its tensors; None where it has none.
    """

    family: str
    dims: int | None
    channels: int | None
    shape: tuple[int, ...] | None
    eps: float | None
    weight: bool
    bias: bool
    activation: str | None
    device: torch.device | None
    dtype: torch.dtype | None


def family_of(module: nn.Module) -> str | None:
    """Return the name of the family ``module``'s class is a member of, or None.

    Example:
        >>> family_of(nn.SyncBatchNorm(4)), family_of(nn.ReLU())
        ('batch', None)
    """
    cls = type_before_parametrizations(module)
    return next((family for family, members in FAMILIES.items() if cls in members), None)


def describe(module: Any, family: str) -> Norm:
    """Describe ``module``, a member of ``family``."""
    tensors: list[Tensor] = [*module.parameters(), *module.buffers()]
    floating = [tensor for tensor in tensors if tensor.is_floating_point()]
    shape = tuple(module.normalized_shape) if family in ("layer", "rms") else None
    channels = None
    if shape is None:
        channels = module.num_channels if family == "group" else module.num_features
    return Norm(
        family=family,
        dims=FAMILIES[family][type_before_parametrizations(module)],
        channels=channels,
        shape=shape,
        eps=module.eps,
        weight=module.weight is not None,
        bias=getattr(module, "bias", None) is not None,
        activation=getattr(module, "activation", None),
        device=floating[0].device if floating else None,
        dtype=floating[0].dtype if floating else None,
    )


def build(
    norm: Norm, to: str, *, groups: int, exact: bool, dims: int | None, options: dict[str, Any]
) -> nn.Module:
    """Build the layer of family ``to`` that takes the place of ``norm``.

    Args:
        norm: the layer it replaces.
        to: a name in `FAMILIES`.
        groups: G, for ``"group"``.
        exact: whether a ``groups`` that does not divide C is an error; else the largest divisor
            of C below it is used. A group never has a single channel: where it would, the
            largest divisor with two channels or more per group is used.
        dims: spatial dims of the input, where the class to build depends on them and ``norm``
            does not say.
        options: more arguments of the new class.

    Returns:
        A new layer with ε, device, dtype and activation of ``norm``, and with a γ and β where
        ``norm`` has them.

    Raises:
        OneValueGroupError: the new layer would normalize single values.
        ValueError: ``norm`` has no such successor; the message says why and what has.
        TypeError: an option that the new class does not have.
    """
    arguments: dict[str, Any] = {"device": norm.device, "dtype": norm.dtype}
    if norm.eps is not None:
        arguments["eps"] = norm.eps
    if norm.shape is not None:
        if to not in ("layer", "rms"):
            raise ValueError(
                f"normalizes the last dims, {list(norm.shape)}, but a {to} norm normalizes dim 1, "
                "the channels; use to='layer' or to='rms'"
            )
        if math.prod(norm.shape) == 1:
            raise OneValueGroupError(
                f"normalizes {list(norm.shape)}, a single value, of which a {to} norm would "
                "keep at most the sign"
            )
        cls = TWINS[nn.LayerNorm] if to == "layer" else TWINS[nn.RMSNorm]
        arguments |= {"normalized_shape": norm.shape, "elementwise_affine": norm.weight}
    elif to == "rms":
        raise ValueError(
            "normalizes dim 1, the channels, but RMSNorm normalizes the last dims; use "
            "to='layer' or to='group'"
        )
    elif to in ("group", "layer"):
        if norm.channels == 1:
            raise OneValueGroupError(
                f"has 1 channel: for inputs with one position a {to} norm would normalize a "
                "single value, and its output would always be β"
            )
        cls = TWINS[nn.GroupNorm]
        number = 1 if to == "layer" else _groups(norm.channels or 0, groups, exact)
        arguments |= {"num_groups": number, "num_channels": norm.channels, "affine": norm.weight}
    else:
        if to == "instance" and norm.family != "instance" and norm.dims == 1 and dims != 1:
            raise OneValueGroupError(
                "may get input without positions, (N, C), which leaves an instance norm a single "
                "value to normalize; pass dims=1 if its input is always (N, C, L)"
            )
        cls = _of_dims(to, norm.dims if norm.dims is not None else dims)
        arguments |= {"num_features": norm.channels, "affine": norm.weight}
    if to != "rms":
        arguments["bias"] = norm.bias
    if norm.activation is not None:
        if not issubclass(cls, Epilogue):
            raise ValueError(
                f"has activation={norm.activation!r}, which {cls.__name__} cannot apply"
            )
        arguments["activation"] = norm.activation
    _check_options(cls, options)
    return cls(**arguments | options)


def _check_options(cls: Type, options: dict[str, Any]) -> None:
    """Raise unless ``options`` are arguments of ``cls`` that do not say what the old layer says."""
    free = [name for name in inspect.signature(cls).parameters if name not in _OLD_LAYERS]
    for option in options:
        if option in _OLD_LAYERS:
            raise TypeError(f"{option}= cannot be given: it is taken from the old layer")
        if option not in free:
            raise TypeError(f"{option!r} is not an argument of {cls.__name__}; it has {free}")
        value = options[option]
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if option in ("eps", "momentum") and not number and value is not None:
            raise TypeError(f"{option}={value!r} is of type {type(value).__name__}; give a number")


def _of_dims(family: str, dims: int | None) -> Type:
    """The class of a family for a number of spatial dims, gammabeta's if there is one."""
    fitting = [cls for cls, its in FAMILIES[family].items() if its is not None and its == dims]
    if not fitting:
        raise ValueError(
            f"does not say how many spatial dims its input has, but a {family} norm needs "
            "the number; give dims=1, 2 or 3"
        )
    return fitting[-1]  # torch's comes first


def _groups(channels: int, groups: int, exact: bool) -> int:
    """The number of groups for ``channels`` channels, two at least; no group has only one."""
    fit = next(g for g in range(min(groups, channels // 2), 0, -1) if channels % g == 0)
    if channels % groups and exact:
        raise ValueError(
            f"has {channels} channels, not a multiple of groups={groups}; use groups={fit}, or "
            "exact=False to choose the largest divisor for each layer"
        )
    return fit
