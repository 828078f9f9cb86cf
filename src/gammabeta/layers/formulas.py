"""Norms written by hand: which formula a module that derives from none of torch's norms computes.

A `Formula` says how x̂ is made of the input, and which of the module's tensors are γ and β. `fit`
compares what a trial copy computes with every formula here: values on an input of the usual size
and on one so small that ε decides, and gradients. Only an agreement of all of these counts.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from gammabeta.ops.activations import ACTIVATIONS

_EPSILONS = (1e-5, 1e-6, 1e-12, 0.0, 1e-8, 1e-3, torch.finfo(torch.float32).eps)
"""Tried after the numbers that the module itself has as attributes."""

_USUAL_EPS = 1e-4
"""Up to here, ε does not matter to a rough comparison."""

_ROUGH, _CLOSE = 2e-3, 2e-5
"""Relative errors, in float32: with a guessed ε, and far above rounding."""

_USUAL, _SMALL = 2.0, 1e-3
"""Standard deviations of the inputs: ε says nothing in the first and much in the second."""

RUNNING = ("running_mean", "running_var")


@dataclass(frozen=True)
class Formula:
    """γ · x̂ + β, with x̂ = (x − μ) / √(σ² + ε).

    Attributes:
        family: over what the statistics are taken: ``"layer"`` and ``"rms"`` the features of each
            position (rms without μ), ``"group"`` all but the batch, ``"instance"`` the positions,
            ``"batch"`` the batch in training and running statistics in evaluation, ``"frozen"``
            running statistics.
        eps: ε.
        outside: whether ε is added to σ, not to σ².
        unbiased: whether σ² has the divisor n − 1.
        unit: whether x̂ has the Euclidean norm 1, as in x / ‖x‖.
        gamma, beta: names of the module's tensors, "" for none.
        offset: what is added to the first to get γ: 1 where it begins at 0.
    """

    family: str
    eps: float = 1e-6
    outside: bool = False
    unbiased: bool = False
    unit: bool = False
    gamma: str = ""
    beta: str = ""
    offset: float = 0.0

    def x_hat(self, x: Tensor, dim: int, module: nn.Module) -> Tensor:
        """x̂ of ``x``, whose features are at ``dim``; running statistics are the module's."""
        dims = over(self.family, x.dim(), dim)
        by_batch = module.training or getattr(module, "running_mean", None) is None
        if self.family == "frozen" or (self.family == "batch" and not by_batch):
            mean, var = (along(getattr(module, name), x, dim).to(x.dtype) for name in RUNNING)
            centred = x - mean
        else:
            centred = x if self.family == "rms" else x - x.mean(dims, keepdim=True)
            var = centred.square().mean(dims, keepdim=True)
        count = x.shape[dim]
        if self.unbiased:
            var = var * (count / (count - 1))
        if self.unit:
            var = var * count
        return centred / (var.sqrt() + self.eps if self.outside else (var + self.eps).sqrt())

    def affine(self, module: nn.Module) -> tuple[Tensor | None, Tensor | None]:
        """γ and β, None where there is none."""
        gamma, beta = (getattr(module, name) if name else None for name in (self.gamma, self.beta))
        return gamma + self.offset if gamma is not None and self.offset else gamma, beta


def over(family: str, dims: int, dim: int) -> tuple[int, ...]:
    """The dims of an input that statistics are taken over, where ``dim`` indexes the features."""
    features = dim % dims
    if family in ("layer", "rms"):
        return (features,)
    first = {"group": (0,), "instance": (0, features)}.get(family, (features,))
    return tuple(d for d in range(dims) if d not in first)


def along(tensor: Tensor, x: Tensor, dim: int) -> Tensor:
    """View ``tensor``, one value a feature or one in all, to broadcast along ``dim`` of ``x``."""
    return tensor.reshape(-1, *(1,) * (x.dim() - 1 - dim % x.dim()))


def candidates(module: nn.Module) -> dict[str, Tensor]:
    """The tensors of ``module`` that may be its γ and β."""
    own = {**module._parameters, **module._buffers}
    return {
        name: tensor
        for name, tensor in own.items()
        if tensor is not None and tensor.is_floating_point() and name not in RUNNING
    }


def features(module: nn.Module) -> int | None:
    """C of a module that may be a norm, as its tensors say it; None if they say something else.

    Example:
        >>> features(nn.RMSNorm(4)), features(nn.Linear(3, 4)), features(nn.Identity())
        (4, None, 6)
    """
    tensors = [*candidates(module).values()]
    tensors += [t for name in RUNNING if (t := module._buffers.get(name)) is not None]
    sizes = {t.numel() for t in tensors if t.numel() != 1}
    if len(candidates(module)) > 2 or len(sizes) > 1 or any(_vector(t) is None for t in tensors):
        return None
    return sizes.pop() if sizes else 6  # without any, it may take any number


def _vector(tensor: Tensor) -> int | None:
    """The number of values of a tensor that has several along one dim only."""
    return tensor.numel() if sum(size != 1 for size in tensor.shape) <= 1 else None


def fit(
    pristine: nn.Module,
    called: Callable[[Tensor, Tensor], tuple[Any, Tensor]],
    shapes: list[tuple[int, tuple[int, ...]]],
) -> Iterator[tuple[int, str | None, Formula]]:
    """Yield what agrees with ``pristine``: dim of the features, activation, formula.

    Args:
        pristine: a copy of the module. It is not called.
        called: gives the output of a copy of it for an input, and of a gradient its product with
            the derivative; raises where the module takes no such input.
        shapes: of inputs to try, each with the dim of its features.
    """
    epsilons = list(dict.fromkeys((*_own_numbers(pristine), *_EPSILONS)))
    for dim, shape in shapes:
        x = torch.randn(shape) * _USUAL + 0.5
        small, g = torch.randn(shape) * _SMALL, torch.randn(shape)
        try:
            (y, slope), (small_y, _) = called(x, g), called(small, g)
        except Exception:  # it takes no input of that shape
            continue
        found = False
        for name in (None, *ACTIVATIONS):
            for rough in _roughly(pristine, x, y, dim, name):
                for eps, outside in itertools.product(epsilons, (False, True)):
                    exact = replace(rough, eps=eps, outside=outside)
                    if not _same(small_y, _value(exact, name, pristine, small, dim), _CLOSE):
                        continue
                    own = x.clone().requires_grad_()
                    want = _value(exact, name, pristine, own, dim)
                    (its,) = torch.autograd.grad(want, own, g)
                    if _same(y, want, _CLOSE) and _same(slope, its, _CLOSE):
                        found = True
                        yield dim, name, exact
                        break
            if found:
                return


def _roughly(
    module: nn.Module, x: Tensor, y: Tensor, dim: int, name: str | None
) -> Iterator[Formula]:
    """The formulas that agree with ``y``, after the activation ``name``, but for ε."""
    formulas = [
        Formula("rms"),
        Formula("layer"),
        Formula("rms", unit=True, eps=0.0),
        Formula("layer", unbiased=True),
    ]
    if dim != -1:
        formulas += [Formula("batch"), Formula("instance"), Formula("group")]
    if all(isinstance(module._buffers.get(name), Tensor) for name in RUNNING):
        formulas += [Formula("frozen")]
    large = [eps for eps in _own_numbers(module) if eps > _USUAL_EPS]
    formulas += [replace(one, eps=eps) for eps in large for one in formulas]
    for formula in formulas:
        x_hat = formula.x_hat(x, dim, module)
        for pair in _pairs(module):
            exact = replace(formula, **pair)
            if _same(y, _after(exact, name, module, x_hat, dim), _ROUGH):
                yield exact


def _pairs(module: nn.Module) -> Iterator[dict[str, Any]]:
    """Which of the module's tensors may be γ and which β; those that use most come first."""
    names = list(candidates(module))
    for gamma, beta in sorted(
        itertools.product(("", *names), repeat=2), key=lambda pair: -len(set(pair) - {""})
    ):
        if gamma != beta or not gamma:
            for offset in (0.0, 1.0) if gamma else (0.0,):
                yield {"gamma": gamma, "beta": beta, "offset": offset}


def _value(formula: Formula, name: str | None, module: nn.Module, x: Tensor, dim: int) -> Tensor:
    return _after(formula, name, module, formula.x_hat(x, dim, module), dim)


def _after(
    formula: Formula, name: str | None, module: nn.Module, x_hat: Tensor, dim: int
) -> Tensor:
    gamma, beta = formula.affine(module)
    y = x_hat if gamma is None else x_hat * along(gamma, x_hat, dim)
    y = y if beta is None else y + along(beta, x_hat, dim)
    return y if name is None else ACTIVATIONS[name](y)


def _own_numbers(module: nn.Module) -> Iterator[float]:
    """Attributes that may be ε, those called so first."""
    small = {
        key: float(value)
        for key, value in module.__dict__.items()
        if isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value < 0.1
    }
    yield from (small[key] for key in sorted(small, key=lambda key: "eps" not in key))


def _same(a: Tensor, b: Tensor, tolerance: float) -> bool:
    if a.shape != b.shape or a.dtype is not b.dtype:
        return False
    off, size = (a - b).abs().max().item(), b.abs().max().item()
    return off <= tolerance * max(1.0, size)  # False for NaN
