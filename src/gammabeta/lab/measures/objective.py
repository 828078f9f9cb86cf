"""A loss as a function of the parameters: its value and gradient at any point, without a trace."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from gammabeta.layers.guard import NonFiniteBatchWarning
from gammabeta.statistics.feed import Feed
from gammabeta.statistics.measuring import eagerly
from gammabeta.statistics.preserve import preserved

Loss = Callable[[Any, Any], Tensor]
"""(the model's output, the target) → a scalar, such as `torch.nn.functional.cross_entropy`."""


class Objective:
    """``L(θ) = loss(model(input), target)`` for one batch.

    A parameter is never written to: another tensor is put in its place, and its own is put back.
    Every evaluation starts from the same buffers and random states, so that dropout, say, draws
    one mask for all of them; afterwards these, modes and attributes are as they were. ``.grad`` is
    not touched.

    Args:
        model: in whichever mode; it stays in it.
        loss: see `Loss`.
        batch: a pair (input, target). The input is a tensor, or a mapping of keyword arguments.

    Attributes:
        parameters: θ: those that require a gradient, by name.

    Raises:
        TypeError: ``model`` is no module, ``batch`` is no pair.
        ValueError: no parameter requires a gradient, or one is lazy.
    """

    def __init__(self, model: nn.Module, loss: Loss, batch: Any) -> None:
        if not isinstance(model, nn.Module):
            raise TypeError(f"model is a {type(model).__name__}; give a torch.nn.Module")
        if not isinstance(batch, (tuple, list)) or len(batch) != 2:
            given = f"{len(batch)} items" if isinstance(batch, (tuple, list)) else type(batch)
            raise TypeError(f"batch must be a pair (input, target), not {given}")
        if any(map(is_lazy, model.parameters())):
            raise ValueError("model has a lazy module; call the model on a batch first")
        self.model = model
        self.parameters: dict[str, nn.Parameter] = {
            name: parameter
            for name, parameter in model.named_parameters()
            if parameter.requires_grad
        }
        if not self.parameters:
            raise ValueError(
                f"model={type(model).__name__} has no parameter that requires a gradient"
            )
        self._loss = loss
        self._input, self._target = batch
        self._feed = Feed(model)

    def gradient(
        self,
        names: Sequence[str] | None = None,
        moved: Mapping[str, Tensor] | None = None,
    ) -> tuple[float, dict[str, Tensor]]:
        """Return L(θ) and ∂L/∂θ.

        Args:
            names: of which parameters; None for all.
            moved: values that parameters have instead of their own, by name.

        Returns:
            The loss, and a gradient shaped as its parameter for each name: zeros where the loss
            does not depend on it.

        Raises:
            TypeError: the loss returned no tensor.
            ValueError: it returned one that is no scalar, or that no parameter has a part in.
        """
        wanted = {name: self.parameters[name] for name in names or self.parameters}
        with (
            self._standing_at(moved or {}),
            preserved(self.model),
            eagerly(),
            torch.enable_grad(),
            warnings.catch_warnings(),
        ):
            # A point far off the path may overflow: that is a result here.
            warnings.simplefilter("ignore", NonFiniteBatchWarning)
            value = self._value()
            found = torch.autograd.grad(value, list(wanted.values()), allow_unused=True)
        return value.item(), {
            name: torch.zeros_like(parameter) if gradient is None else gradient.detach()
            for (name, parameter), gradient in zip(wanted.items(), found, strict=True)
        }

    def _value(self) -> Tensor:
        target = self._target
        output = self._feed(self._input)
        if isinstance(target, Tensor) and isinstance(output, Tensor):
            target = target.to(output.device)
        value = self._loss(output, target)
        if not isinstance(value, Tensor):
            raise TypeError(f"loss returned a {type(value).__name__}; it must return a tensor")
        if value.numel() != 1:
            raise ValueError(f"loss returned shape {tuple(value.shape)}; it must be a scalar")
        if not value.requires_grad:
            raise ValueError("loss returned a number that depends on no parameter of the model")
        return value.reshape(())

    @contextmanager
    def _standing_at(self, moved: Mapping[str, Tensor]) -> Iterator[None]:
        """Give parameters other values for a while."""
        own = {name: self.parameters[name].data for name in moved}
        try:
            for name, value in moved.items():
                self.parameters[name].data = value
            yield
        finally:
            for name, data in own.items():
                self.parameters[name].data = data


def norm(gradient: Mapping[str, Tensor]) -> float:
    """Return ‖g‖₂ of a gradient by parameter, summed in float64."""
    return math.sqrt(sum(float(part.double().square().sum()) for part in gradient.values()))


def difference(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> float:
    """Return ‖one − other‖₂, in float64."""
    return norm({name: one[name].double() - other[name].double() for name in one})


def dot(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> float:
    """Return ⟨one, other⟩, in float64."""
    return math.fsum(float((one[name].double() * other[name].double()).sum()) for name in one)
