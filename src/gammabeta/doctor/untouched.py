"""Give an examined model back as it was, parameters included."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from gammabeta.statistics.contents import Contents
from gammabeta.statistics.preserve import preserved
from gammabeta.statistics.undo import undo_all


@contextmanager
def untouched(model: nn.Module, batches: Any = None, *, copies: bool = True) -> Iterator[None]:
    """Restore everything that `preserved` does, and what an examination could touch besides.

    These are the values of parameters, their gradients, whether they require one, and the
    generators of a data loader, and the version counters of tensors, which a pending backward pass
    checks. Within the block no parameter has a gradient, so that a forward
    pass that runs a backward pass adds to none.

    Args:
        model: any module.
        batches: what is fed to it, or None.
        copies: whether somebody else's code may write to parameters, so that their values must be
            copied. gammabeta's rules only read them.
    """
    parameters = [p for p in model.parameters() if not is_lazy(p)]
    steps: list[Callable[[], object]] = []
    steps += [partial(_restore, p, p.requires_grad, p.grad) for p in parameters]
    generators = list(_generators(batches))
    steps += [partial(g.set_state, g.get_state()) for g in generators]
    if copies:
        steps += [Contents(p).restore for p in parameters if p.device.type != "meta"]
    versioned = [t for t in (*parameters, *model.buffers()) if not is_lazy(t)]
    versioned = [t for t in versioned if not t.is_inference()]
    versions = tuple(t._version for t in versioned)
    try:
        with preserved(model):
            try:
                for p in parameters:
                    p.grad = None
                yield
            finally:
                undo_all(steps)
    finally:
        _set_versions(tuple(versioned), versions)


def _set_versions(tensors: tuple[torch.Tensor, ...], versions: tuple[int, ...]) -> None:
    """Have autograd find that nothing was written: the values are those of before."""
    put: Any = getattr(torch._C._autograd, "_unsafe_set_version_counter", None)
    if put is not None:
        put(tensors, versions)


def _restore(p: nn.Parameter, requires_grad: bool, grad: torch.Tensor | None) -> None:
    if p.requires_grad != requires_grad:
        p.requires_grad_(requires_grad)
    p.grad = grad


def _generators(batches: Any) -> Iterator[torch.Generator]:
    """Yield the generators that a data loader and its samplers draw from."""
    sampler = getattr(batches, "batch_sampler", None)
    for owner in (batches, sampler, getattr(sampler, "sampler", None)):
        generator = getattr(owner, "generator", None)
        if isinstance(generator, torch.Generator):
            yield generator
