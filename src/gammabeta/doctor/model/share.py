"""The share of the newest batch in a norm's running mean, whatever the norm calls it."""

from __future__ import annotations

import copy
import math
import re
from collections import OrderedDict
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from gammabeta.doctor.model.renamed import number, renamed
from gammabeta.doctor.subject import Norm, Subject
from gammabeta.layers.probe import apart, reason_untried
from gammabeta.layers.running import running

_KNOWN: WeakKeyDictionary[nn.Module, tuple[Any, float | None]] = WeakKeyDictionary()
_READABLE = ("batch", "compiled", "instance", "timestep")
"""Kinds of running statistics whose ``momentum`` means what torch's does."""
_AVERAGES = re.compile("momentum|decay|rate|alpha|rho", re.IGNORECASE)
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def share(norm: Norm) -> float | None:
    """Return the share of the newest batch in the running mean; None if it is not known.

    It is ``momentum`` of torch's batch norms and gammabeta's. A norm that somebody wrote by hand
    may mean the share of the old value: a copy is called on a batch of ones, and what its running
    mean becomes is the share.

    Returns:
        The share; None for a cumulative average, too, whose share differs from batch to batch, and
        for a norm that keeps its statistics as they are, such as a ``FrozenBatchNorm2d``.
    """
    its, module = norm.running, norm.module
    if its is None or not its.there:
        return None
    if its.of in _READABLE:
        if norm.traits.exact or norm.traits.normalizes or its.of in ("compiled", "timestep"):
            return number(getattr(module, "momentum", None))
    elif its.of != "other":
        return None
    settings = {k: v for k, v in vars(module).items() if isinstance(v, (bool, int, float, str))}
    known = _KNOWN.get(module)
    if known is None or known[0] != settings:
        known = _KNOWN[module] = (settings, _unless_fixed(_measured(module), settings))
    return known[1]


def moves(subject: Subject, norm: Norm) -> bool:
    """Whether a forward pass in the present mode updates the running statistics of ``norm``.

    As `Subject.is_moving`, and for norms of other kinds and written by hand, too.
    """
    if subject.is_moving(norm):
        return True
    its, module = norm.running, norm.module
    if its is None or not its.there or not module.training:
        return False
    if its.of in ("instance", "timestep"):
        return getattr(module, "track_running_stats", True) is not False
    return its.of == "other" and share(norm) is not None


def _unless_fixed(part: float | None, settings: dict[str, Any]) -> float | None:
    """Return None for a share of 0 that no setting of the norm, such as its momentum, explains."""
    if part == 0 and not any(
        value in (0, 1) and not isinstance(value, bool) and _AVERAGES.search(name)
        for name, value in settings.items()
    ):
        return None
    return part


def _measured(module: nn.Module) -> float | None:
    try:
        if reason_untried(module) or next(module.children(), None) is not None:
            return None
        with apart(), torch.no_grad():
            c = _mean_of(module).numel()
            tried = (_after(module, shape) for shape in ((8, c), (8, c, 2), (8, c, 2, 2)))
            return next((found for found in tried if found is not None), None)
    except Exception:  # whatever a stranger's code may raise
        return None


def _mean_of(module: nn.Module) -> Tensor:
    its = running(module) or renamed(module)
    if its is None or its.mean is None:
        raise ValueError("it keeps no running mean")
    return its.mean


def _after(module: nn.Module, shape: tuple[int, ...]) -> float | None:
    """Return what the running mean of a copy is after two batches of ones, by each alone."""
    try:
        copied: Any = copy.deepcopy(module)
        for name in _HOOKS:
            copied.__dict__[name] = OrderedDict()
        copied = copied.to("cpu", torch.float32).train()
        shares = []
        for _ in range(2):
            _mean_of(copied).zero_()
            copied.forward(torch.ones(shape))
            shares.append(float(_mean_of(copied).mean()))
    except Exception:
        return None
    first, second = shares
    if not math.isclose(first, second, rel_tol=1e-4) or not 0 <= first <= 1:
        return None  # a cumulative average, or no average at all
    return round(first, 6)
