"""Plan how layers of one family become layers of another, and say what is lost on the way."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any

from torch import nn
from torch.nn.parameter import is_lazy
from torch.nn.utils.parametrize import is_parametrized, type_before_parametrizations

from gammabeta.conversion.become import Becoming, succeed
from gammabeta.conversion.families import (
    FAMILIES,
    OneValueGroupError,
    build,
    describe,
    family_of,
)
from gammabeta.conversion.report import Change, Conversion, Left, label
from gammabeta.layers.traits import Traits, has_own_forward, traits
from gammabeta.statistics.freeze import is_frozen
from gammabeta.statistics.scripted import is_scripted, original_name


def places(model: nn.Module) -> Iterator[tuple[tuple[str, ...], nn.Module]]:
    """Yield every module of ``model`` once, with all the names it goes by.

    Example:
        >>> norm = nn.BatchNorm1d(4)
        >>> [names for names, module in places(nn.Sequential(norm, nn.ReLU(), norm))]
        [('',), ('0', '2'), ('1',)]
    """
    names: dict[nn.Module, list[str]] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        names.setdefault(module, []).append(name)
    for module, its in names.items():
        yield tuple(its), module


def reason_left(module: nn.Module, cls: type[nn.Module], not_adopted: str = "") -> str:
    """Why a normalization layer whose class is ``cls`` is left alone.

    Args:
        module: the layer.
        cls: its class, without parametrizations.
        not_adopted: why it is not adopted, if it computes something that gammabeta knows.
    """
    if "forward" in module.__dict__:
        return "its forward was replaced on the object"
    if any(map(is_lazy, module.parameters(recurse=False))):
        return f"{cls.__name__} is uninitialized; call the model on a batch first"
    if cls.__module__.startswith("torch.nn.modules."):
        return f"gammabeta has no {cls.__name__}"
    its = traits(module)
    why = f"; {not_adopted}" if its.normalizes and not_adopted else ""
    if not its.lineage:
        return f"{cls.__name__} is no subclass of torch's layers{_what_it_computes(its)}{why}"
    if has_own_forward(module):
        return f"{cls.__name__} is a subclass with a forward of its own{why}"
    return f"{cls.__name__} is a subclass{why or ', which may do anything'}"


def _what_it_computes(its: Traits) -> str:
    """What is known of a norm that derives from none of torch's."""
    if its.stranger:
        return f"; it {its.stranger.partition(', and ')[2]}"
    if its.finding is None or its.finding.formula is None:
        return ""
    formula = its.finding.formula
    plus = f"{formula.offset:g} + " if formula.offset else ""
    parts = [f"γ = {plus}{formula.gamma}"] if formula.gamma else []
    parts += [f"β = {formula.beta}"] if formula.beta else []
    parts += [f"ε = {formula.eps:g}"]
    where = "the last dim" if its.dim == -1 else f"dim {its.dim}"
    return f"; it computes {its.family} norm, features at {where} ({', '.join(parts)})"


def looks_like_a_norm(module: nn.Module, cls: type[nn.Module]) -> bool:
    """Whether ``module`` is a normalization layer, or by its name one of a kind unknown.

    Example:
        >>> looks_like_a_norm(nn.LocalResponseNorm(2), nn.LocalResponseNorm)
        True
    """
    its = traits(module)
    if its.normalizes or its.stranger:
        return True
    named = re.search(r"Norm(?!al|ed)", cls.__name__) is not None
    a_helper = cls.__module__.startswith("torch.") and not cls.__module__.startswith("torch.nn.mod")
    return named and not a_helper and not is_scripted(module) and not module._modules


def left_compiled(names: tuple[str, ...], module: nn.Module, kinds: Iterable[type]) -> list[Left]:
    """How a layer of one of ``kinds`` that `torch.jit` has compiled is reported; else nothing."""
    if not is_scripted(module) or original_name(module) not in {cls.__name__ for cls in kinds}:
        return []
    reason = "torch.jit has compiled it; convert the model before it is scripted or traced"
    return [Left(names, f"compiled {original_name(module)}", reason)]


def plan_swaps(
    model: nn.Module, to: str, families: list[str], arguments: dict[str, Any]
) -> tuple[list[Becoming], Conversion]:
    """How layers of ``families`` become layers of ``to``."""
    changes, conversion = [], Conversion()
    kinds = [cls for family in families for cls in FAMILIES[family]]
    for names, module in places(model):
        cls = type_before_parametrizations(module)
        family = family_of(module)
        if family not in families or "forward" in module.__dict__:
            if _may_be_of(module, families):
                reason = reason_left(module, cls)
                if family is not None and family not in families:
                    reason = f"its family is {family!r}; name it in of= to swap it"
                conversion.left.append(Left(names, label(cls), reason))
            conversion.left += left_compiled(names, module, kinds)
            continue
        if is_frozen(module):
            raise ValueError(f"layer {names[0]!r} is frozen; unfreeze() it first")
        norm = describe(module, family)
        try:
            new = build(norm, to, **arguments)
        except OneValueGroupError as error:
            conversion.left.append(Left(names, label(cls), f"it {error}"))
            continue
        except ValueError as error:
            raise ValueError(f"layer {names[0]!r} ({cls.__name__}) {error}") from None
        old = cls(1, 1) if family == "group" else cls(1)
        if is_parametrized(module, "bias") and new._parameters.get("bias") is None:
            raise ValueError(
                f"layer {names[0]!r} ({cls.__name__}) has a parametrized bias, and "
                f"{type(new).__name__} has none; torch.nn.utils.parametrize.remove_parametrizations"
                " it first"
            )
        changes.append(succeed(module, old, new))
        groups = arguments["groups"]
        lost, notes = _lost(module, old, new), _notes(module, new, to, groups)
        adjusted = _adjusted(norm.channels, new, to, groups)
        conversion.changes.append(
            Change(names, label(cls), label(type(new)), lost, notes, adjusted)
        )
    if not changes:
        have = {family_of(module) for _, module in places(model)} - {None}
        raise ValueError(
            f"model={type(model).__name__} has no layer of the family {' or '.join(families)} "
            f"that can be swapped (it has: {', '.join(map(str, sorted(map(str, have)))) or 'none'})"
            + "".join(f"; {conversion.summary()}" for _ in conversion.left[:1])
        )
    _slow_paths(model, changes, conversion)
    return changes, conversion


def _may_be_of(module: nn.Module, families: list[str]) -> bool:
    """Whether ``module`` derives from a class of ``families``, computes what one does, or may."""
    its = traits(module)
    unknown = bool(its.stranger) and not its.lineage
    return unknown or not {its.family, *its.lineage}.isdisjoint(families)


def _slow_paths(model: nn.Module, changes: list[Becoming], conversion: Conversion) -> None:
    """Keep torch's transformer layers from computing layer norms that are no longer there.

    In evaluation they hand the γ and β of ``norm1`` and ``norm2`` to one fused operator that knows
    layer norm only. These two attributes are read for no other purpose.
    """
    same = tuple(FAMILIES["layer"])
    swapped = {change.module for change in changes if not issubclass(change.cls, same)}
    for names, module in places(model):
        if isinstance(module, nn.TransformerEncoderLayer):
            parts, switch = set(module.children()), {"activation_relu_or_gelu": 0}
        elif isinstance(module, nn.TransformerEncoder):
            parts, switch = set(module.layers.modules()), {"use_nested_tensor": False}
        else:
            continue
        if parts.isdisjoint(swapped):
            continue
        changes.append(Becoming(module, type(module), module.__dict__ | switch))
        kind = label(type(module))
        note = "disables torch's fast path, which supports layer norm only"
        conversion.changes.append(Change(names, kind, kind, (), (note,)))


def _lost(module: nn.Module, old: nn.Module, new: nn.Module) -> tuple[str, ...]:
    """What ``module`` has that its successor has no place for."""
    lost = []
    running = getattr(module, "running_mean", None)
    if running is not None and new._buffers.get("running_mean") is None:
        lost.append("running statistics")
    for name, symbol, neutral in (("weight", "γ", 1), ("bias", "β", 0)):
        parameter = getattr(module, name, None)
        if parameter is None or new._parameters.get(name) is not None:
            continue
        idle = not parameter.is_meta and bool((parameter == neutral).all())
        lost.append(f"{symbol}, which was {neutral}" if idle else symbol)
    return tuple(lost)


def _notes(module: nn.Module, new: Any, to: str, groups: int) -> tuple[str, ...]:
    """What else a person should know of a swap."""
    notes = []
    if new._buffers.get("running_mean") is not None and module._buffers.get("running_mean") is None:
        notes.append("running statistics start at 0 and 1")
    before, after = getattr(module, "momentum", None), getattr(new, "momentum", None)
    if None not in (before, after) and before != after:
        notes.append(f"momentum {after}, was {before}")
    if to == "layer" and family_of(new) == "group":
        notes.append("layer norm over channels and positions")
    if to == "group" and new.num_groups != groups and new.num_channels % groups:
        notes.append(f"{new.num_groups} groups")
    return tuple(notes)


def _adjusted(channels: int | None, new: Any, to: str, groups: int) -> tuple[str, ...]:
    """What of ``groups`` could not be as asked, although it divides the channels."""
    if to != "group" or channels != groups:
        return ()
    return (f"{new.num_groups} groups, because {groups} would leave one channel each",)
