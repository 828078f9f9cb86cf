"""Find norms that a model holds in plain Python objects, where `torch.nn.Module` does not see them.

A module in a list, dict, closure, default argument, class attribute or global variable is not a
submodule: ``eval()``, ``to()``, ``state_dict()`` and ``parameters()`` leave it out.
"""

from __future__ import annotations

import dis
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from types import BuiltinFunctionType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any

import torch
from torch import nn

from gammabeta.doctor.subject import Subject
from gammabeta.layers.traits import traits

_OWN = frozenset(nn.Module().__dict__) - {"_forward_hooks", "_forward_pre_hooks"}
_HOOKS = ("_forward_hooks", "_forward_pre_hooks")
_MOST_ITEMS = 1000
_DEPTH = 4
_LIBRARIES = (
    "abc", "builtins", "collections", "enum", "functools", "logging", "numpy", "threading",
    "torch", "typing", "weakref",
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class Hidden:
    """A norm that a model uses, or may use, but does not contain.

    Attributes:
        owner: path of the module that holds it.
        name: how the owner reaches it, such as ``"norms[0]"``.
        attribute: the owner's attribute it was found in; "" if it is none of the object's own.
        norm: the norm.
        path: ``name`` with dots, after the owner's path: what its path would be.
    """

    owner: str
    name: str
    attribute: str
    norm: nn.Module

    @property
    def path(self) -> str:
        """What the path of the norm would be if it were registered."""
        dotted = self.name.replace("[", ".").replace("]", "").replace("'", "")
        return f"{self.owner}.{dotted}" if self.owner else dotted


def hidden_norms(subject: Subject) -> list[Hidden]:
    """Return the norms with parameters or running statistics that the model does not contain."""
    walk = _Walk(subject)
    found: list[Hidden] = []
    for path, module in subject.modules.items():
        for attribute, name, inner in walk.of(module):
            for below, norm in inner.named_modules():
                if norm in subject.paths or any(h.norm is norm for h in found):
                    continue
                its = traits(norm)
                if (its.normalizes or its.lineage) and has_state(norm):
                    full = f"{name}.{below}" if below else name
                    found.append(Hidden(path, full, attribute, norm))
    return found


def has_state(norm: nn.Module) -> bool:
    """Whether it has parameters or buffers."""
    return any(True for _ in norm.parameters()) or any(True for _ in norm.buffers())


class _Walk:
    """Looks for modules in the attributes, class and functions of a module."""

    def __init__(self, subject: Subject) -> None:
        self.subject = subject
        self.seen: set[int] = set()
        self.classes: set[type] = set()

    def of(self, module: nn.Module) -> Iterator[tuple[str, str, nn.Module]]:
        """Yield attribute, name and each module found."""
        if isinstance(module, torch.jit.ScriptModule):
            return
        for key, value in list(module.__dict__.items()):
            if key in _OWN:
                continue
            if key in _HOOKS:
                for hook in value.values():
                    yield from (("", n, m) for n, m in self.visit(hook, "hook", _DEPTH))
                continue
            yield from ((key, name, m) for name, m in self.visit(value, key, _DEPTH))
        for cls in type(module).__mro__:
            if cls in self.classes or is_library(cls):
                continue
            self.classes.add(cls)
            used = _methods_of_forward(type(module))
            for key, value in list(vars(cls).items()):
                method = isinstance(value, (FunctionType, staticmethod))
                if not isinstance(value, (type, property, classmethod)) and (
                    not method or key in used
                ):
                    yield from (("", name, m) for name, m in self.visit(value, key, _DEPTH))

    def visit(self, value: Any, name: str, depth: int) -> Iterator[tuple[str, nn.Module]]:
        """Yield the modules in ``value`` that are not part of the model."""
        if depth == 0 or value is None or isinstance(value, (str, int, float, type, ModuleType)):
            return
        if id(value) in self.seen:
            return
        if isinstance(value, nn.Module):
            if value not in self.subject.paths and not self._contains_model(value):
                self.seen.add(id(value))
                yield name, value
            return
        for label, inner in self._parts(value, name):
            yield from self.visit(inner, label, depth - 1)

    def _parts(self, value: Any, name: str) -> list[tuple[str, Any]]:
        if isinstance(value, (list, tuple, set, frozenset, deque)):
            items = list(value)[:_MOST_ITEMS]
            return [(f"{name}[{i}]", each) for i, each in enumerate(items)]
        if isinstance(value, Mapping):
            if not isinstance(value, dict):
                return []
            pairs = list(value.items())[:_MOST_ITEMS]
            return [(f"{name}[{key!r}]", each) for key, each in pairs]
        if isinstance(value, staticmethod):
            return [(name, value.__func__)]
        if isinstance(value, FunctionType):
            self.seen.add(id(value))
            return _held_by(value, name)
        if isinstance(value, MethodType):
            own = isinstance(value.__self__, nn.Module)
            return [(name, value.__self__)] if own else [(name, value.__func__)]
        if isinstance(value, partial):
            given = enumerate(value.args)
            return [
                (name, value.func),
                *((f"{name}.args[{i}]", each) for i, each in given),
                *((f"{name}.{key}", each) for key, each in value.keywords.items()),
            ]
        if isinstance(value, (BuiltinFunctionType, BaseException)) or is_library(type(value)):
            return []
        inside = getattr(value, "__dict__", {})
        slots = [n for cls in type(value).__mro__ for n in _slots(cls)]
        if not isinstance(inside, dict) or len(inside) + len(slots) > 100:
            return []
        inside = inside | {n: getattr(value, n) for n in slots if hasattr(value, n)}
        self.seen.add(id(value))
        return [(f"{name}.{key}", each) for key, each in list(inside.items())]

    def _contains_model(self, module: nn.Module) -> bool:
        return any(each is self.subject.model for each in module.modules())


def _slots(cls: type) -> list[str]:
    slots = vars(cls).get("__slots__", ())
    names = [slots] if isinstance(slots, str) else list(slots)
    return [n for n in names if n not in ("__dict__", "__weakref__")]


def _methods_of_forward(cls: type) -> set[str]:
    """Return the names of ``forward`` and of the methods that it mentions, directly or not."""
    found: set[str] = set()
    waiting = ["forward"]
    while waiting:
        name = waiting.pop()
        found.add(name)
        for base in cls.__mro__:
            code = getattr(vars(base).get(name), "__code__", None)
            if code is not None and not is_library(base):
                waiting += [n for n in code.co_names if hasattr(cls, n) and n not in found]
    return found


def _held_by(function: FunctionType, name: str) -> list[tuple[str, Any]]:
    """Return what a function holds: cells, defaults, and the modules among its globals."""
    if is_library(function):
        return []
    found: list[tuple[str, Any]] = []
    for variable, cell in zip(
        function.__code__.co_freevars, function.__closure__ or (), strict=False
    ):
        try:
            found.append((variable, cell.cell_contents))
        except ValueError:  # an empty cell
            continue
    found += [(f"{name}.default", each) for each in function.__defaults__ or ()]
    found += [(f"{name}.{key}", each) for key, each in (function.__kwdefaults__ or {}).items()]
    for used in _global_names(function.__code__):
        value = function.__globals__.get(used)
        if isinstance(value, (nn.Module, list, tuple, dict, FunctionType)) and used[:2] != "__":
            found.append((used, value))
    return found


def _global_names(code: CodeType) -> set[str]:
    loads = ("LOAD_GLOBAL", "LOAD_NAME")  # not the names of attributes
    names = {str(each.argval) for each in dis.get_instructions(code) if each.opname in loads}
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            names |= _global_names(constant)
    return names


def is_library(what: Any) -> bool:
    """Whether a class or function is defined by Python, NumPy, torch or gammabeta's layers."""
    home = str(getattr(what, "__module__", "") or "")
    return home.partition(".")[0] in _LIBRARIES or home.startswith("gammabeta.")
