"""The numbers that a person gives for a step, checked and made floats."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gammabeta.signal.transfer import send


class Numbers:
    """Some named numbers of one step.

    A number on an accelerator is copied to the host without waiting for it: `values` waits.

    Args:
        given: name → a number, or a tensor or array with one element.

    Raises:
        ValueError: a value has several elements, or is too large for a float.
        TypeError: a value is not a number.
    """

    def __init__(self, given: Mapping[str, Any]) -> None:
        self._values = {name: _checked(name, value) for name, value in given.items()}
        far = [
            _Far(self._values, name)
            for name, value in self._values.items()
            if isinstance(value, Tensor)
        ]
        self._arrived: Callable[[], None] = send([(each, "value") for each in far])
        self.ready = not far

    def at_hand(self, name: str) -> float | None:
        """Return a number that is known without waiting for an accelerator; else None."""
        value = self._values.get(name)
        return value if isinstance(value, float) else None

    def values(self) -> dict[str, float]:
        """Return the numbers as floats."""
        self._arrived()
        return {name: float(value) for name, value in self._values.items()}


class _Far:
    """The place of a number on an accelerator, as an attribute."""

    def __init__(self, values: dict[str, Any], name: str) -> None:
        self._values, self._name = values, name

    @property
    def value(self) -> Any:
        return self._values[self._name]

    @value.setter
    def value(self, value: Any) -> None:
        self._values[self._name] = value


def learning_rates(optimizer: torch.optim.Optimizer) -> dict[str, float]:
    """Return the learning rate of each parameter group: ``lr``, or ``lr 0``, ``lr 1``, … ."""
    rates = [group.get("lr") for group in optimizer.param_groups]
    floats = [float(rate) for rate in rates if rate is not None]
    if len(set(floats)) <= 1:
        return {"lr": floats[0]} if floats else {}
    return {f"lr {i}": rate for i, rate in enumerate(floats)}


class LossScale:
    """The scale of the loss, which a `torch.amp.GradScaler` changes at the end of a step."""

    def __init__(self) -> None:
        self._last: float | None = None

    def of(self, scaler: Any, needed: bool) -> float:
        """Return the scale of this step's backward pass: that of the end of the step before.

        Args:
            scaler: the scaler, or None.
            needed: whether the scale of now is worth waiting for.
        """
        if scaler is None:
            return 1.0
        now = float(scaler.get_scale()) if needed or self._last is None else self._last
        scale, self._last = now if self._last is None else self._last, now
        return scale


def _checked(name: str, value: Any) -> float | Tensor:
    """Return ``value`` as a float, or as a tensor of one element on an accelerator."""
    if isinstance(value, (Tensor, np.ndarray)):
        if math.prod(value.shape) != 1:
            raise ValueError(
                f"{name} has shape {tuple(value.shape)}; give one number, such as its mean"
            )
        if isinstance(value, Tensor) and value.is_meta:
            raise ValueError(f"{name} is on the meta device and has no value; omit it")
        if isinstance(value, Tensor) and value.is_cuda and value.is_floating_point():
            return value.detach().clone()
        value = value.item()
    if not isinstance(value, (str, bytes, bytearray)):  # float("1") would do
        try:
            return float(value)
        except OverflowError as e:
            raise ValueError(f"{name} is too large for a float; give math.inf instead") from e
        except (TypeError, ValueError):
            pass
    raise TypeError(f"{name} is a {type(value).__name__}; give one number, such as loss.item()")
