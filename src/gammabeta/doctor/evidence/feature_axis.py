"""Which dim of a tensor indexes features: followed from the layer that made them.

A linear layer, an embedding or a recurrent layer puts features last; a convolution puts them in dim
1. Transposing moves them, elementwise functions keep them. Where two sources disagree, or an
operand's dim is not known, nothing is said.
"""

from __future__ import annotations

import re
import weakref
from collections.abc import Iterable, Iterator
from typing import Any

from torch import Tensor, nn

_LAST = {
    "linear",
    "bilinear",
    "embedding",
    "lstm",
    "gru",
    "rnn_tanh",
    "rnn_relu",
    "multi_head_attention_forward",
    "_transformer_encoder_layer_fwd",
    "_native_multi_head_attention",
}
_CONV = re.compile(r"conv(?:_transpose)?([123])d")
_SWAPS = {"transpose", "swapaxes", "swapdims", "transpose_"}
_PERMUTES = {"permute", "movedim", "moveaxis"}
_MULTIPLIES = {"matmul", "__matmul__", "bmm", "mm"}
_UNKNOWN = {"einsum", "unfold", "fold", "roll", "sort", "topk", "gather", "argsort", "rot90"}


class FeatureAxes:
    """Follows the dim of the features through the functions of a forward pass."""

    def __init__(self) -> None:
        self._known: dict[int, tuple[weakref.ref[Tensor], int]] = {}

    def of(self, x: Tensor) -> int | None:
        """Return the dim of ``x`` that indexes features; None if it is not known."""
        found = self._known.get(id(x))
        return found[1] if found is not None and found[0]() is x else None

    def follow(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
        """Note the dim of what ``func`` returned."""
        name = getattr(func, "__name__", "")
        if name == "__get__":  # x.T, x.mT
            name = getattr(getattr(func, "__self__", None), "__name__", "")
        for y in _tensors([out]):
            dim = self._dim(name, args, kwargs, y) if y.is_floating_point() else None
            if dim is None:
                self._known.pop(id(y), None)
            else:
                self._known[id(y)] = (weakref.ref(y), dim)

    def _dim(
        self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any], y: Tensor
    ) -> int | None:
        conv = _CONV.fullmatch(name)
        if conv is not None:
            return 1 if y.dim() == int(conv[1]) + 2 else 0
        if name in _LAST:
            return y.dim() - 1 if y.dim() > 1 else None
        if name in _UNKNOWN or y.dim() == 0:
            return None
        inputs = [*_tensors(args), *_tensors(kwargs.values())]
        if name in _MULTIPLIES or name == "scaled_dot_product_attention":
            last = self._second(name, args, kwargs)
            return y.dim() - 1 if last else None
        if name in _SWAPS | _PERMUTES | {"T", "mT", "t"}:
            return self._moved(name, args, kwargs, y)
        return self._kept(inputs, y)

    def _second(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
        """Whether the operand that gives a product its last dim has its features there."""
        place = 2 if name == "scaled_dot_product_attention" else 1
        x = args[place] if len(args) > place else kwargs.get("value", kwargs.get("other"))
        if not isinstance(x, Tensor):
            return False
        return isinstance(x, nn.Parameter) or self.of(x) == x.dim() - 1

    def _moved(
        self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any], y: Tensor
    ) -> int | None:
        x = args[0] if args else kwargs.get("input")
        dim = self.of(x) if isinstance(x, Tensor) else None
        if dim is None:
            return None
        order = list(range(y.dim()))
        if name in ("T", "t"):
            order = order[::-1]
        elif name == "mT":
            order[-1], order[-2] = order[-2], order[-1]
        elif kwargs:
            return None
        elif name in _SWAPS:
            a, b = args[1:3]
            order[a], order[b] = order[b], order[a]
        elif name == "permute":
            given = args[1] if isinstance(args[1], (tuple, list)) else args[1:]
            order = [each % y.dim() for each in given]
        else:
            source, goal = args[1:3]
            if not isinstance(source, int) or not isinstance(goal, int):
                return None
            order.insert(goal % y.dim(), order.pop(source % y.dim()))
        return order.index(dim)

    def _kept(self, inputs: list[Tensor], y: Tensor) -> int | None:
        full = [x for x in inputs if x.dim() == y.dim() and x.is_floating_point()]
        alike = [x for x in full if x.shape == y.shape] or full or inputs[:1]
        dims = {
            None if dim is None else _after(x, dim, y)
            for x in alike
            if not isinstance(x, nn.Parameter)
            for dim in [self.of(x)]
        }
        return dims.pop() if len(dims) == 1 else None


def _after(x: Tensor, dim: int, y: Tensor) -> int | None:
    """Return where dim ``dim`` of ``x`` is in ``y``, which was made of it without a transpose."""
    if x.dim() == y.dim():
        return dim if x.shape[dim] == y.shape[dim] else None
    end = dim - x.dim()
    if -end <= y.dim() and x.shape[end:] == y.shape[end:]:
        return end + y.dim()
    return dim if x.shape[: dim + 1] == y.shape[: dim + 1] else None


def _tensors(values: Iterable[Any]) -> Iterator[Tensor]:
    for each in values:
        if isinstance(each, Tensor):
            yield each
        elif isinstance(each, (tuple, list)):
            yield from _tensors(each)
