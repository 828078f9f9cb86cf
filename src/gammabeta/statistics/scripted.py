"""Modules that `torch.jit` has compiled: scripted, traced, or loaded from a file.

Their attributes, buffers and submodules live in a C++ object. They can be read and set, but their
Python side has no registries to change, and a batch norm among them is no `torch.nn.BatchNorm2d`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn
from torch.jit import ScriptModule

_VALUES = (bool, int, float, complex, str, list, tuple, dict, Tensor, type(None))
"""Types of attributes that a script can write to and Python can set."""


def is_scripted(module: nn.Module) -> bool:
    """Whether `torch.jit` has compiled ``module``.

    Example:
        >>> import torch
        >>> from torch.jit import ScriptModule
        >>> is_scripted(ScriptModule()), is_scripted(nn.Linear(2, 2))
        (True, False)
    """
    return isinstance(module, ScriptModule)


def original_name(module: nn.Module) -> str:
    """The name of the class that ``module`` was compiled from."""
    return str(getattr(module, "original_name", type(module).__name__))


def script_attributes(module: nn.Module) -> Iterator[tuple[str, Any]]:
    """Yield name and value of each attribute, buffers included, that a script can write to."""
    compiled: Any = getattr(module, "_concrete_type", None)
    names = {"training", *(name for name, _ in module.named_buffers(recurse=False))}
    if compiled is not None:
        names |= set(compiled.get_attributes())
    for name in sorted(names):
        if hasattr(module, name) and isinstance(value := getattr(module, name), _VALUES):
            yield name, value


def restore_attribute(module: nn.Module, name: str, before: Any) -> None:
    """Set the attribute ``name`` to what `script_attributes` gave, unless it still is that."""
    now = getattr(module, name)
    if now is before or (not isinstance(now, Tensor) and _equal(now, before)):
        return
    setattr(module, name, before)


def _equal(one: Any, other: Any) -> bool:
    try:
        return bool(one == other)
    except RuntimeError:  # lists of tensors do not compare
        return False
