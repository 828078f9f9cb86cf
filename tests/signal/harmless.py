"""Train a model twice, watched and not, and compare every bit that training leaves behind."""

from __future__ import annotations

import random
import warnings
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import gammabeta as gb
from gammabeta.signal import Run, Watch
from gammabeta.signal.run import Frame

Loss = Callable[[nn.Module, int], Tensor]
Step = Callable[[nn.Module, torch.optim.Optimizer, int], Tensor]
"""Take one optimizer step on the mini-batch of this number and return its loss."""

STEPS = 20


@dataclass
class Outcome:
    """What a training leaves behind, as bytes: NaN equals NaN, and 0 is not −0."""

    losses: list[bytes] = field(default_factory=list)
    state: dict[str, bytes] = field(default_factory=dict)
    gradients: dict[str, bytes | None] = field(default_factory=dict)
    optimizer: list[bytes] = field(default_factory=list)
    rng: list[bytes] = field(default_factory=list)
    trace: list[tuple[str, ...]] = field(default_factory=list)


def bits(value: Tensor) -> bytes:
    """Return the bytes of ``value``."""
    if value.is_sparse:
        value = value.to_dense()
    return value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes()


def generators() -> list[bytes]:
    """Return the state of every generator of random numbers."""
    return [
        bits(torch.get_rng_state()),
        np.random.get_state()[1].tobytes(),  # type: ignore[index, union-attr]
        repr(random.getstate()).encode(),
    ]


def trace(model: nn.Module) -> list[tuple[str, ...]]:
    """Return what a watch might leave on modules and parameters: attributes and hooks.

    Marks of the compiler are left out: whether it has seen a parameter is its own business.
    """
    found = []
    for name, module in model.named_modules():
        hooks = [
            f"{key}: {len(value)}"
            for key, value in vars(module).items()
            if "hook" in key and isinstance(value, dict)
        ]
        found.append((name, type(module).__name__, *sorted(vars(module)), *hooks))
    for name, parameter in model.named_parameters():
        hooks = [str(len(getattr(parameter, key) or ())) for key in _PARAMETER_HOOKS]
        held = sorted(key for key in vars(parameter) if not key.startswith("_dynamo"))
        found.append((name, *held, *hooks))
    return found


_PARAMETER_HOOKS = ("_backward_hooks", "_post_accumulate_grad_hooks")


def plain_step(loss: Loss) -> Step:
    """Return a step as most people write it."""

    def step(model: nn.Module, optimizer: torch.optim.Optimizer, number: int) -> Tensor:
        optimizer.zero_grad()
        value = loss(model, number)
        value.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        return value.detach()

    return step


def sgd(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(
        [p for p in model.parameters() if p.requires_grad], lr=0.01, momentum=0.9
    )


def train(
    model: nn.Module,
    step: Step,
    signal: Watch | None = None,
    steps: int = STEPS,
    **told: Any,
) -> Outcome:
    """Train ``model`` for ``steps`` steps, and return all that is left behind.

    Args:
        model: to be trained.
        step: takes a step.
        signal: told of each step.
        steps: how many.
        **told: further arguments of ``signal.step``.
    """
    optimizer = sgd(model)
    found = Outcome()
    torch.manual_seed(1)
    np.random.seed(1)
    random.seed(1)
    for number in range(steps):
        loss = step(model, optimizer, number)
        found.losses.append(bits(loss))
        if signal is not None:
            signal.step(loss=loss, **told)
    found.rng = generators()
    for name, value in model.state_dict().items():
        if isinstance(value, Tensor):
            found.state[name] = bits(value)
    for name, parameter in model.named_parameters():
        found.gradients[name] = None if parameter.grad is None else bits(parameter.grad)
    for state in optimizer.state.values():
        found.optimizer += [bits(v) for v in state.values() if isinstance(v, Tensor)]
    return found


@contextmanager
def warned() -> Iterator[list[str]]:
    """Collect what is warned of."""
    messages: list[str] = []
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        yield messages
    messages += [str(w.message) for w in said]


_UNWATCHED: dict[Hashable, Outcome] = {}


def unharmed(
    make: Callable[[], nn.Module],
    step: Step,
    path: Path,
    *,
    alike: Hashable = None,
    steps: int = STEPS,
    after: Callable[[nn.Module], object] = lambda model: None,
    told: dict[str, Any] | None = None,
    **options: Any,
) -> tuple[list[Frame], list[str]]:
    """Train two models that ``make`` builds, one of them watched, and check that all bits agree.

    Args:
        make: builds the model that is trained and watched.
        step: takes a step.
        path: of the record.
        alike: the unwatched trainings of calls with the same value are the same, so that one of
            them is enough; None if this one has no like.
        steps: how many.
        after: called with the model after the watch has begun.
        told: further arguments of ``signal.step``.
        **options: of `gammabeta.watch`; each step is a frame by default.

    Returns:
        The frames, and what was warned of while the watched model was trained.
    """
    options = options or {"every": 1}
    expected = _UNWATCHED.get(alike)
    if expected is None:
        torch._dynamo.reset()
        plain = make()
        after(plain)
        with warned():
            expected = train(plain, step, steps=steps)
        expected.trace = trace(plain)
        if alike is not None:
            _UNWATCHED[alike] = expected
    torch._dynamo.reset()
    model = make()
    with warned() as said, gb.watch(model, path, **options) as signal:
        after(model)
        found = train(model, step, signal, steps, **(told or {}))
    found.trace = trace(model)
    assert found.losses == expected.losses
    assert found.state == expected.state
    assert found.gradients == expected.gradients
    assert found.optimizer == expected.optimizer
    assert found.rng == expected.rng
    assert found.trace == expected.trace
    return frames_of(path), said


def frames_of(path: Path) -> list[Frame]:
    """Return the frames of the record at ``path``."""
    with Run(path.with_suffix(".sqlite")) as run:
        return list(run.frames())


def stages_of(path: Path) -> dict[str, set[str]]:
    """Return name → stages of the probes in the record at ``path``."""
    found: dict[str, set[str]] = {}
    with Run(path.with_suffix(".sqlite")) as run:
        for probe in run.probes():
            found.setdefault(probe.name, set()).add(probe.stage)
    return found
