"""Whether running statistics, and weights, are those that a model begins with."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from gammabeta.doctor.subject import Norm, Subject
from gammabeta.layers.traits import affine


def has_values(tensor: object) -> bool:
    """Whether ``tensor`` is a tensor whose values can be read."""
    if not isinstance(tensor, Tensor) or is_lazy(tensor) or tensor.is_meta:
        return False
    if type(tensor) not in (Tensor, nn.Parameter):  # sharded: reading it may need a collective
        return False
    return tensor.numel() > 0 and not tensor.is_sparse and not tensor.is_quantized


def is_all(tensor: Tensor | None, value: float) -> bool:
    """Whether every value of ``tensor`` is ``value``."""
    return tensor is not None and has_values(tensor) and bool((tensor == value).all())


def initial_parts(norm: Norm) -> tuple[bool, bool]:
    """Return whether the running mean is all 0, and whether the running variance is all 1."""
    if norm.running is None:
        return False, False
    return is_all(norm.running.mean, 0), is_all(norm.running.var, 1)


def is_initial(norm: Norm) -> bool:
    """Whether the running statistics of ``norm`` are those it was made with."""
    return all(initial_parts(norm))


def batches_seen(norm: Norm) -> int:
    """Return ``num_batches_tracked``; 0 if there is none."""
    tracked = None if norm.running is None else norm.running.tracked
    return int(tracked) if tracked is not None and has_values(tracked) else 0


def beta_moved(norm: Norm) -> bool:
    """Whether β has been trained: models begin with a constant.

    Some begin with γ and β drawn alike, as all parameters. That is no training, so γ and β that
    could have been drawn from one distribution say nothing.
    """
    gamma, beta = _affine(norm)
    if beta is None or not _varies(beta):
        return False
    if gamma is None or not _varies(gamma):
        return True
    g, b = gamma.detach().double().flatten(), beta.detach().double().flatten()
    spread, other = float(g.std()), float(b.std())
    around = abs(float(g.mean() - b.mean()))
    return not (around < spread and 0.5 < spread / max(other, 1e-30) < 2)


def optimizer_steps(subject: Subject, norm: Norm) -> bool:
    """Whether the optimizer has made a step with a parameter of ``norm``.

    A norm without parameters is judged by all parameters of the module it is in.
    """
    optimizer = subject.optimizer
    if optimizer is None:
        return False
    moved = {id(p) for p, state in optimizer.state.items() if any(map(_counts, state.values()))}
    own = [p for p in norm.module.parameters() if p.requires_grad]
    if own:
        return any(id(p) in moved for p in own)
    if next(norm.module.parameters(), None) is not None:
        return False  # frozen
    around = subject.modules.get(norm.path.rpartition(".")[0], subject.model)
    trained = [p for p in around.parameters() if p.requires_grad]
    return bool(trained) and all(id(p) in moved for p in trained)


def _counts(value: Any) -> bool:
    if isinstance(value, Tensor):
        value = value.to_local() if hasattr(value, "to_local") else value
        return value.numel() > 0 and not value.is_meta and bool((value != 0).any())
    return isinstance(value, (int, float)) and value > 0


def _varies(tensor: Tensor) -> bool:
    if not has_values(tensor) or tensor.numel() < 2:
        return False
    low, high = torch.aminmax(tensor.detach())
    return bool(high > low)


def _affine(norm: Norm) -> tuple[Tensor | None, Tensor | None]:
    try:
        gamma, beta = affine(norm.module)
        return _local(gamma), _local(beta)
    except Exception:  # a module of another kind keeps them in a way of its own
        return None, None


def _local(tensor: Tensor | None) -> Tensor | None:
    """Return this process's part of a tensor that is sharded over several."""
    local = getattr(tensor, "to_local", None)
    return tensor if local is None else local()
