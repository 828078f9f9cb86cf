"""Everything of a model and of the process that a measure must leave as it was, bit by bit."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy
import torch
from torch import nn

PARTS = (
    *("parameters", "buffers", "gradients", "which gradients", "requires_grad", "modes and hooks"),
    *("attributes", "torch's random state", "NumPy's", "Python's"),
)


def _state(model: nn.Module) -> list[Any]:
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return [
        [(p.data_ptr(), p._version, p.detach().clone()) for p in model.parameters()],
        [b.detach().clone() for b in model.buffers()],
        [None if p.grad is None else p.grad.clone() for p in model.parameters()],
        [None if p.grad is None else id(p.grad) for p in model.parameters()],
        [p.requires_grad for p in model.parameters()],
        [(m.training, *(list(getattr(m, hook)) for hook in hooks)) for m in model.modules()],
        [sorted(vars(m)) for m in model.modules()],
        torch.get_rng_state(),
        [str(part) for part in numpy.random.get_state()],
        str(random.getstate()),
    ]


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor):
        return bool(torch.equal(one, other))
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(_same, one, other))
    return bool(one == other)


@contextmanager
def untouched(model: nn.Module) -> Iterator[None]:
    """Fail unless ``model`` and the random states are the same after the block."""
    before = _state(model)
    try:
        yield
    finally:
        names = (
            "parameters buffers grads grad-identity requires_grad hooks attributes rng numpy python"
        )
        for name, one, other in zip(names.split(), before, _state(model), strict=True):
            assert _same(one, other), name
