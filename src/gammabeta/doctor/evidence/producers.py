"""Which layer a tensor of a forward pass came from."""

from __future__ import annotations

import weakref
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

ACTIVATIONS: dict[Any, str] = {
    F.relu: "relu",
    torch.relu: "relu",
    torch.relu_: "relu",
    Tensor.relu: "relu",
    Tensor.relu_: "relu",
    F.relu6: "relu",
    F.hardswish: "hardswish",
    F.gelu: "gelu",
    F.silu: "silu",
    F.sigmoid: "sigmoid",
    torch.sigmoid: "sigmoid",
    torch.sigmoid_: "sigmoid",
    Tensor.sigmoid: "sigmoid",
    Tensor.sigmoid_: "sigmoid",
    F.tanh: "tanh",
    torch.tanh: "tanh",
    torch.tanh_: "tanh",
    Tensor.tanh: "tanh",
    Tensor.tanh_: "tanh",
}
"""Functions that are activations → what they are called here."""

DROPOUTS = {
    F.dropout,
    F.dropout1d,
    F.dropout2d,
    F.dropout3d,
    F.alpha_dropout,
    F.feature_alpha_dropout,
    torch.dropout,
}
"""Functions that set values to 0 at random."""


BERNOULLI = {torch.bernoulli, Tensor.bernoulli, Tensor.bernoulli_}
"""Functions that draw zeros and ones: dropout by hand."""


class Producers:
    """The path of the layer, and the dim of its features, for each tensor that one returned.

    Tensors are not kept alive.
    """

    def __init__(self) -> None:
        self._made: dict[int, tuple[weakref.ref[Tensor], str, int]] = {}

    def add(self, tensor: Tensor, path: str, dim: int) -> None:
        """Note that the layer at ``path`` returned ``tensor``, with its features in ``dim``."""
        self._made[id(tensor)] = (weakref.ref(tensor), path, dim)

    def of(self, tensor: object) -> tuple[str, int | None]:
        """Return the path of the layer that returned ``tensor`` and the dim of its features.

        Example:
            >>> x, made = torch.ones(2, 3), Producers()
            >>> made.add(x, "0", 1)
            >>> made.of(x), made.of(x + 1)
            (('0', 1), ('', None))
        """
        found = self._made.get(id(tensor))
        if found is None or found[0]() is not tensor:
            return "", None
        return found[1], found[2]
