"""What code that cannot be traced may reach."""

from __future__ import annotations

from types import CodeType
from typing import Any

from torch import nn


def referenced(module: nn.Module) -> set[nn.Module]:
    """Modules that ``module`` refers to by attributes that are no submodules."""
    found: set[nn.Module] = set()
    values = [v for k, v in module.__dict__.items() if k not in ("_modules", "_parameters")]
    for _ in range(3):  # a module, a list of modules, a dict of lists
        inner: list[Any] = []
        for value in values:
            if isinstance(value, nn.Module):
                found |= set(value.modules())
            elif type(value) in (list, tuple, set):
                inner += value
            elif type(value) is dict:
                inner += value.values()
        values = inner[:10_000]
    return found - {module}


def names_in_code(cls: type) -> set[str]:
    """Return the names of attributes that the methods of ``cls`` mention.

    Example:
        >>> "weight" in names_in_code(nn.Linear)
        True
    """
    names: set[str] = set()
    codes: list[CodeType] = []
    for name in dir(cls):
        for base in cls.__mro__:
            code = getattr(vars(base).get(name), "__code__", None)
            if code is not None and base is not nn.Module:
                codes.append(code)
                if "super" not in code.co_names:
                    break
    while codes:
        code = codes.pop()
        names |= set(code.co_names)
        for constant in code.co_consts:
            if isinstance(constant, str):
                names.add(constant)
            elif isinstance(constant, CodeType):
                codes.append(constant)
    return names
