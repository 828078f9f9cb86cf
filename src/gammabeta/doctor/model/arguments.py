"""What the argument of a call is certain to be, as the source says: true, false, or unknown."""

from __future__ import annotations

import ast
import inspect
import re
import sys

from torch import nn

from gammabeta.doctor.model.hidden import is_library
from gammabeta.doctor.model.source import CallSite

_DEPTH = 4


def certain(module: nn.Module, site: CallSite, node: ast.expr, depth: int = _DEPTH) -> bool | None:
    """Return the truth of an argument of the call at ``site``; None if it may change.

    Args:
        module: the module in whose ``forward`` the call is.
        site: the call, with the calls that led to it.
        node: the argument, as it is written in ``site.function``.
        depth: how many variables and callers are followed.
    """
    if depth == 0:
        return None
    if isinstance(node, ast.Constant):
        return bool(node.value)
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        inner = certain(module, site, node.operand, depth)
        return None if inner is None else not inner
    if isinstance(node, ast.BoolOp):
        values = [certain(module, site, each, depth) for each in node.values]
        decides = isinstance(node.op, ast.Or)
        if decides in values:
            return decides
        return None if None in values else not decides
    if isinstance(node, ast.Name):
        return _variable(module, site, node.id, depth)
    if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "self":
        return _attribute(module, node.attr)
    return None


def _variable(module: nn.Module, site: CallSite, name: str, depth: int) -> bool | None:
    stores = [n for n in ast.walk(site.tree) if _stores(n, name)]
    parameters = inspect.signature(site.function).parameters
    if name in parameters:
        return None if stores else _parameter(module, site, name, depth)
    if len(stores) != 1:
        return None
    for node in ast.walk(site.tree):
        if isinstance(node, ast.Assign) and any(target is stores[0] for target in node.targets):
            return certain(module, site, node.value, depth - 1)
    return None


def _stores(node: ast.AST, name: str) -> bool:
    return isinstance(node, ast.Name) and node.id == name and isinstance(node.ctx, ast.Store)


def _parameter(module: nn.Module, site: CallSite, name: str, depth: int) -> bool | None:
    """Return what the caller passes; ``forward`` may be called with anything."""
    if site.outer is None:
        return None
    names = list(inspect.signature(site.function).parameters)
    call = site.outer.node
    position = names.index(name) - _is_bound(module, call.func)
    given = site.outer.argument(position, name) if position >= 0 else None
    if given is not None:
        return certain(module, site.outer, given, depth - 1)
    stars = any(isinstance(a, ast.Starred) for a in call.args)
    if stars or any(keyword.arg is None for keyword in call.keywords):
        return None
    default = inspect.signature(site.function).parameters[name].default
    return bool(default) if isinstance(default, (bool, int)) else None


def _is_bound(module: nn.Module, called: ast.expr) -> bool:
    """Whether a call gives the first parameter by what is before the dot."""
    if not isinstance(called, ast.Attribute):
        return False
    before = ast.unparse(called.value)
    found = inspect.getattr_static(type(module), called.attr, None)
    return (before == "self" or before.startswith("super(")) and not isinstance(found, staticmethod)


def _attribute(module: nn.Module, name: str) -> bool | None:
    """Return a plain attribute that only ``__init__`` sets."""
    value = module.__dict__.get(name)
    if name == "training" or not isinstance(value, bool) or _is_set_elsewhere(module, name):
        return None
    return value


def _is_set_elsewhere(module: nn.Module, name: str) -> bool:
    """Whether anything but ``__init__`` sets or names an attribute, in the files of its classes.

    If their source is not there, something may.
    """
    classes = [cls for cls in type(module).__mro__ if not is_library(cls)]
    sets = re.compile(rf"\.{name}\s*(:[^=\n]+)?=(?!=)|[\"']{name}[\"']")
    try:
        files = {inspect.getsource(sys.modules[cls.__module__]) for cls in classes}
        inits = [vars(cls)["__init__"] for cls in classes if "__init__" in vars(cls)]
        made = [inspect.getsource(function) for function in inits]
    except (OSError, TypeError, KeyError):
        return True
    return sum(len(sets.findall(f)) for f in files) > sum(len(sets.findall(m)) for m in made)
