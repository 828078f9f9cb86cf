"""Loss and accuracy of what a model returned."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from gammabeta.doctor.evidence.batch import first_tensor


class LossError(ValueError):
    """The loss function raised an error, or returned no scalar."""


def loss_of(loss: Callable[..., Any] | None, output: Any, target: Any) -> float | None:
    """Return the loss as a number; None if there is no function for it.

    Raises:
        LossError: the function raises, or returns no scalar.
    """
    if loss is None:
        value = output.get("loss") if isinstance(output, Mapping) else getattr(output, "loss", None)
        return float(value) if isinstance(value, Tensor) and value.numel() == 1 else None
    device = getattr(first_tensor(output), "device", None)
    if isinstance(target, Tensor) and device is not None:
        target = target.to(device)
    try:
        with torch.no_grad():
            value = loss(output) if target is None else loss(output, target)
    except Exception as error:
        said = (str(error).strip().splitlines() or [""])[0]
        raise LossError(
            f"loss raised {type(error).__name__}: {said}; it is called with the model's output"
            f"{' ' if target is None else ' and the last item of a batch '}and must return a scalar"
        ) from error
    if isinstance(value, Tensor) and value.numel() != 1:
        raise LossError(
            f"loss returned a tensor of shape {tuple(value.shape)}; it must return a scalar, "
            "for example with reduction='mean'"
        )
    if not isinstance(value, (Tensor, int, float)):
        raise LossError(f"loss returned a {type(value).__name__}; it must return a scalar")
    return float(value)


def accuracy_of(output: Any, target: Any) -> float | None:
    """Return the share of right predictions if output and target are those of a classifier."""
    y = first_tensor(output)
    if y is None or not isinstance(target, Tensor) or target.dtype.is_floating_point:
        return None
    if y.dim() < 2 or target.shape != (y.shape[0], *y.shape[2:]) or not target.numel():
        return None
    return float((y.argmax(1) == target.to(y.device)).double().mean())
