"""Swap a model's normalization layers: for gammabeta's twins, or for another family."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypeVar

from torch import nn
from torch.nn.utils.parametrize import type_before_parametrizations

from gammabeta.conversion.adopt import adopt, is_adopted
from gammabeta.conversion.become import Becoming, become, recast
from gammabeta.conversion.families import FAMILIES, TWINS
from gammabeta.conversion.pairs import plan_fusing
from gammabeta.conversion.report import Change, Conversion, Left, Report, label, tell
from gammabeta.conversion.swap import (
    left_compiled,
    looks_like_a_norm,
    places,
    plan_swaps,
    reason_left,
)
from gammabeta.layers.guard import guard_statistics
from gammabeta.layers.lean import MEMORIES, Lean
from gammabeta.layers.traits import is_ours, lineage
from gammabeta.names import known
from gammabeta.statistics.arguments import check_bool, check_callable, check_module, is_whole

_Module = TypeVar("_Module", bound=nn.Module)

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
    fuse: bool = True,
    report: Report | None = None,
    **options: Any,
) -> _Module:
    """Swap the normalization layers of ``model`` for gammabeta's twins, or for another family.

    Every layer remains the same object; only its class changes. All references to it therefore
    remain valid: parents, a module in two places, hooks of all kinds, optimizers (the
    parameters are the same objects), ``requires_grad``, parametrizations, custom
    attributes, its mode, dtype and device. All layers are swapped, or none if an error is raised.

    **Twins** (``to=None``). Each of torch's layers becomes gammabeta's of the same name: same
    ``state_dict``, same numbers. A norm of another class (a subclass of torch's, or one written
    by hand) is adopted if trials prove that the kernels compute what it computes. It keeps its
    attributes and remains an instance of its class, which runs in all cases that the trials do
    not cover. Other norms are left unchanged, and so are layers whose ``forward`` was replaced on
    the object.

    **Families** (``to="group"`` and the like). Layers of the families ``of`` become layers of
    another, for example for a batch of one or a recurrent net, where batch statistics do harm. γ
    and β are kept. No parameter is created, so optimizers remain complete. What cannot be carried
    over is dropped and reported. A layer that would then normalize single values, and
    output β for any input, is left unchanged: one of 1 channel, or a ``BatchNorm1d``
    that is to become an instance norm, unless ``dims=1`` says that its input is (N, C, L).

    Args:
        model: any module; it may itself be a layer to swap. Changed in place.
        to: None for twins, or ``"batch"``, ``"instance"``, ``"group"``, ``"layer"``, ``"rms"``,
            and ``"batch-renorm"`` or ``"ghost"`` where gammabeta has them. Of a layer of
            channels, ``"layer"`` makes ``GroupNorm(1, C)``, layer norm over (C, ...) with its γ
            and β per channel.
        of: the family or families to swap; None for ``"layer"`` where ``to="rms"``, ``"group"``
            and ``"instance"`` where ``to="batch"``, else ``"batch"``.
        groups: G of group norm. Where it would leave a group a single channel, the largest number
            below it that divides the channels is taken, and the report says so.
        exact: whether a layer whose channels ``groups`` does not divide is an error; if not, it
            gets the largest number of groups below ``groups`` that divides them.
        dims: spatial dims of the input, 1, 2 or 3, where a layer that takes any becomes one that
            does not (``"group"`` to ``"batch"``); 1 also says that a ``BatchNorm1d`` gets
            (N, C, L).
        memory: ``"lean"`` or ``"default"`` for every batch norm of gammabeta's that the model then
            has; see `BatchNorm1d`. None changes none of them.
        fuse: whether a norm, the residual that is added to its output and the activation after it
            are computed in one kernel call wherever that gives the same result; see
            docs/convert.md. The modules stay as they are.
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
        TypeError: ``model`` is not a module; an argument of a wrong type; an option that the new
            layers do not have, one that says what the old layers say (their sizes, ``affine``,
            ``dtype``), or any where ``to`` is None.

    If an error is raised, ``model`` is unchanged.

    Warns:
        UserWarning: something was lost or left in a swap of families, or nothing was changed
            although ``model`` has normalization layers; only if no ``report`` was given.

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
        layers  fuse with what follows
             1  relu
        >>> model[1], model[1].weight is weight
        (GroupNorm(4, 8, eps=1e-05, affine=True, bias=True), True)
    """
    check_module(model)
    check_callable("report", report, "a function that is called with the Conversion")
    check_bool("exact", exact)
    check_bool("fuse", fuse)
    if memory is not None:
        known("memory", memory, MEMORIES)
    if to is None:
        swaps = {
            "of": of is not None,
            "dims": dims is not None,
            "groups": groups != 32,
            "exact": not exact,
        }
        given = [*options, *(name for name, value in swaps.items() if value)]
        if given:
            raise TypeError(f"{given[0]}= applies only to swaps between families; give to= as well")
        changes, conversion = _twins(model)
    else:
        known("to", to, FAMILIES)
        families = _families(to, of)
        if not is_whole(groups, 1):
            raise ValueError(f"groups={groups!r} must be at least 1, a whole number")
        if dims is not None and not (is_whole(dims, 1) and dims <= 3):
            raise ValueError(f"dims={dims!r} must be 1, 2 or 3, the spatial dims of the input")
        if "num_groups" in options:
            raise TypeError("num_groups= cannot be given; use groups= for the number of groups")
        arguments = {"groups": groups, "exact": exact, "dims": dims, "options": options}
        changes, conversion = plan_swaps(model, to, families, arguments)
    if memory is not None:
        _plan_memory(model, changes, memory)
    conversion.fusions = plan_fusing(model, changes, fuse)
    warning = conversion.summary() if to else _unchanged(model, conversion)
    tell("convert", conversion, report, warning)
    undo = become(changes)
    try:
        guard_statistics(model)  # the guard's warnings can then name the layer
    except BaseException:
        undo()
        raise
    return model


def _families(to: str, of: str | Iterable[str] | None) -> list[str]:
    """The families to swap."""
    asked = _USUAL_OF.get(to, ("batch",)) if of is None else of
    if not isinstance(asked, Iterable):
        raise TypeError(
            f"of is of type {type(of).__name__}; give the name of a family, or several in a list: "
            f"{', '.join(FAMILIES)}"
        )
    families = [asked] if isinstance(asked, str) else list(asked)
    for family in families:
        known("of", family, FAMILIES)
    if not families:
        raise ValueError(f"of={of!r} names no family; one or more of: {', '.join(FAMILIES)}")
    return families


def _plan_memory(model: nn.Module, changes: list[Becoming], memory: str) -> None:
    """Add to ``changes`` that every layer that has ``memory`` then has this one."""
    for change in changes:
        if issubclass(change.cls, Lean):
            change.attributes["memory"] = memory
    changed = {change.module for change in changes}
    for module in model.modules():
        if isinstance(module, Lean) and module not in changed:
            changes.append(Becoming(module, type(module), module.__dict__ | {"memory": memory}))


def _twins(model: nn.Module) -> tuple[list[Becoming], Conversion]:
    """How torch's layers become gammabeta's, and those of other classes are adopted."""
    changes, conversion = [], Conversion()
    for names, module in places(model):
        cls = type_before_parametrizations(module)
        ours = TWINS.get(cls)
        if ours is not None and "forward" not in module.__dict__:
            changes.append(recast(module, ours))
            # On the object too: `torch.jit.script` looks nowhere else.
            changes[-1].attributes.setdefault("activation", None)
            conversion.changes.append(Change(names, label(cls), label(ours)))
        elif looks_like_a_norm(module, cls) and not is_ours(cls) and not is_adopted(module):
            becoming = adopt(module)
            if isinstance(becoming, str):
                conversion.left.append(Left(names, label(cls), reason_left(module, cls, becoming)))
            else:
                changes.append(becoming)
                conversion.changes.append(Change(names, label(cls), f"{label(cls)}, adopted"))
        conversion.left += left_compiled(names, module, TWINS)
    return changes, conversion


def _unchanged(model: nn.Module, conversion: Conversion) -> str:
    """What to say where no layer of ``model`` becomes a twin, and none is one already."""
    ours = any(
        is_adopted(module) or (is_ours(type(module)) and lineage(module))
        for module in model.modules()
    )
    if conversion.changes or not conversion.left or ours:
        return ""
    return f"nothing of model={type(model).__name__} changed: {conversion.summary()}"
