"""Compare a folded model with the original on an example.

Two questions. *Is it the same function?* The original is folded in float64 and compared with itself
in float64, where a right fold leaves a difference far below what float32 can express, also in deep
networks that multiply every rounding. *Is it as exact?* Folding rounds each weight once, where the
norm rounded each output. Neither is right; what both approximate is the model in float64. So the
folded model may be at most `FACTOR` times as far from it as the original is. Where a network
multiplies roundings, how far that is, is a matter of luck: if the original had more of it, it is
tried again with weights that differ in the last place. The other term is for models so small that
the original's error is zero by chance.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from gammabeta.conversion.folding.model_copy import copy_model
from gammabeta.conversion.folding.report import SAME, Proof

FACTOR = 4.0
_ROUNDINGS = 16.0
_TRIALS = 6


class Reference:
    """The original model's outputs for an example, in its own type and in float64.

    Args:
        model: the original. It is copied before it runs.
        example: its input.
        apply: folds a copy of ``model`` that it is called with.

    Attributes:
        outputs: its floating-point outputs.
        exact: the same in float64, or None if the model does not run in float64.
        difference: how far ``exact`` is from the outputs of the model folded in float64.
    """

    def __init__(
        self, model: nn.Module, example: Any, apply: Callable[[nn.Module], object]
    ) -> None:
        self.example, self.random = example, torch.get_rng_state()
        self.original = copy_model(model)
        try:
            self.outputs = self._run(copy_model(model), example)
        except Exception as error:  # a person's code may raise anything
            said = (str(error).splitlines() or [""])[0]
            raise ValueError(
                f"example: model={type(model).__name__} raises {type(error).__name__} on it: "
                f"{said}; give an input as the model is called with: a tensor, a tuple or a dict"
            ) from error
        if not self.outputs:
            raise ValueError(
                f"example: the output of model={type(model).__name__} has no floating-point tensor"
            )
        self.exact: list[Tensor] | None = None
        self.difference = 0.0
        try:
            exact = self._run(copy_model(model).double(), _in_double(example))
            folded = copy_model(model).double()
        except Exception:  # code that names another type, an operator without float64
            return
        apply(folded)
        self.exact = exact
        self.difference = _distance(self._run(folded, _in_double(example)), exact)

    def compare(self, folded: nn.Module, tolerance: float | None) -> Proof:
        """Return how far ``folded`` is from the original.

        Args:
            folded: the folded model. It is copied before it runs.
            tolerance: the largest relative difference allowed, or None.

        Raises:
            ValueError: the original's outputs prove nothing.
        """
        outputs = self._run(copy_model(folded), self.example)
        absolute = _distance(outputs, self.outputs)
        largest = max(map(_largest, self.exact or self.outputs), default=0.0)
        relative = absolute / largest if largest else absolute
        eps = max(torch.finfo(one.dtype).eps for one in self.outputs)
        if self.exact is None or tolerance is not None:
            # Without float64: half of the digits. A norm folded wrongly leaves none.
            return Proof(absolute, relative, eps**0.5 if tolerance is None else tolerance)
        error, folded_error = _distance(self.outputs, self.exact), _distance(outputs, self.exact)
        if not math.isfinite(error):
            raise ValueError(
                "example: the model's outputs are not finite where the same model in float64 has "
                "finite ones, so they prove nothing; give another example"
            )
        difference = self.difference / largest if largest else self.difference
        # Of a model in float64, nothing more exact is known than that it is the same.
        least = max(_ROUNDINGS * eps, SAME if eps < SAME else 0.0) * largest
        for trial in range(_TRIALS if difference <= SAME else 0):
            if folded_error <= FACTOR * error + least:
                break
            error = max(error, _distance(self._moved(trial), self.exact))
        allowed = FACTOR * error + least
        return Proof(absolute, relative, allowed, folded_error, error, difference)

    def _moved(self, seed: int) -> list[Tensor]:
        """The original's outputs with weights that differ in the last place."""
        moved, draw = copy_model(self.original), torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in moved.parameters():
                if parameter.is_floating_point():
                    by = torch.rand(parameter.shape, generator=draw, dtype=torch.float64) - 0.5
                    eps = 2 * torch.finfo(parameter.dtype).eps
                    value = parameter.double() * (1 + eps * by.to(parameter.device))
                    parameter.data = value.to(parameter.dtype)
        return self._run(moved, self.example)

    def _run(self, model: nn.Module, example: Any) -> list[Tensor]:
        with torch.no_grad(), torch.random.fork_rng():
            torch.set_rng_state(self.random)
            if isinstance(example, dict):
                output = model(**example)
            elif isinstance(example, tuple):
                output = model(*example)
            else:
                output = model(example)
        return [one for one in _tensors(output, set()) if one.is_floating_point()]


def _in_double(example: Any) -> Any:
    if isinstance(example, Tensor):
        return example.double() if example.is_floating_point() else example
    if isinstance(example, dict):
        return {key: _in_double(value) for key, value in example.items()}
    if isinstance(example, (list, tuple)) and not hasattr(example, "_fields"):
        return type(example)(map(_in_double, example))
    return example


def _tensors(thing: Any, seen: set[int]) -> Iterator[Tensor]:
    """The tensors that an output holds, in order."""
    if id(thing) in seen:
        return
    if isinstance(thing, Tensor):
        yield thing
        return
    seen.add(id(thing))
    if isinstance(thing, dict):
        parts = list(thing.values())
    elif isinstance(thing, (list, tuple)):
        parts = list(thing)
    elif hasattr(thing, "__dict__") and not isinstance(thing, (nn.Module, type)):
        parts = list(vars(thing).values())
    else:
        return
    for part in parts:
        yield from _tensors(part, seen)


def _distance(some: list[Tensor], others: list[Tensor]) -> float:
    """The largest difference; infinite where one is finite and the other is not."""
    if len(some) != len(others):
        return math.inf
    largest = 0.0
    for one, other in zip(some, others, strict=True):
        if one.shape != other.shape:
            return math.inf
        a, b = one.double(), other.double()
        same = (a == b) | (a.isnan() & b.isnan())
        difference = torch.where(same, 0, (a - b).abs()).nan_to_num(nan=math.inf)
        largest = max(largest, float(difference.max()) if difference.numel() else 0.0)
    return largest


def _largest(one: Tensor) -> float:
    finite = one.double().abs().nan_to_num(0, 0, 0)
    return float(finite.max()) if finite.numel() else 0.0
