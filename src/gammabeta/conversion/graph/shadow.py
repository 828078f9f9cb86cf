"""A model's shadow: the same modules with tensors that have no values, for code to be tried on.

Running a person's ``forward`` may append to lists, count, write and draw random numbers. A shadow
shares nothing with its model that can change: modules and containers are rebuilt, tensors are on
the meta device, hooks are left out, and whatever cannot be rebuilt raises when it is used. No
code of the model runs while it is made.
"""

from __future__ import annotations

import enum
import functools
import types
from collections import OrderedDict, defaultdict, deque
from typing import Any, NoReturn

import torch
from torch import Tensor, nn
from torch.jit import ScriptModule
from torch.nn.parameter import is_lazy

_ATOMS = (
    *(type(None), bool, int, float, complex, str, bytes, range, slice, type, enum.Enum),
    *(types.FunctionType, types.BuiltinFunctionType, types.ModuleType, types.MethodDescriptorType),
    *(torch.dtype, torch.device, torch.layout, torch.memory_format, torch.Size),
)
_LIMIT = 100_000  # objects in all: a trainer that a module refers to may refer to everything
HOOKS = frozenset(
    name
    for name, value in nn.Module().__dict__.items()
    if "hooks" in name and isinstance(value, dict)
)


class NotCopiedError(Exception):
    """Code under trial uses an object that has no shadow."""


class _Absent:
    """Stands for an object that has no shadow."""

    def __init__(self, kind: str) -> None:
        object.__setattr__(self, "_kind", kind)

    def _used(self, *args: Any, **kwargs: Any) -> NoReturn:
        kind = object.__getattribute__(self, "_kind")
        raise NotCopiedError(f"its code uses an object of type {kind}, which cannot be copied")

    __getattr__ = __call__ = __iter__ = __len__ = __bool__ = __getitem__ = _used
    __setattr__ = __setitem__ = __enter__ = __exit__ = __contains__ = _used


class ClosedModule(nn.Module):
    """Stands for a module whose code cannot be looked into, such as a compiled one."""


def shadow(model: nn.Module) -> tuple[nn.Module, dict[int, nn.Module]]:
    """Return the shadow of ``model``, and of each of its modules, by ``id``, the shadow.

    Example:
        >>> model = nn.Sequential(nn.Linear(2, 2), nn.ReLU())
        >>> copy, modules = shadow(model)
        >>> copy[0].weight.device, modules[id(model[0])] is copy[0], copy[0] is model[0]
        (device(type='meta'), True, False)
    """
    return (maker := _Maker())(model), maker.modules


def shadow_of(thing: Any) -> Any:
    """Return the shadow of any object, such as the arguments of a call.

    Example:
        >>> shadow_of((torch.ones(2), 3))
        (tensor(..., device='meta', size=(2,)), 3)
    """
    return _Maker()(thing)


class _Maker:
    """Makes shadows; one thing has one shadow."""

    def __init__(self) -> None:
        self.made: dict[int, Any] = {}
        self.modules: dict[int, nn.Module] = {}
        self.alive: list[Any] = []  # so that no id is used again

    def __call__(self, thing: Any) -> Any:
        if isinstance(thing, _ATOMS):
            return thing
        if id(thing) in self.made:
            return self.made[id(thing)]
        if len(self.alive) >= _LIMIT:
            return _Absent(type(thing).__name__)
        self.alive.append(thing)
        try:
            return self._make(thing)
        except RecursionError:
            raise
        except Exception:  # of an object that is put together in a way of its own
            return self._keep(thing, _Absent(type(thing).__name__))

    def _keep(self, thing: Any, made: Any) -> Any:
        self.made[id(thing)] = made
        return made

    def _make(self, thing: Any) -> Any:
        if isinstance(thing, nn.Module):
            return self._module(thing)
        if isinstance(thing, Tensor):
            return self._keep(thing, _on_meta(thing))
        if isinstance(thing, types.MethodType):
            return self._keep(thing, types.MethodType(self(thing.__func__), self(thing.__self__)))
        if isinstance(thing, functools.partial):
            arguments = {key: self(value) for key, value in thing.keywords.items()}
            again = functools.partial(self(thing.func), *map(self, thing.args), **arguments)
            return self._keep(thing, again)
        return self._container(thing)

    def _container(self, thing: Any) -> Any:
        kind = type(thing)
        if kind in (tuple, frozenset):
            return self._keep(thing, kind(map(self, thing)))
        if isinstance(thing, tuple) and hasattr(thing, "_fields"):
            return self._keep(thing, tuple.__new__(kind, map(self, thing)))
        if kind in (list, set, deque):
            again = self._keep(thing, deque(maxlen=thing.maxlen) if kind is deque else kind())
            for value in thing:
                (again.add if kind is set else again.append)(self(value))
            return again
        if kind in (dict, OrderedDict, defaultdict):
            again = defaultdict(thing.default_factory) if kind is defaultdict else kind()
            again = self._keep(thing, again)
            for key, value in thing.items():
                again[self(key)] = self(value)
            return again
        if isinstance(thing, (list, dict, set, tuple)) or not _in_python(kind):
            return self._keep(thing, _Absent(kind.__name__))
        again = self._keep(thing, object.__new__(kind))
        for key, value in vars(thing).items():
            again.__dict__[key] = self(value)
        return again

    def _module(self, module: nn.Module) -> nn.Module:
        kind = type(module)
        if isinstance(module, ScriptModule):
            closed = ClosedModule()
            self.modules[id(module)] = closed
            self._keep(module, closed)
            return closed
        again: nn.Module = object.__new__(kind)
        self.modules[id(module)] = again
        self._keep(module, again)
        attributes: dict[str, Any] = {}
        object.__setattr__(again, "__dict__", attributes)
        for name, value in module.__dict__.items():
            if name in HOOKS:
                attributes[name] = OrderedDict()
            elif name == "_compiled_call_impl":
                attributes[name] = None
            elif name in ("_parameters", "_buffers", "_modules"):
                attributes[name] = type(value)() if type(value) in (dict, OrderedDict) else {}
                attributes[name].update({key: self(item) for key, item in value.items()})
            else:
                attributes[name] = self(value)
        return again


def _in_python(kind: type) -> bool:
    """Whether all that an object of ``kind`` holds is in its ``__dict__``."""
    heap_type = 1 << 9
    classes = kind.__mro__[:-1]
    return kind.__dictoffset__ != 0 and all(
        cls.__flags__ & heap_type and not cls.__dict__.get("__slots__") for cls in classes
    )


def _on_meta(tensor: Tensor) -> Tensor:
    """A tensor like ``tensor`` without values."""
    if is_lazy(tensor):
        return nn.UninitializedParameter()
    like = torch.empty(tensor.shape, dtype=tensor.dtype, device="meta")
    if isinstance(tensor, nn.Parameter):
        return nn.Parameter(like, requires_grad=tensor.requires_grad)
    return like.requires_grad_(tensor.requires_grad)
