"""What a node of a graph gets, and what of it it uses."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx


class BlockedError(Exception):
    """Why two layers cannot be made one.

    Attributes:
        mendable: whether a person can do something about it.
    """

    def __init__(self, reason: str, mendable: bool = False) -> None:
        super().__init__(reason)
        self.mendable = mendable


_OF_SHAPE = frozenset({"shape", "ndim", "dtype", "device", "size", "dim", "numel", "__len__"})
_LIKE_OTHER = frozenset({"reshape_as", "view_as", "expand_as", "type_as"})


def sees_values(user: fx.Node, given: fx.Node) -> bool:
    """Whether ``user`` uses more of ``given`` than its shape and type."""
    if user.op == "call_method" and user.target in _LIKE_OTHER:
        return user.args[0] is given
    return not asks_shape(user)


def asks_shape(node: fx.Node) -> bool:
    """Whether ``node`` needs no value of what it gets."""
    if node.op == "call_function" and node.target is getattr:
        return node.args[1] in _OF_SHAPE
    return node.op == "call_method" and node.target in _OF_SHAPE


def flattens_batch(node: fx.Node) -> bool:
    """Whether ``node`` is ``x.flatten(0, 1)``, which keeps the last dim's channels."""
    if node.op == "call_method" and node.target == "flatten":
        return node.args[1:] == (0, 1) and not node.kwargs
    return node.target is torch.flatten and node.args[1:] == (0, 1) and not node.kwargs


def joined(node: fx.Node) -> list[fx.Node] | None:
    """Return the tensors that ``node`` joins by their channels, dim 1; None if it does not."""
    if node.target not in (torch.cat, torch.concat, torch.concatenate):
        return None
    given: Any = node.args[0] if node.args else node.kwargs.get("tensors")
    dim = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim", 0)
    if dim != 1 or not isinstance(given, (list, tuple)) or len(set(given)) < len(given):
        return None
    return list(given) if all(isinstance(one, fx.Node) for one in given) else None


def has_residual(node: fx.Node) -> bool:
    """Whether a call of a norm gives it more than its input."""
    return any(value is not None for value in _others(node))


def _others(node: fx.Node) -> list[object]:
    return [*node.args[1:], *(value for key, value in node.kwargs.items() if key != "input")]


def input_of(node: fx.Node) -> fx.Node:
    """The input of a call, if nothing else of the call is the same."""
    given = node.args[0] if node.args else node.kwargs.get("input")
    if not isinstance(given, fx.Node):
        raise BlockedError("its input is not known")
    others: list[fx.Node] = []
    rest: Any = _others(node)
    fx.map_arg(rest, others.append)
    if given in others:
        raise BlockedError("its input is its residual, too")
    return given
