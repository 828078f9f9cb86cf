"""Batches as data loaders give them, fed to a model."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from itertools import chain
from typing import Any

from torch import Tensor, nn

TARGETS = ("labels", "label", "target", "targets", "y")
"""Keys of a mapping under which the target is."""


class Feed:
    """Calls ``model`` with a batch: its inputs, moved to the model's device.

    A model whose forward needs several arguments gets as many items of a tuple, and a mapping's
    target is left out if forward has no such argument.

    Args:
        model: what is called.

    Example:
        >>> import torch
        >>> feed = Feed(nn.Linear(2, 1))
        >>> images, labels = torch.zeros(4, 2), torch.zeros(4)
        >>> feed(images).shape, feed((images, labels)).shape, feed({"input": images}).shape
        (torch.Size([4, 1]), torch.Size([4, 1]), torch.Size([4, 1]))
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        tensors = chain(model.parameters(), model.buffers())
        self._device = next((tensor.device for tensor in tensors), None)
        self._needed, self._names = _arguments(model)

    def __call__(self, batch: Any) -> Any:
        """Return ``model``'s output.

        Args:
            batch: a tensor; a tuple or list that begins with one, such as (input, target), or
                (first, second, target) and ((first, second), target) for a model of two inputs;
                or a mapping of keyword arguments.

        Raises:
            TypeError: ``batch`` is none of these.
        """
        if isinstance(batch, (tuple, list)) and batch:
            inputs = batch[0] if isinstance(batch[0], (tuple, list)) else batch
            if 1 < self._needed <= len(inputs):
                return self._model(*(self._here(each) for each in inputs[: self._needed]))
            batch = batch[0]
        if isinstance(batch, Tensor):
            return self._model(self._here(batch))
        if isinstance(batch, Mapping):
            return self._model(
                **{key: self._here(each) for key, each in batch.items() if self._takes(key)}
            )
        raise TypeError(
            f"a batch is a {type(batch).__name__}; without forward= it must be a tensor, a "
            "tuple or list that begins with one, or a mapping of keyword arguments"
        )

    def _takes(self, key: str) -> bool:
        return key not in TARGETS or self._names is None or key in self._names

    def _here(self, value: Any) -> Any:
        moves = isinstance(value, Tensor) and self._device is not None
        return value.to(self._device) if moves else value


def _arguments(model: nn.Module) -> tuple[int, frozenset[str] | None]:
    """Return how many positional arguments forward needs, and all names; None: any."""
    inner: Any = model
    while type(inner).__module__.startswith("torch.nn.parallel") and hasattr(inner, "module"):
        inner = inner.module
    try:
        parameters = list(inspect.signature(inner.forward).parameters.values())
    except (TypeError, ValueError, AttributeError):
        return 1, None
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    needed = sum(p.kind in positional and p.default is p.empty for p in parameters)
    any_name = any(p.kind is p.VAR_KEYWORD for p in parameters)
    return needed, None if any_name else frozenset(p.name for p in parameters)
