"""How far the layers below, in moving, change a layer's gradient (Santurkar et al. 2018)."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from gammabeta.lab.measures.objective import Loss, Objective, difference, dot, norm
from gammabeta.names import known
from gammabeta.table import table


@dataclass(frozen=True)
class LayerShift:
    """One layer's gradient, before and after the layers below it were updated.

    Attributes:
        name: the layer's.
        before: ‖G‖₂, G the gradient of its parameters with all layers as they are.
        after: ‖G′‖₂, G′ the gradient with the layers below already updated.
        distance: ‖G − G′‖₂.
        cosine: of the angle between G and G′; NaN if one of them is 0.
    """

    name: str
    before: float
    after: float
    distance: float
    cosine: float


@dataclass(frozen=True)
class CovariateShift:
    """The internal covariate shift of one step.

    Attributes:
        layers: in the order of their calls, the first one called first.
    """

    layers: tuple[LayerShift, ...]

    def __getitem__(self, name: str) -> LayerShift:
        """Return the layer ``name``.

        Raises:
            ValueError: there is none of that name.
        """
        names = [layer.name for layer in self.layers]
        return self.layers[names.index(known("layer", name, names))]

    def __str__(self) -> str:
        """A table, a row a layer."""
        return table(
            ["layer", "‖G‖", "‖G′‖", "‖G − G′‖", "cosine"],
            [
                [
                    layer.name,
                    *(f"{value:.3g}" for value in (layer.before, layer.after, layer.distance)),
                    f"{layer.cosine:.4f}",
                ]
                for layer in self.layers
            ],
        )


def covariate_shift(
    model: nn.Module,
    loss: Loss,
    batch: Any,
    *,
    lr: float | None = None,
    optimizer: torch.optim.Optimizer | None = None,
    layers: Sequence[str] | None = None,
) -> CovariateShift:
    """Measure the internal covariate shift of a step that would be taken on ``batch``.

    ``G_i = ∇_i L(θ_1, …, θ_n)`` is what layer i is about to follow, and
    ``G′_i = ∇_i L(θ⁺_1, …, θ⁺_{i−1}, θ_i, …, θ_n)`` what it should follow once the layers below it
    have taken their step: the same batch, the layers called before i updated. For each layer
    ‖G − G′‖₂ and the cosine are returned. The step itself is not taken: the model and the
    optimizer are left as they were, bit by bit, whether this returns or raises.

    Args:
        model: any module, in the mode to be measured; training mode for what training meets.
        loss: ``loss(output, target)`` returns a scalar tensor.
        batch: a pair (input, target); an input that is a mapping is given as keyword arguments.
        lr: for plain gradient descent, θ⁺ = θ − lr · G.
        optimizer: in place of ``lr``: θ⁺ is where a copy of it, state and all, would step to.
        layers: names of modules, each a layer with all its parameters. None for every module that
            has a matrix or a larger tensor as a parameter of its own (linears, convolutions,
            embeddings, recurrent layers), with its own parameters.

    Returns:
        A `CovariateShift`.

    Raises:
        ValueError: not one of ``lr`` and ``optimizer``; ``lr`` is not a positive number; a name
            that is no module's or one without trainable parameters; an optimizer that holds no
            parameter of the model.
        TypeError: ``model`` is no module, ``batch`` no pair, or the loss no tensor.

    Numerics:
        *Below* is: called earlier in the forward pass. A norm's γ and β are updated for every
        layer called after the norm. A module that is not called itself counts as called with the
        module it is in. The first layer's G′ is G; a layer without a part in the loss has G = 0
        and a cosine of NaN. Norms are summed in float64. A layer costs a forward and backward
        pass.

    Source:
        Santurkar, Tsipras, Ilyas & Madry 2018, arXiv:1805.11604, definition 2.1.

    Example:
        >>> model = nn.Sequential(nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False))
        >>> for part, weight in zip(model, (2.0, 3.0)):  # y = w₂ w₁ x = 6
        ...     _ = nn.init.constant_(part.weight, weight)
        >>> batch = torch.ones(1, 1), torch.zeros(1, 1)
        >>> shift = covariate_shift(model, lambda y, t: 0.5 * (y - t).square().sum(), batch, lr=0.1)
        >>> print(shift)  # G₂ = w₂ w₁² = 12; w₁⁺ = 2 − 0.1 · 18 = 0.2, so G′₂ = 3 · 0.04
        layer  ‖G‖  ‖G′‖  ‖G − G′‖  cosine
        0       18    18         0  1.0000
        1       12  0.12      11.9  1.0000
    """
    objective = Objective(model, loss, batch)
    if (lr is None) == (optimizer is None):
        raise ValueError("give exactly one of lr= and optimizer=")
    if lr is not None and not (math.isfinite(lr) and lr > 0):
        raise ValueError(f"lr={lr} must be a positive number")
    chosen = _layers(model, layers, objective)
    calls = _Calls(model)
    with calls:
        _, before = objective.gradient()
    ranks = calls.ranks(objective)
    if optimizer is None:
        rate = float(lr or 0.0)
        after = {
            name: parameter.detach() - rate * before[name]
            for name, parameter in objective.parameters.items()
        }
    else:
        after = _stepped(optimizer, objective, before)
    shifts = []
    for name, own in sorted(chosen.items(), key=lambda item: calls.rank(item[0])):
        first = min(ranks[parameter] for parameter in own)
        below = {
            parameter: after[parameter]
            for parameter, rank in ranks.items()
            if rank < first and parameter not in own
        }
        g = {parameter: before[parameter] for parameter in own}
        _, g_after = objective.gradient(own, moved=below)
        shifts.append(_shift(name, g, g_after))
    return CovariateShift(tuple(shifts))


def _shift(name: str, g: dict[str, Tensor], g_after: dict[str, Tensor]) -> LayerShift:
    before, after = norm(g), norm(g_after)
    together = before * after
    # 0 · inf and the like: no angle either.
    cosine = dot(g, g_after) / together if 0 < together < math.inf else math.nan
    return LayerShift(name, before, after, difference(g, g_after), cosine)


def _layers(
    model: nn.Module, names: Sequence[str] | None, objective: Objective
) -> dict[str, list[str]]:
    """The layers, and their parameters' names as `Objective` has them."""
    by_identity = {id(parameter): name for name, parameter in objective.parameters.items()}
    modules = dict(model.named_modules())
    if names is None:
        chosen = {
            name: list(module.parameters(recurse=False))
            for name, module in modules.items()
            if any(p.dim() > 1 and p.requires_grad for p in module.parameters(recurse=False))
        }
        if not chosen:
            raise ValueError(f"model={type(model).__name__} has no module with a weight matrix")
    else:
        if isinstance(names, str):
            raise TypeError(f"layers={names!r} is one name; give a list of names")
        chosen = {
            known("layers", name, modules): list(modules[name].parameters()) for name in names
        }
    found = {
        name: [by_identity[id(p)] for p in parameters if id(p) in by_identity]
        for name, parameters in chosen.items()
    }
    for name, own in found.items():
        if not own:
            raise ValueError(f"layers: {name!r} has no parameter that requires a gradient")
    return found


class _Calls:
    """Which module was called when, first."""

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._order: dict[nn.Module, int] = {}
        self._handles: list[Any] = []

    def __enter__(self) -> None:
        for module in self._model.modules():
            self._handles.append(module.register_forward_pre_hook(self._called))

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()

    def _called(self, module: nn.Module, args: Any) -> None:
        self._order.setdefault(module, len(self._order))

    def rank(self, name: str) -> int:
        """When the module ``name``, or the nearest one around it that was called, was called.

        A child of `torch.nn.MultiheadAttention`, say, is never called: its weight is read.
        """
        while (called := self._order.get(self._model.get_submodule(name))) is None and name:
            name = name.rpartition(".")[0]
        return called or 0

    def ranks(self, objective: Objective) -> dict[str, int]:
        """When each parameter was first used."""
        return {name: self.rank(name.rpartition(".")[0]) for name in objective.parameters}


def _stepped(
    optimizer: torch.optim.Optimizer, objective: Objective, gradient: dict[str, Tensor]
) -> dict[str, Tensor]:
    """Where ``optimizer`` would take the parameters; a copy takes the step."""
    names = {id(parameter): name for name, parameter in objective.parameters.items()}
    double = copy.deepcopy(optimizer)
    after = {name: parameter.detach() for name, parameter in objective.parameters.items()}
    held = 0
    for group, copied in zip(optimizer.param_groups, double.param_groups, strict=True):
        for parameter, twin in zip(group["params"], copied["params"], strict=True):
            name = names.get(id(parameter))
            twin.grad = None if name is None else gradient[name].clone()
            if name is not None:
                after[name] = twin.detach()
                held += 1
    if not held:
        raise ValueError("optimizer holds no trainable parameter of the model")
    with torch.enable_grad():
        double.step()
    return after
