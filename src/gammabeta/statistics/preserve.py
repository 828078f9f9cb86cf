"""Leave no trace: restore a model and the random states as they were."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from gammabeta.statistics.contents import Contents
from gammabeta.statistics.scripted import is_scripted, restore_attribute, script_attributes
from gammabeta.statistics.undo import undo_all

_REGISTRIES = ("_parameters", "_buffers", "_modules")
_Step = Callable[[], object]
_PRESERVED: list[nn.Module] = []


@contextmanager
def preserved(model: nn.Module) -> Iterator[None]:
    """Restore ``model`` and the random states on leaving, however the block is left.

    Restored bit by bit: the contents of every buffer, and of tensors that are plain attributes of
    a module; of every module its mode, hooks, attributes and which parameters, buffers and
    submodules it has; which items are in lists, dicts, sets and deques that are its attributes;
    the random states of torch (CPU, CUDA and MPS), NumPy and Python. Modules that `torch.jit` has
    compiled are restored too. Not restored: the contents of parameters, because a copy of them
    would double a model and a forward pass does not write to them, and what is changed inside the
    items of a list or inside other objects.

    Each restoration is attempted, even if another one fails.

    Args:
        model: any module.

    Raises:
        TypeError: a module keeps its parameters, buffers or submodules in something other than a
            dict, which cannot be restored; the block is not entered.
        BaseException: the first failure of a restoration; `undo_all` says how others are shown.

    Example:
        >>> layer = nn.BatchNorm1d(2)
        >>> with preserved(layer):
        ...     y = layer(torch.randn(8, 2))
        >>> layer.running_mean, layer.num_batches_tracked
        (tensor([0., 0.]), tensor(0))
    """
    _refuse_unknown(model)
    steps = [*_module_steps(model), *_content_steps(model), *_random_steps()]
    _PRESERVED.append(model)
    try:
        yield
    finally:
        _PRESERVED.pop()
        undo_all(steps)


def is_preserving() -> bool:
    """Whether some model is being looked at and will be restored, see `preserved`."""
    return bool(_PRESERVED)


def _refuse_unknown(model: nn.Module) -> None:
    for name, module in model.named_modules():
        for key in _REGISTRIES:
            registry = getattr(module, key)
            if not isinstance(registry, dict) and not is_scripted(module):
                raise TypeError(
                    f"module {name!r} ({type(module).__name__}) stores its {key.lstrip('_')} in a "
                    f"{type(registry).__name__}, which cannot be restored afterwards; use a dict, "
                    "as torch.nn.Module does"
                )


# Attributes, and the containers among them


def _module_steps(model: nn.Module) -> Iterator[_Step]:
    for module in model.modules():
        yield partial(_restore_attributes, module, dict(module.__dict__))
        for value in module.__dict__.values():  # the registries and the hooks are among them
            if isinstance(value, (dict, list, set, deque)):
                yield partial(_restore_items, value, _items(value))
        if is_scripted(module):
            for name, value in script_attributes(module):
                yield partial(restore_attribute, module, name, value)


def _restore_attributes(module: nn.Module, attributes: dict[str, Any]) -> None:
    for key in module.__dict__.keys() - attributes.keys():
        del module.__dict__[key]
    module.__dict__.update(attributes)


def _items(container: Any) -> list[Any]:
    return list(container.items() if isinstance(container, dict) else container)


def _restore_items(container: Any, before: list[Any]) -> None:
    now = _items(container)
    if isinstance(container, dict):
        flat = [[part for item in items for part in item] for items in (now, before)]
    else:
        flat = [now, before]
    if len(flat[0]) == len(flat[1]) and all(a is b for a, b in zip(*flat, strict=True)):
        return
    container.clear()
    add = container.update if isinstance(container, (dict, set)) else container.extend
    add(before)


# The contents of tensors


def _content_steps(model: nn.Module) -> Iterator[_Step]:
    tensors = {id(tensor): tensor for tensor in _state(model)}  # one may be in several places
    for tensor in tensors.values():
        yield Contents(tensor).restore


def _state(model: nn.Module) -> Iterator[Tensor]:
    """Every tensor a forward pass may write to; none that a backward pass may still read."""
    yield from (buffer for buffer in model.buffers() if not is_lazy(buffer))
    for module in model.modules():
        attributes = list(module.__dict__.values())
        if is_scripted(module):
            attributes += [value for _, value in script_attributes(module)]
        for value in attributes:
            if isinstance(value, Tensor) and not value.requires_grad and not is_lazy(value):
                yield value


# Random states


def _random_steps() -> Iterator[_Step]:
    yield partial(torch.set_rng_state, torch.get_rng_state())
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        yield partial(torch.cuda.set_rng_state_all, torch.cuda.get_rng_state_all())
    if torch.backends.mps.is_available():
        yield partial(torch.mps.set_rng_state, torch.mps.get_rng_state())
    yield partial(numpy.random.set_state, numpy.random.get_state())
    yield partial(random.setstate, random.getstate())
