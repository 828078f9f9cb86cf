"""Evaluate a condition in a module's code, as far as the module's attributes decide it."""

from __future__ import annotations

import ast
from typing import Any

from torch import nn

MISSING = object()


def holds(module: nn.Module, test: ast.expr) -> bool | None:
    """Evaluate a condition on attributes of ``module``; None if it may change, as its mode may.

    Example:
        >>> layer = nn.BatchNorm1d(2, affine=False)
        >>> holds(layer, ast.parse("self.affine and x.dim() > 2", mode="eval").body)
        False
        >>> holds(layer, ast.parse("self.training", mode="eval").body) is None
        True
    """
    if isinstance(test, ast.BoolOp):
        values = [holds(module, each) for each in test.values]
        decides = isinstance(test.op, ast.Or)
        if decides in values:
            return decides
        return None if None in values else not decides
    if isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not):
        value = holds(module, test.operand)
        return None if value is None else not value
    if isinstance(test, ast.Compare) and len(test.ops) == 1:
        return _compared(
            test.ops[0], value_of(module, test.left), value_of(module, test.comparators[0])
        )
    if isinstance(test, ast.Call) and ast.unparse(test.func) == "hasattr" and len(test.args) == 2:
        owner, name = test.args
        if ast.unparse(owner) == "self" and isinstance(name, ast.Constant):
            return hasattr(module, str(name.value))
        return None
    value = value_of(module, test)
    if isinstance(value, (bool, int, float, str, type(None))):
        return bool(value)
    return True if isinstance(value, nn.Module) and not hasattr(type(value), "__len__") else None


def _compared(operator: ast.cmpop, left: Any, right: Any) -> bool | None:
    if left is MISSING or right is MISSING:
        return None
    if isinstance(operator, (ast.Is, ast.IsNot)):
        return (left is right) == isinstance(operator, ast.Is)
    plain = (bool, int, float, str, type(None))
    if isinstance(operator, (ast.Eq, ast.NotEq)) and isinstance(left, plain):
        equal = (left == right) == isinstance(operator, ast.Eq)
        return equal if isinstance(right, plain) else None
    return None


def value_of(module: nn.Module, node: ast.expr) -> Any:
    """Return a constant or an attribute of ``module``; `MISSING` for a property or its mode."""
    if isinstance(node, ast.Constant):
        return node.value
    if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "self":
        if node.attr == "training":
            return MISSING
        for held in (
            module.__dict__,
            module._modules,
            module._parameters,
            module._buffers,
            vars(type(module)),
        ):
            if node.attr in held:
                value = held[node.attr]
                return MISSING if isinstance(value, property) else value
    return MISSING
