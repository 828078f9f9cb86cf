"""Batches as data loaders give them, fed to a model."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import chain
from typing import Any

from torch import Tensor, nn


class Feed:
    """Calls ``model`` with a batch: its input, moved to the model's device.

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

    def __call__(self, batch: Any) -> Any:
        """Return ``model``'s output.

        Args:
            batch: a tensor; a tuple or list that begins with one, such as (input, target); or a
                mapping of keyword arguments.

        Raises:
            TypeError: ``batch`` is none of these.
        """
        if isinstance(batch, (tuple, list)) and batch:
            batch = batch[0]
        if isinstance(batch, Tensor):
            return self._model(self._here(batch))
        if isinstance(batch, Mapping):
            return self._model(**{key: self._here(value) for key, value in batch.items()})
        raise TypeError(
            f"a batch is a {type(batch).__name__}; without forward= it must be a tensor, a "
            "tuple or list that begins with one, or a mapping of keyword arguments"
        )

    def _here(self, value: Any) -> Any:
        moves = isinstance(value, Tensor) and self._device is not None
        return value.to(self._device) if moves else value
