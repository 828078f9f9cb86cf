"""Change the layers of a model as a plan says: all of them, or none."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from gammabeta.conversion.become import Becoming, become
from gammabeta.conversion.folding.plan import Plan
from gammabeta.conversion.folding.values import rounded
from gammabeta.statistics.undo import undo_all

_HOMES = ("torch.nn.modules.", "gammabeta.layers.")


def apply_plan(plan: Plan, counterpart: Callable[[nn.Module], nn.Module]) -> Callable[[], None]:
    """Fold.

    Args:
        plan: what is to be done.
        counterpart: the module that is to change, of one that the plan names.

    Returns:
        What undoes it all, if it is called.
    """
    values: list[tuple[Tensor, Tensor]] = []
    changes = [_left_behind(counterpart(norm), rest) for norm, rest in plan.norms.items()]
    for module, weights in plan.hosts.items():
        host = counterpart(module)
        changes += _host(host, weights.weight, weights.bias, values)
    for module, affine in plan.affines.items():
        if module not in plan.norms:
            changes.append(_norm(counterpart(module), affine.scale, affine.shift, values))
    before = [(tensor, tensor.data) for tensor, _ in values]
    undo_changes = become(changes)

    def undo() -> None:
        restore = (partial(_set, tensor, value) for tensor, value in before)
        undo_all([*restore, undo_changes])

    try:
        for tensor, value in values:
            _set(tensor, value)
    except BaseException:
        undo()
        raise
    return undo


def _set(tensor: Tensor, value: Tensor) -> None:
    with torch.inference_mode(tensor.is_inference()):
        tensor.data = value


_OURS = frozenset({"fuses", "qualified_name", "train", "reset_running_stats", "reset_parameters"})
"""Attributes that `gammabeta.convert` and `gammabeta.freeze` set on a norm."""


def _left_behind(norm: nn.Module, rest: nn.Module) -> Becoming:
    """``norm`` as a module like ``rest``, with whatever a person has set on it."""
    born = next(cls for cls in type(norm).__mro__ if cls.__module__.startswith(_HOMES))
    fresh = nn.Module() if born is nn.Module else born(1)
    own = norm.__dict__.keys() - fresh.__dict__.keys() - _OURS
    kept = {key: norm.__dict__[key] for key in own}
    return Becoming(norm, type(rest), kept | rest.__dict__ | {"training": norm.training})


def _host(
    host: Any, weight: Tensor, bias: Tensor | None, values: list[tuple[Tensor, Tensor]]
) -> list[Becoming]:
    """The new values of ``host``; a bias if it has none."""
    dtype = host.weight.dtype
    values.append((host.weight, _fits(weight, dtype)))
    if bias is None:
        return []
    if host.bias is not None:
        values.append((host.bias, _fits(bias, host.bias.dtype)))
        return []
    new = nn.Parameter(_fits(bias, dtype), requires_grad=host.weight.requires_grad)
    parameters = dict(host._parameters) | {"bias": new}
    return [Becoming(host, type(host), host.__dict__ | {"_parameters": parameters})]


def _norm(norm: Any, scale: Tensor, shift: Tensor, values: list[tuple[Tensor, Tensor]]) -> Becoming:
    """``norm`` with these values: mean 0, variance 1."""
    mean, var = norm.running_mean, norm.running_var
    values += [(mean, torch.zeros_like(mean)), (var, torch.ones_like(var))]
    fixed = {"weight": scale * (1.0 + norm.eps) ** 0.5, "bias": shift}
    registry = "_parameters" if "weight" in norm._parameters else "_buffers"
    tensors = dict(getattr(norm, registry))
    for name, value in fixed.items():
        there = _fits(value, mean.dtype)
        if tensors[name] is not None:
            values.append((tensors[name], there.to(tensors[name].dtype)))
        else:
            tensors[name] = nn.Parameter(there) if registry == "_parameters" else there
    return Becoming(norm, type(norm), norm.__dict__ | {registry: tensors, "affine": True})


def _fits(value: Tensor, dtype: torch.dtype) -> Tensor:
    there = rounded(value, dtype)
    if there is None:
        raise ValueError(f"a folded value does not fit into {dtype}")
    return there
