"""Swap a model's normalization layers: for gammabeta's twins and back, or for another family."""

from __future__ import annotations

import inspect
import logging
import warnings
from collections.abc import Callable, Iterable
from typing import Any, SupportsIndex, TypeVar

from torch import nn
from torch.nn.utils.parametrize import is_parametrized, type_before_parametrizations

from gammabeta.conversion.become import Becoming, become, recast, split
from gammabeta.conversion.families import FAMILIES, NORMS, TWINS
from gammabeta.conversion.report import Change, Conversion, Left, label
from gammabeta.conversion.swap import is_ours, places, plan_swaps, reason_left
from gammabeta.kernels.activations import MODULES
from gammabeta.layers.epilogue import Epilogue
from gammabeta.layers.guard import guard_statistics
from gammabeta.layers.lean import MEMORIES, Lean
from gammabeta.layers.lstm import NormalizedLSTM
from gammabeta.names import known
from gammabeta.statistics.freeze import is_frozen

_Module = TypeVar("_Module", bound=nn.Module)
_Report = Callable[[Conversion], object]
_ACTIVATIONS = {name: cls for cls, name in MODULES.items()}

_log = logging.getLogger(__name__)
_NOT_SETTINGS = ("activation", "qualified_name")  # has a rule of its own; was not a person's
_USUAL_OF = {"rms": ("layer",), "batch": ("group", "instance")}
"""What is swapped for a family where ``of`` does not say; batch norm for all others."""


def convert(
    model: _Module,
    to: str | None = None,
    *,
    of: str | Iterable[str] | None = None,
    groups: int = 32,
    exact: bool = True,
    dims: int | None = None,
    memory: str | None = None,
    report: _Report | None = None,
    **options: Any,
) -> _Module:
    """Swap the normalization layers of ``model`` for gammabeta's twins, or for another family.

    Every layer stays the object it is and becomes one of another class. So whatever holds on to
    it goes on doing so: parents, a module in two places, hooks of all kinds, optimizers (the
    parameters are the same objects), ``requires_grad``, parametrizations, attributes a person
    gave it, its mode, dtype and device. All layers are swapped, or none if an error is raised.

    **Twins** (``to=None``). Each of torch's layers becomes gammabeta's of the same name: same
    ``state_dict``, same numbers. Subclasses of torch's layers are left alone, for they may do
    anything; so are layers whose ``forward`` was replaced on the object.

    **Families** (``to="group"`` and the like). Layers of the families ``of`` become layers of
    another: for a batch of one, for a recurrent net, where statistics of a batch do harm. γ and β
    are kept; no parameter is made, so that no optimizer misses one. What cannot be carried over
    is dropped and said.

    Args:
        model: any module; it may itself be a layer to swap. Changed in place.
        to: None for twins, or ``"batch"``, ``"instance"``, ``"group"``, ``"layer"``, ``"rms"``,
            and ``"batch-renorm"`` or ``"ghost"`` where gammabeta has them. Of a layer of
            channels, ``"layer"`` makes ``GroupNorm(1, C)``, layer norm over (C, ...) with its γ
            and β per channel.
        of: the family or families to swap; None for ``"layer"`` where ``to="rms"``, ``"group"``
            and ``"instance"`` where ``to="batch"``, else ``"batch"``.
        groups: G of group norm.
        exact: whether a layer whose channels ``groups`` does not divide is an error; if not, it
            gets the largest number of groups below ``groups`` that divides them.
        dims: spatial dims of the input, 1, 2 or 3, where a layer that takes any becomes one that
            does not (``"group"`` to ``"batch"``).
        memory: ``"lean"`` or ``"default"`` for every batch norm of gammabeta's that the model then
            has; see `BatchNorm1d`. None leaves each as it is.
        report: called with a `Conversion` that lists every change: ``report=print`` prints it,
            ``report=reports.append`` keeps it.
        **options: more arguments for the new layers, such as ``eps=1e-6`` or
            ``virtual_batch_size=16``; else ε is the old layer's, and what the old layer does not
            have too is the new class's default.

    Returns:
        ``model``.

    Raises:
        ValueError: a name that is not known; no layer of the families ``of``; a layer that has no
            successor in the family ``to``, named, with what would do.
        TypeError: an option that the new layers do not have, one that says what the old layers
            say (their sizes, ``affine``, ``dtype``), or any where ``to`` is None.

    Warns:
        UserWarning: something was lost or left in a swap of families, and no ``report`` was given
            to say it to.

    Numerics:
        A twin computes what torch's layer computes. Another family does not: train on, or at
        least start from γ and β that fit.

    Example:
        >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU())
        >>> weight = model[1].weight
        >>> type(convert(model)[1]), model[1].weight is weight
        (<class 'gammabeta.layers.batch.BatchNorm2d'>, True)
        >>> model = convert(model, to="group", groups=4, report=print)
        1 layer changed, 0 left
        layer  was             is            lost                note
        1      gb.BatchNorm2d  gb.GroupNorm  running statistics
        >>> model[1], model[1].weight is weight
        (GroupNorm(4, 8, eps=1e-05, affine=True, bias=True), True)
    """
    if memory is not None:
        known("memory", memory, MEMORIES)
    if to is None:
        swaps = {"of": of, "dims": dims, "groups": groups != 32, "exact": not exact}
        given = [*options, *(name for name, value in swaps.items() if value)]
        if given:
            raise TypeError(f"{given[0]}= is for swaps of families; give to= as well")
        changes, conversion = _twins(model)
    else:
        known("to", to, FAMILIES)
        asked = _USUAL_OF.get(to, ("batch",)) if of is None else of
        families = [asked] if isinstance(asked, str) else list(asked)
        for family in families:
            known("of", family, FAMILIES)
        if not isinstance(groups, SupportsIndex) or groups < 1:
            raise ValueError(f"groups={groups!r} must be at least 1, a whole number")
        arguments = {"groups": groups, "exact": exact, "dims": dims, "options": options}
        changes, conversion = plan_swaps(model, to, families, arguments)
    _tell(conversion, report, warn=to is not None)
    become(changes)
    if memory is not None:
        for module in model.modules():
            if isinstance(module, Lean):
                module.memory = memory
    guard_statistics(model)  # the guard's warnings can then name the layer
    return model


def revert(model: _Module, *, fused: str = "error", report: _Report | None = None) -> _Module:
    """Turn gammabeta's layers in ``model`` back into torch's: the inverse of `convert`.

    ``revert(convert(model))`` is ``model`` as it was: the same objects, classes, ``state_dict``,
    outputs and ``repr``, bit by bit. A swap of families is not undone: a group norm becomes
    torch's group norm.

    Args:
        model: any module; it may itself be a layer to turn back. Changed in place.
        fused: what to do with a layer that has an ``activation``, which torch's has not.
            ``"error"``, or ``"split"``: it becomes an ``nn.Sequential`` of torch's layer and the
            activation's module, still the same object, whose ``state_dict`` keys gain a ``0.``.
            A ``residual`` it is called with cannot be split off: add it where it is called.
        report: as in `convert`.

    Returns:
        ``model``.

    Raises:
        ValueError: ``fused`` is not known; a layer has an activation and ``fused="error"``, or
            has one and cannot be split (it is frozen or parametrized). Then nothing was changed.

    Warns:
        UserWarning: layers that torch does not have were left, and no ``report`` was given.

    Example:
        >>> from gammabeta import BatchNorm1d
        >>> revert(nn.Sequential(BatchNorm1d(4)))
        Sequential(
          (0): BatchNorm1d(4, eps=1e-05, momentum=0.1, affine=True, bias=True, \
track_running_stats=True)
        )
    """
    known("fused", fused, ("error", "split"))
    originals = {ours: theirs for theirs, ours in TWINS.items()}
    changes, conversion = [], Conversion()
    for names, module in places(model):
        cls = type_before_parametrizations(module)
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
            second = _ACTIVATIONS[str(activation)]
            changes.append(split(module, theirs, second(), without=own))
            after = f"nn.Sequential({label(theirs)}, {label(second)})"
        notes = tuple(
            f"{key}={value!r} dropped"
            for key, value in module.__dict__.items()
            if key in own and key[0] != "_" and key not in _NOT_SETTINGS and value is not None
            if repr(value) != repr(getattr(cls, key, None))
        )
        conversion.changes.append(Change(names, label(cls), after, notes=notes))
    _tell(conversion, report, warn=True)
    become(changes)
    return model


def _twins(model: nn.Module) -> tuple[list[Becoming], Conversion]:
    """How torch's layers become gammabeta's."""
    changes, conversion = [], Conversion()
    for names, module in places(model):
        cls = type_before_parametrizations(module)
        ours = TWINS.get(cls)
        if ours is not None and "forward" not in module.__dict__:
            changes.append(recast(module, ours))
            conversion.changes.append(Change(names, label(cls), label(ours)))
        elif isinstance(module, NORMS) and not is_ours(cls):
            conversion.left.append(Left(names, label(cls), reason_left(module, cls)))
    return changes, conversion


def _reason_not_reverted(module: nn.Module, cls: type[nn.Module]) -> str:
    """Why a layer of gammabeta's, or made from one, stays; empty if it is neither."""
    if is_ours(cls) and "forward" in module.__dict__:
        return "its forward was replaced on the object"
    if is_ours(cls) and isinstance(module, (Epilogue, NormalizedLSTM, *NORMS)):
        return f"torch.nn has no {cls.__name__}"
    if any(issubclass(cls, ours) for ours in TWINS.values()):
        return "a subclass of gammabeta's, which may do anything"
    return ""


def _check_split(name: str, module: nn.Module, activation: str, fused: str) -> None:
    """Raise unless the layer ``module``, which has an activation, may be split."""
    where = f"layer {name!r} has activation={activation!r}"
    if fused == "error":
        raise ValueError(
            f"{where}, which torch.nn.{type(module).__name__} has not; fused='split' makes it a "
            "Sequential of both"
        )
    if is_frozen(module):
        raise ValueError(f"{where} and is frozen, so it cannot be split; unfreeze() it first")
    if is_parametrized(module) or module._parameters.keys() - {"weight", "bias"}:
        raise ValueError(
            f"{where} and parameters of another form (parametrized or pruned), so it cannot be "
            "split; make them plain first"
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


def _tell(conversion: Conversion, report: _Report | None, warn: bool) -> None:
    """Give the report to whom it is for; without one, warn of what is lost.

    To be called before anything is changed: a report may raise, and a warning too.
    """
    if report is not None:
        report(conversion)
        return
    _log.info("%s", conversion)
    if warn and (summary := conversion.summary()):
        warnings.warn(f"{summary} (report=print shows every layer)", UserWarning, stacklevel=3)
