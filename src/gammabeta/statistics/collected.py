"""Running statistics of a whole model, read from wherever people keep them.

A model is a module, a ``state_dict`` (of tensors or of NumPy arrays), or a list of arrays in the
order of a ``state_dict``, as federated learning sends it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy
import torch
from torch import Tensor, nn

from gammabeta.layers.traits import running

MEAN, VAR, TRACKED = "running_mean", "running_var", "num_batches_tracked"


@dataclass(frozen=True)
class LayerStatistics:
    """Running statistics of one layer.

    Attributes:
        mean, var: as they are stored; any floating dtype, any device.
        tracked: the number of mini-batches, or None.
    """

    mean: Tensor
    var: Tensor
    tracked: Tensor | None


def collected(
    model: object, who: str, keys: Sequence[str] | None, *, values: bool = True
) -> dict[str, LayerStatistics]:
    """Return the running statistics of each layer of ``model``, by name.

    Args:
        model: a module, a mapping of names, or a sequence of arrays.
        who: what the person calls it (``"models[2]"``), for messages.
        keys: names of a sequence's arrays, or None if they are unknown.
        values: whether the values are checked.

    Raises:
        TypeError: ``model`` is none of these.
        ValueError: a sequence whose names are unknown or of another number; statistics that are
            not finite, a negative variance, or shapes that differ within a layer.

    Example:
        >>> list(collected(nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)), "model", None))
        ['1']
        >>> list(collected(nn.BatchNorm1d(2).state_dict(), "model", None))
        ['']
    """
    if isinstance(model, nn.Module):
        entries = dict(_entries(model))
    elif isinstance(model, Mapping):
        entries = dict(model)
    elif isinstance(model, Sequence) and not isinstance(model, (str, bytes)):
        entries = _named(model, who, keys)
    else:
        raise TypeError(
            f"{who} is of type {type(model).__name__}; give a torch.nn.Module, a state_dict, or a "
            "list of arrays in the order of the state_dict"
        )
    found = {}
    for key in entries:
        name = layer_of(key)
        if name is None or join(name, VAR) not in entries:
            continue
        mean, var, tracked = (
            _tensor(entries.get(join(name, what)), f"{who}: {join(name, what)!r}")
            for what in (MEAN, VAR, TRACKED)
        )
        if mean is None or var is None:
            continue
        _check(mean, var, f"{who}: layer {name!r}")
        if values:
            _check_values(mean, var, f"{who}: layer {name!r}")
        found[name] = LayerStatistics(mean, var, tracked)
    return found


def layer_of(key: str) -> str | None:
    """Return the name of the layer whose ``running_mean`` is stored under ``key``, else None.

    Example:
        >>> layer_of("stem.bn.running_mean"), layer_of("running_mean"), layer_of("bn.weight")
        ('stem.bn', '', None)
    """
    if not isinstance(key, str):
        return None
    name, _, last = key.rpartition(".")
    return name if last == MEAN else None


def join(name: str, what: str) -> str:
    """Return the key of a ``state_dict`` for the buffer ``what`` of the layer ``name``."""
    return f"{name}.{what}" if name else what


def _entries(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """The running statistics of ``model``, under the keys of its ``state_dict``."""
    for name, module in model.named_modules(remove_duplicate=False):
        its = running(module)
        if its is not None:
            for what, value in ((MEAN, its.mean), (VAR, its.var), (TRACKED, its.tracked)):
                if value is not None:
                    yield join(name, what), value


def _named(arrays: Sequence[Any], who: str, keys: Sequence[str] | None) -> dict[str, Any]:
    """The arrays under the names of their places."""
    if keys is None:
        raise ValueError(
            f"{who} is a {type(arrays).__name__} of arrays, whose names are unknown; pass into=, a "
            "model or state_dict with the same entries, or state_dicts"
        )
    short = [key for key in keys if key.rpartition(".")[2] != TRACKED]  # often left out
    if len(arrays) not in (len(keys), len(short)):
        raise ValueError(
            f"{who} has {len(arrays)} arrays, but the state_dict of into has {len(keys)} entries "
            f"({len(short)} without {TRACKED}); give one array for each, in that order"
        )
    return dict(zip(keys if len(arrays) == len(keys) else short, arrays, strict=True))


def _tensor(value: object, who: str) -> Tensor | None:
    if value is None or isinstance(value, Tensor):
        return value
    if isinstance(value, (numpy.ndarray, numpy.generic)):
        return torch.from_numpy(numpy.array(value))  # a copy: it may be read-only
    raise TypeError(f"{who} is of type {type(value).__name__}; give a tensor or a NumPy array")


def _check(mean: Tensor, var: Tensor, who: str) -> None:
    if mean.shape != var.shape:
        raise ValueError(
            f"{who} has a {MEAN} of shape {tuple(mean.shape)} and a {VAR} of shape "
            f"{tuple(var.shape)}; they must be equal"
        )
    for what, value in ((MEAN, mean), (VAR, var)):
        if not value.is_floating_point():
            raise ValueError(f"{who} has {what} of {value.dtype}; it must be floating-point")


def _check_values(mean: Tensor, var: Tensor, who: str) -> None:
    for what, value in ((MEAN, mean), (VAR, var)):
        if value.is_meta:
            raise ValueError(f"{who} has {what} on the meta device, which stores no values")
        if not torch.isfinite(value).all():
            raise ValueError(
                f"{who} has a {what} that is not finite; leave this model out, or calibrate it"
            )
    if (var < 0).any():
        raise ValueError(
            f"{who} has a negative {VAR} ({var.min().item():.3g}), which no data have; an "
            "optimizer may have moved it with the weights: leave the buffers out of it"
        )
