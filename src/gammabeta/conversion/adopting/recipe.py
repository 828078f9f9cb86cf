"""How the kernels compute what a norm of somebody else's class was found to compute."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from gammabeta import ops
from gammabeta.layers.code import code_of
from gammabeta.layers.formulas import RUNNING
from gammabeta.layers.probe import Finding
from gammabeta.layers.traits import lineage
from gammabeta.ops.cpu.support import is_channels_last
from gammabeta.ops.spec import Call

Covered = tuple[torch.dtype, torch.dtype | None, int, str, torch.dtype | None, bool]
"""Dtypes of the input and of γ, dims of the input, memory layout, the dtype of autocast where it is
on, and whether the module is training."""

_KINDS = {
    "batch": ops.BATCH,
    "rms": ops.RMS,
    "layer": ops.LAYER,
    "group": ops.GROUP,
    "instance": ops.INSTANCE,
    "frozen": ops.BATCH,
}
"""Family → the kernels that compute it."""


_BOUNDED = "its values without γ are too small to tell its activation from others"
"""x̂ of n values is at most √n, below 6 in a trial: ReLU and ReLU6 are one there."""


@dataclass(frozen=True)
class Recipe:
    """What a module computes, as a `Call` of the tensors it has.

    Attributes:
        kind: of `gammabeta.ops.spec.KINDS`.
        eps: ε.
        activation: the name of the activation afterwards, or None.
        gamma, beta: names of the module's tensors, "" for none.
        offset: what is added to the first to get γ.
        moved: whether the features have to be moved to the dim where the kernels expect them.
        groups: of group norm.
        statistics: by what it normalizes: ``"input"``, always its input; ``"batch"``, as torch's
            batch norms do; ``"fixed"``, its running statistics in training, too.
        flat: whether γ, β and statistics are (1, C, 1, 1) and the like, to be viewed as (C,).
        by_hand: whether its code computes mean and variance itself, where torch has a layer norm.
    """

    kind: str
    eps: float
    activation: str | None = None
    gamma: str = "weight"
    beta: str = "bias"
    offset: float = 0.0
    moved: bool = False
    groups: int = 1
    statistics: str = "input"
    by_hand: bool = False
    flat: bool = False

    def call(self, module: nn.Module, x: Tensor) -> Call | None:
        """The call for ``x``, with its features moved; None if ``module`` lacks a tensor for it."""
        tensors = module._parameters, module._buffers
        gamma, beta = _named(self.gamma, tensors), _named(self.beta, tensors)
        if (gamma is None and self.gamma) or (beta is None and self.beta):
            return None  # computed by a parametrization, pruned or taken away
        gamma, beta = self._viewed(gamma), self._viewed(beta)
        if gamma is not None and self.offset:
            # In float32, as these layers have it: 1 + γ of bfloat16 would lose γ's digits.
            gamma = gamma.to(torch.promote_types(gamma.dtype, torch.float32)) + self.offset
        rows = self.kind in (ops.LAYER, ops.RMS)
        if self.moved:
            x = x.movedim(1, -1) if rows else x.movedim(-1, 1)
        call = Call(self.kind, x, gamma, beta, self.eps, self.activation)
        if rows:
            some = gamma if gamma is not None else beta
            call.normalized_shape = x.shape[-1:] if some is None else some.shape
        elif self.kind == ops.GROUP:
            call.num_groups = self.groups
        if self.statistics != "input" and not self._add_statistics(call, module):
            return None
        return call

    def _viewed(self, tensor: Tensor | None) -> Tensor | None:
        return tensor.view(-1) if tensor is not None and self.flat else tensor

    def _add_statistics(self, call: Call, module: Any) -> bool:
        """Give ``call`` the running statistics as torch's batch norms read and update them."""
        buffers = module._buffers
        mean, var = buffers.get("running_mean"), buffers.get("running_var")
        there = mean is not None and var is not None
        if self.statistics == "fixed" or not module.training:
            if not there and (self.statistics == "fixed" or mean is not None or var is not None):
                return False
            call.running_mean, call.running_var = self._viewed(mean), self._viewed(var)
            call.training = not there
        elif module.track_running_stats:
            call.batches = buffers.get("num_batches_tracked")
            if not there or call.batches is None:
                return False
            call.running_mean, call.running_var, call.momentum = mean, var, module.momentum
        return True

    def run(self, call: Call, x: Tensor) -> Tensor | None:
        """The output of ``call``, made for ``x``; None if the kernels do not support it."""
        y = ops.normalize(call) if self.by_hand else ops.normalize_and_count(call)
        return None if y is None else self.finish(y, x)

    def finish(self, y: Tensor, x: Tensor) -> Tensor:
        """``y``, the output of the call for ``x``, with the features where ``x`` has them."""
        if not self.moved:
            return y
        return y.movedim(-1, 1) if self.kind in (ops.LAYER, ops.RMS) else y.movedim(1, -1)


@dataclass(frozen=True)
class Adoption:
    """What was proved of modules of a class that have the same settings.

    Attributes:
        recipe: what they compute.
        covered: the calls for which that was proved.
    """

    recipe: Recipe
    covered: frozenset[Covered]


def layout(x: Tensor) -> str:
    """The memory layout of ``x``, "" for all that are not proved."""
    if x.is_contiguous():
        return "contiguous"
    return "channels_last" if x.dim() > 3 and is_channels_last(x) else ""


def covered_by(recipe: Recipe, x: Tensor, module: nn.Module) -> Covered:
    """Which calls the call of ``module`` with ``x`` is like."""
    tensors = module._parameters, module._buffers
    some = _named(recipe.gamma or recipe.beta, tensors)
    cast = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else None
    dtype = None if some is None else some.dtype
    return x.dtype, dtype, x.dim(), layout(x), cast, module.training


def _named(name: str, tensors: tuple[Any, ...]) -> Tensor | None:
    if not name:
        return None
    found: Tensor | None = next((its[name] for its in tensors if name in its), None)
    return found


def recipe(module: Any, finding: Finding) -> Recipe | str:
    """The recipe for what ``module`` was found to compute, or why there is none."""
    formula, activation = finding.formula, finding.activation
    if formula is None:
        return _by_class(module, finding)
    if formula.outside or formula.unbiased or formula.unit:
        return "gammabeta has no kernel for this formula"
    names = (formula.gamma, formula.beta, *(RUNNING if formula.family == "frozen" else ()))
    its = [tensor for name in names if name and (tensor := getattr(module, name)) is not None]
    flat = any(tensor.dim() != 1 for tensor in its)
    if flat and any(tensor.numel() not in tensor.shape for tensor in its):
        return "gammabeta has no kernel for a γ or β of several dims"
    kind = _KINDS.get(formula.family)
    if kind is None or formula.family == "batch":
        return "gammabeta converts no batch norm that is no subclass of torch's"
    if activation is not None and not formula.gamma and formula.family != "frozen":
        return _BOUNDED
    if kind == ops.RMS and formula.beta:
        return "gammabeta has no kernel for an RMS norm with a β"
    rows = kind in (ops.LAYER, ops.RMS)
    return Recipe(
        kind,
        formula.eps,
        activation,
        formula.gamma,
        formula.beta,
        formula.offset,
        moved=finding.dim == (1 if rows else -1),
        statistics="fixed" if formula.family == "frozen" else "input",
        by_hand=kind == ops.LAYER and "layer_norm" not in code_of(module).names,
        flat=flat,
    )


def _by_class(module: Any, finding: Finding) -> Recipe | str:
    """The recipe of a subclass of torch's norms that computes what its class says."""
    family = lineage(module)[0]
    kind = _KINDS.get(family)
    if kind is None or module.eps is None:
        return "gammabeta has no kernel for this formula"
    if kind == ops.INSTANCE and module.track_running_stats:
        return "gammabeta converts no subclass of an instance norm that tracks running statistics"
    bounded = kind != ops.BATCH or module.running_var is None
    if finding.activation is not None and bounded and module.weight is None:
        return _BOUNDED
    rows = kind in (ops.LAYER, ops.RMS)
    beta = getattr(module, "bias", None)
    return Recipe(
        kind,
        float(module.eps),
        finding.activation,
        "" if module.weight is None else "weight",
        "" if beta is None else "bias",
        moved=finding.dim == (1 if rows else -1),
        groups=getattr(module, "num_groups", 1),
        statistics="batch" if family == "batch" else "input",
    )
