"""What a clinic notes of a training: each call of the model, and each optimizer step."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

_MOST = 8
"""Tensors of an output that are looked at."""


@dataclass(eq=False)
class Passed:
    """One call of the model.

    Attributes:
        training: the mode of the module that was called.
        grad: whether gradients were on.
        size: number of examples: the first dim of its first tensor; 0 if unknown.
        weights: sum of the version counters of parameters: it grows if they change.
        stepped: number of optimizer steps (of any optimizer) since the last step ended.
        updates: path of a batch norm → how often its running statistics were updated in the call;
            without those that were not.
        backward: number of backward passes that reached the output (so far).
        raised: whether the call raised an error.
        finite: whether the output is finite; None if that was not looked at.
        path: the module that was called: ``""`` is the model, see `Clinic`.
        number: number of the step that it belongs to.
        own: number of steps, so far, of optimizers with parameters of this module.
        foreign: number of steps, so far, of other optimizers.
        tasks: the backward passes that reached the output, as numbers that differ.
        recomputed: whether a backward pass called it, as activation checkpointing does.
        traceable: whether it can be known that no backward pass reached it.
        collecting: whether the momentum of batch norms was another one than at the start, as it is
            while somebody measures population statistics, or weights were exchanged, as for an
            evaluation of averaged ones.
        source: what is equal if two calls in a row had the same first tensor; or None.
        outside: updates before it, since the last step ended, in no call that was seen.
        drops: whether dropout was on although gradients were off.
        total: sum of its inputs and outputs, to see whether they are finite; or None.
    """

    training: bool
    grad: bool
    size: int
    weights: int
    stepped: int
    updates: dict[str, int] = field(default_factory=dict)
    backward: int = 0
    raised: bool = False
    finite: bool | None = None
    path: str = ""
    number: int = 0
    own: int = 0
    foreign: int = 0
    tasks: list[int] = field(default_factory=list)
    recomputed: bool = False
    traceable: bool = True
    collecting: bool = False
    source: tuple[object, ...] | None = None
    outside: dict[str, int] = field(default_factory=dict)
    drops: bool = False
    total: Tensor | None = None

    def is_finite(self) -> bool:
        """Whether its inputs and outputs are finite, as far as it is known; waits for them."""
        return self.total is None or bool(torch.isfinite(self.total))


@dataclass(eq=False)
class Step:
    """What happened since the last optimizer step ended.

    Attributes:
        number: number of this step; the first is 1.
        passes: calls of the model, in order.
        updates: path of a batch norm → how often its running statistics were updated, in calls of
            the model or not.
        modes: path of a batch norm → whether it is in training mode as the step ends.
        optimizer_steps: number of steps of any optimizer.
        rates: learning rates of the watched optimizer, by group; empty if it is unknown.
        own_steps: number of steps of optimizers with parameters of the model.
        outside: updates that happened in no call that was seen, and in no backward pass.
        recomputed: updates that happened in backward passes.
        without_gradient: batch norms that were updated, and whose γ requires a gradient, but had
            none when an optimizer stepped.
    """

    number: int
    passes: list[Passed]
    updates: dict[str, int]
    modes: dict[str, bool]
    optimizer_steps: int
    rates: tuple[float, ...] = ()
    own_steps: int = 0
    outside: dict[str, int] = field(default_factory=dict)
    recomputed: dict[str, int] = field(default_factory=dict)
    without_gradient: frozenset[str] = frozenset()


def added(total: dict[str, int], more: Mapping[str, int]) -> None:
    """Add ``more`` to ``total``."""
    for path, count in more.items():
        total[path] = total.get(path, 0) + count


def rates_of(optimizer: torch.optim.Optimizer | None) -> tuple[float, ...]:
    """Return the learning rates of the groups; none if there is no optimizer."""
    if optimizer is None:
        return ()
    return tuple([float(group["lr"]) for group in optimizer.param_groups if "lr" in group])


def tensors_of(value: Any, most: int = _MOST) -> list[Tensor]:
    """Return the first tensors in an output: of tuples, lists, mappings and dataclasses."""
    found: list[Tensor] = []
    _gather(value, found, most, 0)
    return found


def _gather(value: Any, found: list[Tensor], most: int, depth: int) -> None:
    if len(found) >= most or depth > 4:
        return
    if isinstance(value, Tensor):
        found.append(value)
    elif isinstance(value, Mapping):
        for each in value.values():
            _gather(each, found, most, depth + 1)
    elif isinstance(value, (tuple, list)):
        for each in value:
            _gather(each, found, most, depth + 1)
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        for each in dataclasses.fields(value):
            _gather(getattr(value, each.name, None), found, most, depth + 1)
