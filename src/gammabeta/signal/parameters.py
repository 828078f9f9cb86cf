"""Measure a model's parameters and running statistics at a frame.

Weights are sampled before and after the optimizer's step, at the same places; running statistics
are copied before and after the forward pass, and what the pass has added tells the batch's own
statistics. Neither needs the optimizer or the forward pass itself: both work for compiled models.
"""

from __future__ import annotations

import contextlib
import math
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from gammabeta.signal.regions import clean, row_of, title
from gammabeta.signal.sampling import CannotSampleError, Grabbed, grab, plain

SAMPLED = 512
"""Maximum number of values of a weight that are looked at."""


@dataclass(slots=True)
class Moved:
    """A weight at a frame: samples before and after the step, and of its gradient."""

    before: Grabbed
    count: int
    after: Grabbed | None = None
    gradient: Grabbed | None = None


@dataclass(slots=True)
class Running:
    """Running statistics of a norm before and after a forward pass, (C,) each."""

    mean: Tensor
    var: Tensor
    momentum: float
    eps: float
    new_mean: Tensor | None = None
    new_var: Tensor | None = None


@dataclass
class Parameters:
    """The parameters of a model, sampled for one frame.

    Attributes:
        weights: name of the row → the weight.
        scales: (name of the row, ``"gamma"`` or ``"beta"``) → a copy of the values.
        running: name of the norm's module → its statistics.
    """

    weights: dict[str, Moved] = field(default_factory=dict)
    scales: dict[tuple[str, str], Tensor] = field(default_factory=dict)
    running: dict[str, Running] = field(default_factory=dict)


class Inventory:
    """The parameters and running statistics that a model has.

    Args:
        model: any module.

    Attributes:
        names: id → name of each parameter, without the names of wrappers.
    """

    def __init__(self, model: nn.Module) -> None:
        self.names: dict[int, str] = {}
        self._title = title(model)
        self._weights: list[tuple[str, nn.Parameter]] = []
        self._vectors: list[tuple[str, str, nn.Parameter]] = []
        self._norms: list[tuple[str, Any]] = []
        for path, parameter in model.named_parameters(remove_duplicate=True):
            if is_lazy(parameter):  # its first pass will give it values
                continue
            name = clean(path)
            self.names[id(parameter)] = name
            last = name.rpartition(".")[2]
            owner = row_of(name, self._title)
            if parameter.dim() >= 2 or last == "_flat_param":  # FSDP's
                self._weights.append((owner, parameter))
            elif parameter.dim() == 1 and last in ("weight", "bias", "gamma", "beta"):
                self._vectors.append((owner, last, parameter))
        for path, module in model.named_modules():
            if isinstance(getattr(module, "running_mean", None), Tensor):
                self._norms.append((clean(path) or self._title, module))

    def groups(self, optimizer: torch.optim.Optimizer) -> list[list[str]]:
        """Return the names of the weights in each parameter group of ``optimizer``."""
        names = {id(parameter): name for name, parameter in self._weights}
        return [
            [names[id(p)] for p in group["params"] if id(p) in names]
            for group in optimizer.param_groups
        ]

    def begin(self) -> Parameters:
        """Sample the weights and copy the running statistics, before the pass."""
        found = Parameters()
        with torch.no_grad():
            for name, parameter in self._weights:
                with contextlib.suppress(CannotSampleError):
                    local = plain(parameter)
                    found.weights[name] = Moved(grab(local, SAMPLED), local.numel())
            for name, norm in self._norms:
                running = _running(norm)
                if running is not None:
                    found.running[name] = running
        return found

    def passed(self, found: Parameters) -> None:
        """Copy the running statistics again, after the pass."""
        with torch.no_grad():
            for name, norm in self._norms:
                running = found.running.get(name)
                if running is not None and norm.running_mean is not None:
                    running.new_mean = norm.running_mean.clone()
                    running.new_var = norm.running_var.clone()

    def end(self, found: Parameters) -> None:
        """Sample the weights again, after the optimizer's step, and copy γ and β."""
        with torch.no_grad():
            for name, parameter in self._weights:
                moved = found.weights.get(name)
                with contextlib.suppress(CannotSampleError):
                    if moved is not None:
                        moved.after = grab(plain(parameter), SAMPLED)
                    if moved is not None and parameter.grad is not None:
                        moved.gradient = grab(plain(parameter.grad), SAMPLED)
            for owner, last, parameter in self._vectors:
                stage = "gamma" if last in ("weight", "gamma") else "beta"
                with contextlib.suppress(CannotSampleError):
                    found.scales[owner, stage] = plain(parameter).detach().clone()
        vectors = {owner for owner, stage in found.scales if stage == "gamma"}
        for owner, stage in list(found.scales):  # a bias without a γ is that of a linear
            if owner not in vectors:
                del found.scales[owner, stage]


def _running(norm: Any) -> Running | None:
    """Copy the running statistics of ``norm`` if a forward pass will update them."""
    mean, var = norm.running_mean, getattr(norm, "running_var", None)
    if not norm.training or not isinstance(var, Tensor) or is_lazy(mean) or is_lazy(var):
        return None
    if mean.shape != var.shape:
        return None
    momentum = getattr(norm, "momentum", None)
    if momentum is None:
        counter = getattr(norm, "num_batches_tracked", None)
        if not isinstance(counter, Tensor) or counter.is_cuda:  # asking would wait for the device
            return None
        momentum = 1 / (int(counter) + 1)
    momentum, eps = float(momentum), float(getattr(norm, "eps", 0.0) or 0.0)
    if not 0 < momentum <= 1 or not math.isfinite(eps):
        return None
    return Running(mean.clone(), var.clone(), momentum, eps)
