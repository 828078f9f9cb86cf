"""Read what the ``forward`` of a module calls, from its source code, without running it."""

from __future__ import annotations

import ast
import inspect
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from types import FunctionType, MethodType, ModuleType
from typing import Any

from torch import nn

from gammabeta.doctor.model.conditions import holds, value_of
from gammabeta.doctor.model.hidden import is_library

_DEPTH = 4
_MISSING = object()
_NO_CALL = ast.Call(ast.Name("function"), [ast.Starred(ast.Name("args"))], [])
"""The call of a function that somebody else calls."""


@dataclass(frozen=True, eq=False)
class CallSite:
    """One call in the code of a function.

    Attributes:
        callee: what is called; None if that is not known before it runs.
        name: the called name as it is written, such as ``"nn.BatchNorm2d"``.
        node: the call.
        conditions: tests of the ``if``s around it, the outermost first, and whether each must be
            true; tests of earlier ``if``s that return are among them.
        statement: the statement that contains it.
        function: the function whose code it is.
        tree: the function's code.
        outer: the call that led to this function; None for ``forward`` itself.
    """

    callee: Any
    name: str
    node: ast.Call
    conditions: tuple[tuple[ast.expr, bool], ...]
    statement: ast.stmt | None
    function: FunctionType
    tree: ast.AST
    outer: CallSite | None = None

    @property
    def chain(self) -> list[CallSite]:
        """This call, and the calls that led to it."""
        return [self, *(self.outer.chain if self.outer is not None else ())]

    def argument(self, position: int, keyword: str) -> ast.expr | None:
        """Return an argument as it is written; None if it is not given (or hidden by a star)."""
        for given in self.node.keywords:
            if given.arg == keyword:
                return given.value
        args = self.node.args
        if position < len(args) and not any(isinstance(a, ast.Starred) for a in args):
            return args[position]
        return None

    def depends_on(self, word: str) -> bool:
        """Whether a condition around the call mentions ``word``, such as ``"training"``."""
        return any(word in ast.unparse(test) for site in self.chain for test, _ in site.conditions)


def forward_calls(module: nn.Module) -> list[CallSite]:
    """Return the calls in ``module.forward`` and in the methods and functions that it calls.

    Code of torch and gammabeta is left out, and code whose source is not available.
    """
    start = module.__dict__.get("forward") or getattr(type(module), "forward", None)
    found: list[CallSite] = []
    _follow(module, start, found, set(), _DEPTH)
    return found


def _follow(
    module: nn.Module,
    value: Any,
    found: list[CallSite],
    seen: set[Any],
    depth: int,
    outer: CallSite | None = None,
) -> None:
    function = _function(value)
    if function is None or function in seen or depth == 0 or is_library(function):
        return
    seen.add(function)
    for each in calls_of(function):
        if any(holds(module, test) is not wanted for test, wanted in _known(module, each)):
            continue
        target = _target(module, function, each)
        callee = target if each.callee is None else each.callee
        site = replace(each, outer=outer, callee=callee)
        found.append(site)
        _follow(module, target, found, seen, depth - 1, site)
        for passed in each.node.args:  # such as checkpoint(self.run, x)
            handed = _passed(module, function, passed)
            if handed is not None:
                _follow(module, handed, found, seen, depth - 1, replace(site, node=_NO_CALL))


def _passed(module: nn.Module, function: FunctionType, node: ast.expr) -> Any:
    """Return the method or function that a call is given, if an argument is one."""
    if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "self":
        method = getattr(type(module), node.attr, None)
        return method if isinstance(method, FunctionType) else None
    if isinstance(node, ast.Name):
        value = function.__globals__.get(node.id)
        return value if isinstance(value, FunctionType) else None
    return None


def _known(module: nn.Module, site: CallSite) -> list[tuple[ast.expr, bool]]:
    """Return the conditions of a call whose value is fixed by the module."""
    return [each for each in site.conditions if holds(module, each[0]) is not None]


def _function(value: Any) -> FunctionType | None:
    if isinstance(value, MethodType):
        value = value.__func__
    if isinstance(value, staticmethod):
        value = value.__func__
    if isinstance(value, partial):
        value = value.func
    if value is not None and not isinstance(value, type):
        value = inspect.unwrap(value) if callable(value) else value
    return value if isinstance(value, FunctionType) else None


def _target(module: nn.Module, function: FunctionType, site: CallSite) -> Any:
    """Return the method of ``module`` or the function that is called."""
    called = site.node.func
    if isinstance(called, ast.Subscript):
        return _chosen(module, function, site, called)
    if isinstance(called, ast.Attribute):
        if isinstance(called.value, ast.Name) and called.value.id == "self":
            own = module.__dict__.get(called.attr)
            return own if own is not None else getattr(type(module), called.attr, None)
        base = called.value
        if isinstance(base, ast.Call) and ast.unparse(base.func) == "super":
            home = function.__qualname__.rpartition(".")[0]
            mro = type(module).__mro__
            index = next((i for i, c in enumerate(mro) if c.__qualname__ == home), -1)
            return next(
                (vars(c)[called.attr] for c in mro[index + 1 :] if called.attr in vars(c)), None
            )
    return site.callee


def _chosen(
    module: nn.Module, function: FunctionType, site: CallSite, called: ast.Subscript
) -> Any:
    """Return what a table of classes or functions holds under a key that the module fixes."""
    own = isinstance(called.value, ast.Attribute) and ast.unparse(called.value.value) == "self"
    if own and isinstance(called.value, ast.Attribute):
        table = getattr(type(module), called.value.attr, module.__dict__.get(called.value.attr))
    else:
        table = _resolve(function, site.tree, called.value)
    key = value_of(module, called.slice)
    try:
        return table.get(key) if isinstance(table, dict) else None
    except TypeError:  # a key that is known only when it runs
        return None


@lru_cache(maxsize=4096)
def calls_of(function: FunctionType) -> tuple[CallSite, ...]:
    """Return the calls in the code of one function."""
    tree = _tree(function)
    if tree is None:
        return ()
    owner = function.__qualname__.rpartition(".")[0]
    if owner and not owner.endswith("<locals>") and function.__code__.co_argcount:
        _rename(tree, function.__code__.co_varnames[0], "self")
    return tuple(_visit(function, tree, tree, (), None))


def _visit(
    function: FunctionType,
    tree: ast.AST,
    node: ast.AST,
    conditions: tuple[tuple[ast.expr, bool], ...],
    statement: ast.stmt | None,
) -> Iterator[CallSite]:
    if isinstance(node, ast.Call):
        callee = _resolve(function, tree, node.func)
        yield CallSite(callee, ast.unparse(node.func), node, conditions, statement, function, tree)
    for name, value in ast.iter_fields(node):
        inside = conditions
        if isinstance(node, (ast.If, ast.IfExp)) and name != "test":
            inside = (*conditions, (node.test, name == "body"))
        elif isinstance(node, ast.ExceptHandler):
            inside = (*conditions, (node.type or ast.Name("exception"), True))
        children = value if isinstance(value, list) else [value]
        for child in children:
            if not isinstance(child, ast.AST):
                continue
            of = child if isinstance(child, ast.stmt) else statement
            yield from _visit(function, tree, child, inside, of)
            if isinstance(child, ast.If) and _leaves(child):
                inside = (*inside, (child.test, False))


def _leaves(branch: ast.If) -> bool:
    return isinstance(branch.body[-1], (ast.Return, ast.Raise))


def _tree(function: FunctionType) -> ast.AST | None:
    try:
        text = textwrap.dedent(inspect.getsource(function))
    except (OSError, TypeError, IndentationError):
        return None
    if function.__name__ == "<lambda>":
        return _lambda(text)
    try:
        return ast.parse(text)
    except SyntaxError:
        return None


def _lambda(text: str) -> ast.AST | None:
    """Parse the first lambda in lines that need not be a statement."""
    start = text.find("lambda")
    text = text[start:][:1000]
    for end in range(len(text), 0, -1) if start >= 0 else ():
        try:
            return ast.parse(text[:end].strip())
        except SyntaxError:
            continue
    return None


def _resolve(function: FunctionType, tree: ast.AST, node: ast.expr) -> Any:
    """Return what a name, or a dotted name, stands for in ``function``; None if unknown."""
    if isinstance(node, ast.Name):
        cells = zip(function.__code__.co_freevars, function.__closure__ or (), strict=False)
        for name, cell in cells:
            if name == node.id:
                try:
                    return cell.cell_contents
                except ValueError:
                    return None
        value = function.__globals__.get(node.id, _MISSING)
        return _local(function, tree, node.id) if value is _MISSING else value
    if isinstance(node, ast.Attribute):
        base = _resolve(function, tree, node.value)
        if isinstance(base, (ModuleType, type)):
            return getattr(base, node.attr, None)
    return None


def _local(function: FunctionType, tree: ast.AST, name: str) -> Any:
    """Return what an import, or an assignment of a dotted name, in the function calls ``name``."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign) and _is_global(function, node.value):
            named = [target for target in node.targets if isinstance(target, ast.Name)]
            if any(target.id == name for target in named):
                return _resolve(function, tree, node.value)
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            for alias in node.names:
                if (alias.asname or alias.name) != name:
                    continue
                if isinstance(node, ast.Import):
                    return sys.modules.get(alias.name)
                home = sys.modules.get(node.module or "")
                return getattr(home, alias.name, None)
    return None


def _is_global(function: FunctionType, node: ast.expr) -> bool:
    """Whether a dotted name begins with a global variable."""
    if not isinstance(node, ast.Attribute):
        return False
    root: ast.expr = node
    while isinstance(root, ast.Attribute):
        root = root.value
    return isinstance(root, ast.Name) and root.id in function.__globals__


def _rename(tree: ast.AST, before: str, after: str) -> None:
    """Rename a variable: the first parameter of a method need not be called ``self``."""
    for node in ast.walk(tree) if before != after else ():
        if isinstance(node, ast.Name) and node.id == before:
            node.id = after
