"""Whether a model has learned anything yet, as far as its values show."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from gammabeta.doctor.subject import Subject

_SLACK = 1.001


def is_fresh(subject: Subject) -> bool:
    """Whether no value of the model shows that it was trained.

    Traces of training are an optimizer with a state, batches counted by a batch norm, γ that vary
    in a norm that counts no batches (some models draw them), β that are not 0, and biases beyond
    the bound of torch's initialization.

    Example:
        >>> model = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4))
        >>> is_fresh(Subject(model))
        True
        >>> _ = nn.init.constant_(model[1].bias, -3.0)
        >>> is_fresh(Subject(model))
        False
    """
    if subject.optimizer is not None and subject.optimizer.state:
        return False
    for norm in subject.norms:
        counted = getattr(norm.module, "num_batches_tracked", None)
        counts = isinstance(counted, Tensor) and counted.numel() == 1
        if isinstance(counted, Tensor) and counts and int(counted) > 0:
            return False
        weight, bias = _own(norm.module, "weight"), _own(norm.module, "bias")
        if bias is not None and bool((bias != 0).any()):
            return False
        if weight is not None and not counts and not _constant(weight):
            return False
    return not any(
        biased_by_training(module)
        for module in subject.modules.values()
        if not any(module is norm.module for norm in subject.norms)
    )


def biased_by_training(module: nn.Module) -> bool:
    """Whether the bias of a linear or convolutional layer is beyond torch's initialization."""
    weight, bias = _own(module, "weight"), _own(module, "bias")
    if weight is None or bias is None or weight.dim() < 2 or _constant(bias):
        return False
    inputs = weight[0].numel()
    return bool(bias.abs().max() > _SLACK / inputs**0.5) if inputs else False


def _own(module: nn.Module, name: str) -> Tensor | None:
    value = getattr(module, name, None)
    if not isinstance(value, Tensor) or not value.is_floating_point() or not value.numel():
        return None
    return value.detach()


def _constant(value: Tensor) -> bool:
    return bool(torch.eq(value, value.flatten()[0]).all())
