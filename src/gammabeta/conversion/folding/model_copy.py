"""Copy a model, also one that holds computed tensors, which `copy.deepcopy` refuses."""

from __future__ import annotations

import copy
from typing import Any, TypeVar

from torch import Tensor, nn

_Module = TypeVar("_Module", bound=nn.Module)


def copy_model(model: _Module) -> _Module:
    """Return a deep copy of ``model``.

    Pruning and `torch.nn.utils.weight_norm` leave tensors in a module that were computed from its
    parameters. The copy has their values; its next call computes them again.

    Raises:
        ValueError: something of ``model`` cannot be copied.

    Example:
        >>> model = nn.Linear(2, 2)
        >>> model.computed = 2 * model.weight
        >>> copy_model(model).computed.requires_grad
        False
    """
    memo: dict[int, Any] = {}
    for module in model.modules():
        for value in (*module.__dict__.values(), *module._buffers.values()):
            if isinstance(value, Tensor) and not value.is_leaf:
                memo[id(value)] = value.detach().clone()
    try:
        return copy.deepcopy(model, memo)
    except Exception as error:
        said = (str(error).splitlines() or [""])[0]
        raise ValueError(
            f"model={type(model).__name__} cannot be copied ({type(error).__name__}: {said}); give "
            "inplace=True and no example"
        ) from error
