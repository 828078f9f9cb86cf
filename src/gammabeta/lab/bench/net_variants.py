"""A network as it is, converted, compiled, and without its norms; the source is never traced."""

from __future__ import annotations

import copy
from collections.abc import Callable

from torch import nn
from torch.nn.utils.parametrize import type_before_parametrizations

import gammabeta
from gammabeta.conversion.swap import looks_like_a_norm
from gammabeta.lab.bench.rivals import Absent

VARIANTS = {
    "torch": "torch's layers",
    "compile": "torch's layers under torch.compile",
    "converted": "gammabeta.convert(model)",
    "lean": 'gammabeta.convert(model, memory="lean")',
    "unfused": "gammabeta.convert(model, fuse=False)",
    "bare": "each normalization layer replaced by torch.nn.Identity",
}
"""Name → what it is."""


def variant(name: str, model: nn.Module) -> nn.Module:
    """Return a copy of ``model`` in the form ``name``.

    Args:
        name: of `VARIANTS`.
        model: any module; unchanged.

    Raises:
        Absent: ``model`` itself is a norm, so that nothing is left without it.

    Example:
        >>> model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
        >>> type(variant("converted", model)[1]).__module__, variant("bare", model)[1]
        ('gammabeta.layers.batch', Identity())
    """
    return _MAKERS[name](model)


def bare(model: nn.Module) -> nn.Module:
    """Replace every normalization layer in ``model`` by the identity, in place.

    Convolutions get no bias in exchange. What a network normalizes without a layer, such as
    by `torch.nn.functional.layer_norm`, remains.

    Raises:
        Absent: ``model`` itself is a norm.
    """
    for path, module in list(model.named_modules(remove_duplicate=False)):
        if looks_like_a_norm(module, type_before_parametrizations(module)):
            if not path:
                raise Absent("the model itself is a normalization layer")
            model.set_submodule(path, nn.Identity())
    return model


def _compile(model: nn.Module) -> nn.Module:
    model = copy.deepcopy(model)
    model.compile(dynamic=False)
    return model


def converted(model: nn.Module, *, memory: str | None = None, fuse: bool = True) -> nn.Module:
    """Return a converted copy of ``model``; nothing is said of what could not be converted."""
    return gammabeta.convert(copy.deepcopy(model), memory=memory, fuse=fuse, report=_nothing)


_MAKERS: dict[str, Callable[[nn.Module], nn.Module]] = {
    "torch": copy.deepcopy,
    "compile": _compile,
    "converted": converted,
    "lean": lambda model: converted(model, memory="lean"),
    "unfused": lambda model: converted(model, fuse=False),
    "bare": lambda model: bare(copy.deepcopy(model)),
}


def _nothing(_: object) -> None:
    """Take a report and say nothing."""
