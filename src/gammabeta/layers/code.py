"""What the code of a module refers to, read without running it."""

from __future__ import annotations

import dis
import inspect
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from types import BuiltinFunctionType, CellType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any

from torch import Tensor, nn

_LIBRARIES = frozenset({"torch", "math", "numpy", "typing", "builtins", "functools", "operator"})
"""Whose switches are the process's, and whose functions do not depend on a file's."""

_EMPTY = CellType()
_PLAIN = (bool, int, float, str, type(None))


@dataclass
class Code:
    """What the forward of a module, and the functions that it calls, refer to.

    Attributes:
        names: all names.
        strings: all texts, by which attributes may be looked up.
        shares: whether they hold on to a module or tensor that a copy of the module would share.
        switches: plain values and functions read from files: name, and the file's module.
        objects: what else is read from files that may change unnoticed.
    """

    names: set[str] = field(default_factory=set)
    strings: set[str] = field(default_factory=set)
    shares: bool = False
    switches: set[tuple[str, str]] = field(default_factory=set)
    objects: set[str] = field(default_factory=set)


def code_of(module: nn.Module) -> Code:
    """Return what the code of ``module`` refers to; torch's and gammabeta's own is not read.

    Example:
        >>> class Twice(nn.Module):
        ...     def forward(self, x):
        ...         return x.mul(2)
        >>> Twice.__module__ = "theirs"
        >>> code_of(Twice()).names
        {'mul'}
    """
    ours: dict[str, Any] = {}
    for cls in reversed(type(module).__mro__):
        if not cls.__module__.startswith(("torch.", "gammabeta.")):
            ours |= {name: value for name, value in vars(cls).items() if callable(value)}
    code, asked = Code(), set()
    # Of code within a function, such as a lambda, the file is that of the function.
    found: list[tuple[Any, dict[str, Any]]] = []
    found.append((_function(module.__dict__.get("forward", ours.get("forward"))), {}))
    while found:
        function, theirs = found.pop()
        its = getattr(function, "__code__", function)
        if not isinstance(its, CodeType) or its in asked:
            continue
        asked.add(its)
        code.names |= {*its.co_names}
        code.strings |= {text for text in its.co_consts if isinstance(text, str)}
        theirs = getattr(function, "__globals__", theirs)
        found += [(const, theirs) for const in its.co_consts]
        reached = [ours[name] for name in its.co_names if name in ours]
        held = {name: cell.cell_contents for name, cell in _cells(function, its)}
        code.objects |= {n for n, v in held.items() if not (callable(v) or isinstance(v, _PLAIN))}
        reached += held.values()
        for name in _global_names(its):
            if name in theirs:
                reached += _read(code, name, theirs, its.co_names)
        for value in reached:
            owner = getattr(value, "__self__", value)
            code.shares |= isinstance(owner, (nn.Module, Tensor))
            home = str(getattr(value, "__module__", "torch"))
            if not isinstance(value, type) and home.split(".")[0] != "torch":
                found.append((_function(value), {}))
    return code


def _global_names(code: CodeType) -> list[str]:
    """The names that ``code`` looks up in its file; `co_names` has those of attributes, too."""
    found = [i.argval for i in dis.get_instructions(code) if i.opname.endswith("_GLOBAL")]
    return [*dict.fromkeys(found)]


def _cells(function: Any, code: CodeType) -> Iterator[tuple[str, CellType]]:
    """The variables of the functions around ``function`` that it uses and that have a value."""
    cells = getattr(function, "__closure__", None) or ()
    yield from ((name, c) for name, c in zip(code.co_freevars, cells, strict=False) if c != _EMPTY)


def _read(code: Code, name: str, names: dict[str, Any], others: tuple[str, ...]) -> Iterator[Any]:
    """Note what ``name`` is in a file whose global names are ``names``; yield what to look into.

    Args:
        code: where it is noted.
        name: read by code of that file.
        names: of the file.
        others: all names of the code, some of which may be attributes of ``name``.
    """
    value, file = names[name], str(names.get("__name__"))
    known = file in sys.modules and vars(sys.modules[file]) is names
    if isinstance(value, _PLAIN):
        if known:
            code.switches.add((name, file))
        else:
            code.objects.add(name)
    elif isinstance(value, ModuleType):
        if value.__name__.split(".")[0] not in _LIBRARIES:
            for other in others:
                if other in vars(value):
                    yield from _read(code, other, vars(value), ())
    else:
        yield value
        if isinstance(value, FunctionType) and known:
            code.switches.add((name, file))
        if not callable(value) and not isinstance(value, BuiltinFunctionType):
            code.objects.add(name)


def _function(value: Any) -> Any:
    """The plain function in a bound method, a partial call or a wrapper, whose parts are copied."""
    while isinstance(value, (partial, MethodType)):
        value = value.func if isinstance(value, partial) else value.__func__
    return inspect.unwrap(value) if callable(value) else value
