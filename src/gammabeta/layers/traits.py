"""What is this module? The one place that says of any module whether and how it normalizes.

Of torch's layers and gammabeta's the class says it: `FAMILIES` is the table. Of a subclass with a
``forward`` of its own, and of a norm that derives from none of torch's, a `probe` finds it out,
once for each class and its settings. What stays unknown is a stranger, with the reason: whoever
passes over it can say so.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm
from torch.nn.utils.parametrize import type_before_parametrizations

from gammabeta import layers
from gammabeta.layers.findings import finding_of
from gammabeta.layers.formulas import over
from gammabeta.layers.frozen import FrozenBatchNorm
from gammabeta.layers.lstm import NormalizedLSTM
from gammabeta.layers.probe import (
    NORMS,
    Finding,
    candidate,
    feature_dim,
    reason_untried,
)
from gammabeta.layers.running import Running, running, synchronizes

__all__ = [
    "FAMILIES",
    "NORMS",
    "TWINS",
    "Running",
    "Traits",
    "affine",
    "axes",
    "channel_dim",
    "has_own_forward",
    "hides_its_input",
    "is_ours",
    "lineage",
    "mini_batches",
    "running",
    "synchronizes",
    "traits",
]

Type = type[nn.Module]

_STEMS = {
    "batch": "BatchNorm",
    "instance": "InstanceNorm",
    "batch-renorm": "BatchRenorm",
    "ghost": "GhostBatchNorm",
}
_SINGLE = {"group": "GroupNorm", "layer": "LayerNorm", "rms": "RMSNorm"}
_DIMS = (1, 2, 3)


def _members(names: dict[str, int | None]) -> dict[Type, int | None]:
    """Torch's class and gammabeta's of each name → number of spatial dims (None: any)."""
    found = {(home, name): dims for name, dims in names.items() for home in (nn, layers)}
    members = {getattr(home, name, None): dims for (home, name), dims in found.items()}
    return {cls: dims for cls, dims in members.items() if cls is not None}


FAMILIES: dict[str, dict[Type, int | None]] = {
    **{family: _members({f"{stem}{d}d": d for d in _DIMS}) for family, stem in _STEMS.items()},
    **{family: _members({name: None}) for family, name in _SINGLE.items()},
}
"""Family → its classes → the number of spatial dims each takes, None for any.

To add a family whose layers are ``Something1d``, ``2d`` and ``3d``, with batch norm's first
arguments, add one entry to `_STEMS`. gammabeta's own classes are found by torch's names."""
FAMILIES["batch"][nn.SyncBatchNorm] = None

_LINEAGE: dict[type, str] = {
    **{cls: family for family, members in FAMILIES.items() for cls in members},
    _BatchNorm: "batch",
    _InstanceNorm: "instance",
    FrozenBatchNorm: "frozen",
    layers.MaskedBatchNorm1d: "masked",
    layers.FilterResponseNorm2d: "filter-response",
    layers.DynamicTanh: "dynamic-tanh",
    NormalizedLSTM: "recurrent",
}
"""A class → the family of whatever derives from it."""

TWINS: dict[Type, Type] = {
    theirs: getattr(layers, name)
    for name in layers.__all__
    if isinstance(theirs := getattr(nn, name, None), type)
    and issubclass(getattr(layers, name), theirs)
}
"""Torch's class → gammabeta's of the same name."""

_NAMED_A_NORM = re.compile(r"Norm(?!al|ed)")


@dataclass(frozen=True)
class Traits:
    """What a module is, as far as normalization is concerned.

    Attributes:
        normalizes: whether its x̂ is known: it computes what one of `NORMS` does, or a formula.
        dim: the dim of its input that indexes the features: −1, 1, or 0 for an instance norm's
            input without a batch dim.
        activation: the name of the activation it applies to what it has normalized, or None.
        stranger: why it is not known what a subclass of `NORMS`, or what is called a norm,
            computes; "" where it is known, and for modules that are no norms.
        family: a name of `FAMILIES`, or "frozen", "masked", "filter-response", "dynamic-tanh",
            "recurrent": the one its class derives from, also if it is a stranger, or the one
            whose formula it computes; "" if there is none.
        lineage: every family its class derives from, the nearest first.
        exact: whether its class is in the table of `FAMILIES`, with the forward it was born with.
        twin: of torch's class gammabeta's, and the reverse; None if there is none, and for
            subclasses.
        finding: what a probe found, where there was one.
    """

    normalizes: bool
    dim: int = 1
    activation: str | None = None
    stranger: str = ""
    family: str = ""
    lineage: tuple[str, ...] = ()
    exact: bool = False
    twin: Type | None = None
    finding: Finding | None = None


_OTHER = Traits(False)


def traits(module: nn.Module, x: Tensor | None = None) -> Traits:
    """Say what ``module`` is.

    Args:
        module: any module. It is not called and not changed; a copy of it may be.
        x: its input, where there is one; without it, an instance norm's has a batch dim.

    Example:
        >>> traits(nn.GroupNorm(2, 4)).normalizes, traits(nn.Linear(4, 4)).normalizes
        (True, False)
        >>> traits(nn.GroupNorm(2, 4)).twin
        <class 'gammabeta.layers.group.GroupNorm'>
        >>> norm = nn.LayerNorm(4)
        >>> norm.forward = lambda x: 2 * x
        >>> traits(norm).stranger
        'LayerNorm has a forward of its own, and does not compute the same as LayerNorm'
    """
    its = lineage(module)
    if not its:
        return _written_by_hand(module)
    cls, family, own = type_before_parametrizations(module), its[0], has_own_forward(module)
    exact = not own and cls in FAMILIES.get(family, ())
    twin = None if own else TWINS.get(cls) or _ORIGINALS.get(cls)
    activation = getattr(module, "activation", None)
    if not isinstance(module, NORMS):  # no formula is known
        return Traits(False, 1, activation, "", family, its, exact, twin)
    if not own:
        return Traits(True, _dim(module, x), activation, "", family, its, exact, twin)
    finding = finding_of(module)
    if finding is not None:
        family = family if finding.formula is None else finding.formula.family
        return Traits(True, finding.dim, finding.activation, "", family, its, finding=finding)
    base = next(c for c in cls.__mro__ if _is_home(c.__module__))
    why = reason_untried(module) or f"does not compute the same as {base.__name__}"
    stranger = f"{cls.__name__} has a forward of its own, and {why}"
    return Traits(False, stranger=stranger, family=family, lineage=its)


_ORIGINALS = {ours: theirs for theirs, ours in TWINS.items()}


def lineage(module: nn.Module) -> tuple[str, ...]:
    """Return every family that the class of ``module`` derives from, the nearest first.

    It is not a promise of what the module computes, and nothing is tried.

    Example:
        >>> lineage(layers.GhostBatchNorm1d(2)), lineage(nn.ReLU())
        (('ghost', 'batch'), ())
    """
    classes = type_before_parametrizations(module).__mro__
    return tuple(dict.fromkeys(_LINEAGE[cls] for cls in classes if cls in _LINEAGE))


def _written_by_hand(module: nn.Module) -> Traits:
    """Traits of a module that derives from none of the classes known."""
    try:
        if not candidate(module):
            return _OTHER
    except Exception:  # of a module that is put together in a way of its own
        return _OTHER
    finding = finding_of(module)
    if finding is not None and finding.formula is not None:
        family = finding.formula.family
        return Traits(True, finding.dim, finding.activation, "", family, finding=finding)
    name = type(module).__name__
    if _NAMED_A_NORM.search(name) is None:
        return _OTHER
    why = reason_untried(module) or "does not match a known formula"
    return Traits(False, stranger=f"{name} is no subclass of torch's layers, and {why}")


def has_own_forward(module: nn.Module) -> bool:
    """Whether ``module.forward`` was written by neither torch nor gammabeta.

    Example:
        >>> class Renamed(nn.BatchNorm2d):
        ...     pass
        >>> has_own_forward(Renamed(4))
        False
    """
    if "forward" in module.__dict__:
        return True
    home = next((cls for cls in type(module).__mro__ if "forward" in vars(cls)), nn.Module)
    return not _is_home(home.__module__)


def is_ours(cls: Type) -> bool:
    """Whether gammabeta defines ``cls`` itself."""
    return cls.__module__.split(".")[0] == "gammabeta"


def channel_dim(norm: nn.Module, x: Tensor) -> int:
    """Return the dim of ``x`` that indexes ``norm``'s features: −1, 1, or 0 without a batch dim."""
    return traits(norm, x).dim


def axes(norm: nn.Module, x: Tensor) -> tuple[int, ...]:
    """Return the dims of ``x`` that each statistic of ``norm`` is taken over, counted from 0.

    They are those of training: a batch norm's include the batch, a ghost batch norm's its virtual
    batches, a group norm's all channels, which it cuts into groups.

    Raises:
        TypeError: it is not known what ``norm`` computes.

    Example:
        >>> import torch
        >>> x = torch.ones(2, 4, 5)
        >>> [axes(norm, x) for norm in (nn.BatchNorm1d(4), nn.InstanceNorm1d(4), nn.LayerNorm(5))]
        [(0, 2), (2,), (2,)]
    """
    what = traits(norm, x)
    if not what.normalizes:
        raise TypeError(
            f"norm is a {type(norm).__name__}; {what.stranger or 'it is not a normalization layer'}"
        )
    shape: Any = getattr(norm, "normalized_shape", None)
    if what.family in ("layer", "rms") and what.dim == -1 and isinstance(shape, tuple):
        return tuple(range(x.dim() - len(shape), x.dim()))
    if what.dim == 0:  # an instance norm's input without a batch dim
        return tuple(range(1, x.dim()))
    return over(what.family, x.dim(), what.dim)


def affine(norm: nn.Module) -> tuple[Tensor | None, Tensor | None]:
    """Return γ and β of a module that normalizes, whatever it calls them; None where it has none.

    Each has one value a feature along `channel_dim` (or `torch.nn.LayerNorm`'s shape), or one in
    all. They are what the module's own parameters give now, and share their memory but for a γ
    that is a parameter plus 1.

    Example:
        >>> gamma, beta = affine(nn.RMSNorm(2))
        >>> gamma is not None, beta
        (True, None)
    """
    finding = traits(norm).finding
    if finding is not None and finding.formula is not None:
        return finding.formula.affine(norm)
    return getattr(norm, "weight", None), getattr(norm, "bias", None)


def hides_its_input(layer: nn.Module) -> bool:
    """Whether ``layer`` may normalize something other than `mini_batches` says.

    It does not if its ``forward`` is torch's or gammabeta's, or if it says in ``mini_batches``,
    defined together with ``forward`` or later, what it normalizes.

    Example:
        >>> norm = nn.BatchNorm1d(4)
        >>> norm.forward = lambda x: type(norm).forward(norm, x.transpose(1, 2)).transpose(1, 2)
        >>> hides_its_input(norm), hides_its_input(nn.BatchNorm1d(4))
        (True, False)
    """
    # A subclass that overrides ``forward`` only inherits a ``mini_batches`` that may not fit.
    return has_own_forward(layer) and _depth(layer, "mini_batches") > _depth(layer, "forward")


def _depth(layer: nn.Module, name: str) -> int:
    """How far up the classes ``name`` is defined; −1 on the object itself."""
    if name in layer.__dict__:
        return -1
    classes = type(layer).__mro__
    return next((i for i, cls in enumerate(classes) if name in vars(cls)), len(classes))


def mini_batches(
    layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Iterable[object]:
    """Return what a layer called with ``args`` and ``kwargs`` normalizes together.

    It is the layer's input, mostly. A layer that cuts its input, or leaves values out of it, says
    what it normalizes in a method ``mini_batches``, called as ``forward`` is, that returns tensors
    (N, C) or (N, C, ...).
    """
    own: Any = getattr(layer, "mini_batches", None)
    if own is None:
        return [args[0] if args else kwargs.get("input", kwargs.get("x"))]
    cut: Iterable[object] = own(*args, **kwargs)
    return cut


def _dim(norm: Any, x: Tensor | None) -> int:
    if x is not None and isinstance(norm, _InstanceNorm):
        return 0 if x.dim() == norm._get_no_batch_dim() else 1  # type: ignore[no-untyped-call]
    return feature_dim(norm)


def _is_home(module: str) -> bool:
    return module.startswith(("torch.nn.modules.", "gammabeta.layers."))
