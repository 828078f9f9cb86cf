"""A module becomes one of another class, and stays the same object.

Whatever holds on to the module — its parents, lists outside the model, hooks and their handles, an
optimizer by its parameters — goes on holding on to it. ``torch.nn``'s lazy modules and its
parametrizations change a module's class in the same way.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import nn
from torch.nn.utils.parametrize import is_parametrized

from gammabeta.statistics.undo import undo_all

# What ``Module.compile`` leaves is a call of the module itself, whatever its class.
_INTERNALS = frozenset(nn.Module().__dict__) | {"_compiled_call_impl"}
_REGISTRIES = ("_parameters", "_buffers", "_modules", "_non_persistent_buffers_set")


@dataclass(frozen=True)
class Becoming:
    """One module's next class and attributes.

    Attributes:
        module: what changes.
        cls: its class then.
        attributes: its ``__dict__`` then.
    """

    module: nn.Module
    cls: type[nn.Module]
    attributes: dict[str, Any]


def become(changes: Iterable[Becoming]) -> Callable[[], None]:
    """Make all changes, or none if one fails.

    Returns:
        What undoes them all, if it is called.
    """
    done: list[Becoming] = []

    def undo() -> None:
        undo_all(partial(_set, before) for before in reversed(done))

    try:
        for change in changes:
            module = change.module
            done.append(Becoming(module, module.__class__, module.__dict__))
            _set(change)
    except BaseException:
        undo()
        raise
    return undo


def _set(change: Becoming) -> None:
    change.module.__class__ = change.cls
    # Past nn.Module.__setattr__, which looks things up in the attributes it would replace.
    object.__setattr__(change.module, "__dict__", change.attributes)


def recast(module: nn.Module, cls: type[nn.Module], without: Iterable[str] = ()) -> Becoming:
    """``module`` with another class and the attributes it has, but for those named ``without``."""
    left_out = set(without)
    kept = {key: value for key, value in module.__dict__.items() if key not in left_out}
    return Becoming(module, _class_like(module, cls), kept)


def succeed(module: nn.Module, old: nn.Module, new: nn.Module) -> Becoming:
    """``module`` with the class and settings of ``new``, and all else that is its own.

    Its own are: the parameters and buffers that ``new`` has too, by name; hooks; the mode; and
    whatever a fresh layer like it has not.

    Args:
        module: what is to change.
        old: a fresh layer of the class ``module`` has now.
        new: a fresh layer of the class it is to have, without parameters that ``module`` has not.
    """
    attributes = {
        key: value
        for key, value in module.__dict__.items()
        if key in _INTERNALS or key not in old.__dict__
    }
    attributes |= {key: value for key, value in new.__dict__.items() if key not in _INTERNALS}
    for registry in _REGISTRIES[:3]:
        attributes[registry] = _entries(
            getattr(module, registry), getattr(old, registry), getattr(new, registry)
        )
    for name in new._parameters:
        # Under a parametrization or pruning the name belongs to another thing of the module.
        if name not in module._parameters and hasattr(module, name):
            del attributes["_parameters"][name]
    attributes["_non_persistent_buffers_set"] = {
        name
        for name in module._non_persistent_buffers_set | new._non_persistent_buffers_set
        if name in attributes["_buffers"]
    }
    return Becoming(module, _class_like(module, type(new)), attributes)


def split(
    module: nn.Module, first: type[nn.Module], second: nn.Module, without: Iterable[str] = ()
) -> Becoming:
    """``module`` as an ``nn.Sequential`` of a layer of class ``first`` and of ``second``.

    The layer has ``module``'s parameters, buffers, settings and mode. The Sequential keeps its
    hooks: they go on seeing the output of both.

    Args:
        module: what is to change; parameters, buffers and settings of ``first`` and ``without``.
        first: a class of normalization layers.
        second: what follows it.
        without: attributes that ``first`` does not have.
    """
    left_out = set(without)
    layer = first.__new__(first)
    nn.Module.__init__(layer)
    settings = {
        key: value
        for key, value in module.__dict__.items()
        if key not in _INTERNALS and key not in left_out
    }
    registries = {key: module.__dict__[key] for key in _REGISTRIES}
    layer.__dict__ |= settings | registries | {"training": module.training}
    second.training = module.training
    sequential = nn.Sequential(layer, second)
    hooks = {
        key: value
        for key, value in module.__dict__.items()
        if key in _INTERNALS and key not in _REGISTRIES
    }
    return Becoming(module, nn.Sequential, sequential.__dict__ | hooks)


def _entries(now: dict[str, Any], old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    """A registry's entries then: ``new``'s names with what ``now`` has, then the person's own."""
    both = {name for name in new if new[name] is not None and now.get(name) is not None}
    kept = {name: now[name] if name in both else new[name] for name in new}
    return kept | {name: value for name, value in now.items() if name not in old}


def _class_like(module: nn.Module, cls: type[nn.Module]) -> type[nn.Module]:
    """``cls``, or a subclass of it with ``module``'s parametrizations."""
    if not is_parametrized(module):
        return cls
    # A parametrized module has a class of its own, made for it, whose properties compute the
    # parametrized tensors.
    own = {
        key: value
        for key, value in vars(type(module)).items()
        if key not in ("__dict__", "__weakref__", "__doc__", "__module__")
    }
    return type(f"Parametrized{cls.__name__}", (cls,), own)
