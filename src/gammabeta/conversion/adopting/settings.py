"""What the computation of somebody else's norm depends on, so that a change of it is noticed.

These are the module's plain attributes, the class and plain attributes of its parts, and what its
code reads from its class and its file, such as a switch that several layers share.
"""

from __future__ import annotations

import functools
import inspect
import types
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn.modules import module as torch_module

from gammabeta.layers.code import code_of

_PLAIN = (bool, int, float, str, type(None), torch.dtype, torch.device, torch.Size)
_MISSING = "<missing>"
_GLOBAL_HOOKS: tuple[dict[Any, Any], ...] = (
    torch_module._global_forward_hooks,
    torch_module._global_forward_pre_hooks,
    torch_module._global_backward_hooks,
    torch_module._global_backward_pre_hooks,
)
_COMPUTED = (property, functools.cached_property)
_OF_NO_MATTER = frozenset({"training", "qualified_name", *nn.Module().__dict__})


@dataclass(frozen=True)
class Names:
    """What is compared, by name.

    Attributes:
        attributes: of the module, on the object or its class.
        parts: its submodules.
        switches: of the files of its code: a global name, and the file's module.
    """

    attributes: tuple[str, ...]
    parts: tuple[str, ...]
    switches: tuple[tuple[str, str], ...]

    def values(self, module: nn.Module, files: tuple[dict[str, Any], ...]) -> Hashable:
        """What ``module`` computes by; None if hooks or a forward of their own hide its parts.

        Args:
            module: of the class for which the names were collected.
            files: the global names of the file of each of ``switches``.
        """
        own, cls = module.__dict__, type(module)
        found: list[Any] = [
            own[name] if name in own else getattr(cls, name, _MISSING) for name in self.attributes
        ]
        for registry in ("_parameters", "_buffers"):
            found += [(key, t.dim()) for key, t in own[registry].items() if t is not None]
        if self.parts:
            if any(_GLOBAL_HOOKS):
                return None
            parts = own["_modules"]
            for name in self.parts:
                part = parts.get(name)
                if part is None:
                    found.append(None)
                    continue
                its = part.__dict__
                if (
                    its["_forward_hooks"]
                    or its["_forward_pre_hooks"]
                    or its["_backward_hooks"]
                    or its["_backward_pre_hooks"]
                    or "forward" in its
                ):
                    return None
                found.append(type(part))
                for key in _KEYS.get(type(part), ()):
                    found.append(its.get(key, _MISSING))
                if type(part) not in _STATELESS:
                    found.append(part.training is module.training)
        for (name, _), names in zip(self.switches, files, strict=True):
            found.append(names.get(name, _MISSING))
        return tuple(found)


_STATELESS = frozenset({nn.Identity, nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.SiLU, nn.GELU, nn.Sigmoid,
                        nn.Tanh, nn.Hardswish, nn.Hardsigmoid, nn.Mish})  # fmt: skip
"""Classes that compute the same in training and in evaluation."""


def collect(module: nn.Module, live: frozenset[str]) -> Names | str:
    """The names for modules like ``module``, or why its settings cannot be compared.

    Args:
        module: of somebody else's class.
        live: attributes that are read at each call.
    """
    read = code_of(module)
    cls = type(module)
    names = read.names | read.strings | {*getattr(cls, "__constants__", ())}  # torch's own settings
    attributes = [
        name
        for name in sorted(names - _OF_NO_MATTER - live)
        if name in module.__dict__
        or (isinstance(getattr(cls, name, print), (*_PLAIN, tuple)) and not name.startswith("__"))
    ]
    if read.objects:
        return f"its code reads {min(read.objects)}, which may change unnoticed"
    for name in sorted(read.names):
        if isinstance(inspect.getattr_static(cls, name, None), _COMPUTED):
            return f"its code reads {name}, which is computed"
    for name in attributes:
        value = getattr(module, name)
        if not _is_plain(value):
            return f"its attribute {name}, a {type(value).__name__}, may change unnoticed"
    for name, part in module._modules.items():
        if part is None:
            continue
        if part._modules or part._parameters or part._buffers:
            return f"its part {name}, a {type(part).__name__}, may do anything"
        if type(part).__module__.split(".")[0] != "torch":
            its = code_of(part)
            if its.objects or its.switches or its.shares:
                return f"the code of its part {name} reads what may change unnoticed"
        keys = tuple(key for key in part.__dict__ if key not in _OF_NO_MATTER)
        if _KEYS.setdefault(type(part), keys) != keys:
            return f"its part {name} has other attributes than others of its class"
        for key in keys:
            if not _is_plain(part.__dict__[key]):
                return f"the attribute {key} of its part {name} may change unnoticed"
    return Names(tuple(attributes), tuple(module._modules), tuple(sorted(read.switches)))


_KEYS: dict[type[nn.Module], tuple[str, ...]] = {}
"""Class of a part → its attributes."""


def _is_plain(value: Any) -> bool:
    if isinstance(value, tuple):
        return all(map(_is_plain, value))
    return isinstance(value, (*_PLAIN, types.FunctionType, types.BuiltinFunctionType, type))
