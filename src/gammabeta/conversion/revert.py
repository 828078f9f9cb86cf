"""Turn gammabeta's layers in a model back into torch's."""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from typing import TypeVar

from torch import nn
from torch.nn.utils.parametrize import is_parametrized, type_before_parametrizations

from gammabeta.conversion.adopt import give_back, is_adopted
from gammabeta.conversion.become import become, recast, split
from gammabeta.conversion.families import TWINS
from gammabeta.conversion.report import Change, Conversion, Left, Report, label, tell
from gammabeta.conversion.swap import places
from gammabeta.layers.traits import is_ours, lineage
from gammabeta.names import known
from gammabeta.ops.activations import module_of
from gammabeta.statistics.arguments import check_callable, check_module
from gammabeta.statistics.freeze import is_frozen

_Module = TypeVar("_Module", bound=nn.Module)
# The first has a rule of its own, the others were not a person's.
_NOT_SETTINGS = ("activation", "fuses", "qualified_name")


def revert(model: _Module, *, fused: str = "error", report: Report | None = None) -> _Module:
    """Turn gammabeta's layers in ``model`` back into torch's: the inverse of `convert`.

    ``revert(convert(model))`` is ``model`` as it was: the same objects, classes, ``state_dict``,
    outputs and ``repr``, bit by bit. Adopted modules get their own classes back. A swap of
    families is not undone: a group norm becomes torch's group norm.

    Args:
        model: any module; it may itself be a layer to turn back. Changed in place.
        fused: how to handle a layer with an ``activation``, which torch's layer does not have.
            ``"error"``, or ``"split"``: it becomes an ``nn.Sequential`` of torch's layer and the
            activation's module, still the same object, whose ``state_dict`` keys gain a ``0.``.
            A ``residual`` argument cannot be split off: add it where the layer is called.
        report: as in `convert`.

    Returns:
        ``model``.

    Raises:
        ValueError: ``fused`` is not known; a layer has an activation and ``fused="error"``, or
            has one and cannot be split (it is frozen or parametrized). Then nothing is changed.
        TypeError: ``model`` is not a module, or ``report`` cannot be called.

    Warns:
        UserWarning: layers without a torch counterpart remain, and no ``report`` was given.

    Example:
        >>> from gammabeta import BatchNorm1d
        >>> revert(nn.Sequential(BatchNorm1d(4)))
        Sequential(
          (0): BatchNorm1d(4, eps=1e-05, momentum=0.1, affine=True, bias=True, \
track_running_stats=True)
        )
    """
    check_module(model)
    check_callable("report", report, "a function that is called with the Conversion")
    known("fused", fused, ("error", "split"))
    originals = {ours: theirs for theirs, ours in TWINS.items()}
    changes, conversion = [], Conversion()
    for names, module in places(model):
        cls = type_before_parametrizations(module)
        if is_adopted(module):
            returned = give_back(module)
            if isinstance(returned, str):
                conversion.left.append(Left(names, label(cls), returned))
            else:
                changes.append(returned)
                before = f"{label(cls)}, adopted"
                conversion.changes.append(Change(names, before, label(returned.cls)))
            continue
        theirs = originals.get(cls)
        if theirs is None or "forward" in module.__dict__:
            reason = _reason_not_reverted(module, cls)
            if reason:
                conversion.left.append(Left(names, label(cls), reason))
            continue
        activation = getattr(module, "activation", None)
        own = _declared(cls, theirs)
        after = label(theirs)
        if activation is None:
            changes.append(recast(module, theirs, without=own))
        else:
            _check_split(names[0], module, str(activation), fused)
            second = module_of(str(activation))
            changes.append(split(module, theirs, second, without=own))
            after = f"nn.Sequential({label(theirs)}, {label(type(second))})"
        notes = tuple(
            f"{key}={value!r} dropped"
            for key, value in module.__dict__.items()
            if key in own and key[0] != "_" and key not in _NOT_SETTINGS and value is not None
            if repr(value) != repr(getattr(cls, key, None))
        )
        conversion.changes.append(Change(names, label(cls), after, notes=notes))
    tell("revert", conversion, report, conversion.summary())
    become(changes)
    return model


def _reason_not_reverted(module: nn.Module, cls: type[nn.Module]) -> str:
    """Why a layer of gammabeta's, or made from one, stays; empty if it is neither."""
    if is_ours(cls) and "forward" in module.__dict__:
        return "its forward was replaced on the object"
    if is_ours(cls) and lineage(module):
        return f"torch.nn has no {cls.__name__}"
    if any(issubclass(cls, ours) for ours in TWINS.values()):
        return "a subclass of gammabeta's, which may do anything"
    return ""


def _check_split(name: str, module: nn.Module, activation: str, fused: str) -> None:
    """Raise unless the layer ``module``, which has an activation, may be split."""
    where = f"layer {name!r} has activation={activation!r}"
    if fused == "error":
        raise ValueError(
            f"{where}, which torch.nn.{type(module).__name__} does not have; "
            "fused='split' makes it a Sequential of both"
        )
    if is_frozen(module):
        raise ValueError(f"{where} and is frozen, so it cannot be split; unfreeze() it first")
    if is_parametrized(module) or module._parameters.keys() - {"weight", "bias"}:
        raise ValueError(
            f"{where} and parametrized or pruned parameters, so it cannot be split; make them "
            "plain parameters first"
        )


def _declared(ours: type[nn.Module], theirs: type[nn.Module]) -> set[str]:
    """The attributes that gammabeta's classes declare and torch's do not."""

    def names(classes: Iterable[type]) -> set[str]:
        found: set[str] = set()
        for cls in classes:
            found |= inspect.get_annotations(cls).keys()
            found |= {name for name, value in vars(cls).items() if not hasattr(value, "__get__")}
        return {name for name in found if not name.startswith("__")}

    return names(set(ours.__mro__) - set(theirs.__mro__)) - names(theirs.__mro__)
