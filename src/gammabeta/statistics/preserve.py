"""Leave no trace: a model and the random states put back as they were."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

_REGISTRIES = ("_parameters", "_buffers", "_modules")


@contextmanager
def preserved(model: nn.Module) -> Iterator[None]:
    """Restore ``model`` and the random states on leaving, however the block is left.

    Restored bit by bit: the contents of every buffer, and of tensors that are plain attributes of
    a module; of every module its mode, attributes and which parameters, buffers and submodules it
    has; the random states of torch (CPU, every accelerator in use), NumPy and Python. The contents
    of parameters are not: to keep a copy of them would double a model, and a forward pass does
    not write them.

    Example:
        >>> layer = nn.BatchNorm1d(2)
        >>> with preserved(layer):
        ...     y = layer(torch.randn(8, 2))
        >>> layer.running_mean, layer.num_batches_tracked
        (tensor([0., 0.]), tensor(0))
    """
    modules = [
        (module, dict(module.__dict__), {key: dict(getattr(module, key)) for key in _REGISTRIES})
        for module in model.modules()
    ]
    contents = [(tensor, tensor.clone()) for tensor in _state(model)]
    states = _random_states()
    try:
        yield
    finally:
        for module, attributes, registries in modules:
            for key in module.__dict__.keys() - attributes.keys():
                del module.__dict__[key]
            module.__dict__.update(attributes)
            for key, entries in registries.items():
                registry: dict[str, Any] = getattr(module, key)
                registry.clear()
                registry.update(entries)
        with torch.no_grad():
            for buffer, before in contents:
                buffer.copy_(before)
        _set_random_states(states)


def _state(model: nn.Module) -> Iterator[Tensor]:
    """Every tensor a forward pass may write to; none that a backward pass may still read."""
    yield from (buffer for buffer in model.buffers() if not is_lazy(buffer))
    for module in model.modules():
        for value in module.__dict__.values():
            if isinstance(value, Tensor) and not value.requires_grad:
                yield value


def _random_states() -> tuple[Any, ...]:
    cuda: list[Tensor] = []
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        cuda = torch.cuda.get_rng_state_all()
    mps = torch.mps.get_rng_state() if torch.backends.mps.is_available() else None
    return torch.get_rng_state(), cuda, mps, numpy.random.get_state(), random.getstate()


def _set_random_states(states: tuple[Any, ...]) -> None:
    cpu, cuda, mps, of_numpy, of_python = states
    torch.set_rng_state(cpu)
    if cuda:
        torch.cuda.set_rng_state_all(cuda)
    if mps is not None:
        torch.mps.set_rng_state(mps)
    numpy.random.set_state(of_numpy)
    random.setstate(of_python)
