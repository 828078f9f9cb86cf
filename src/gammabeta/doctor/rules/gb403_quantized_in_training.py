"""A quantized model, or one that is being calibrated for it, has batch norms in training mode.

## What it is

Quantization measures the ranges of activations, or has fixed them. A batch norm in training mode
normalizes by the batch and moves its statistics, so that the ranges belong to another function than
the one that will run.

## Why it matters

Scales are wrong, and predictions depend on the batch.

## How it is detected

The modules are read, and in exported graphs (torchao's ``pt2e``) the operators. A batch norm that
follows batches is an error in a model with quantized layers, which cannot be trained, and in one
with observers, which are calibrated in evaluation mode. With fake quantization, training is what it
is for: there is a warning if the observers are off while statistics still move, if the model is in
``eval()`` and the batch norm is not, or if the observers have seen data and no optimizer is given,
and information otherwise.

## Fix

```python
model.eval()  # before prepare, calibration and convert
model.apply(torch.ao.nn.intrinsic.qat.freeze_bn_stats)  # late in quantization-aware training
torchao.quantization.pt2e.move_exported_model_to_eval(graph)  # an exported graph, before convert
```

## Source

Documentation of `torch.ao.quantization.prepare`; Krishnamoorthi 2018, arXiv:1806.08342, section
3.2.2, for freezing batch norms late in training.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from gammabeta.doctor.finding import Finding
from gammabeta.doctor.model.graphs import baked
from gammabeta.doctor.rule import on_graphs
from gammabeta.doctor.subject import Subject

_INFERENCE = (
    "torch.ao.nn.quantized",
    "torch.ao.nn.intrinsic.quantized",
    "torch.ao.nn.sparse.quantized",
)
_REFERENCE = "torch.ao.nn.quantized.reference"


_QUANTIZED = "it follows batches although the model is quantized and cannot be trained"
_MOVE = "torchao.quantization.pt2e.move_exported_model_to_eval(model)  # before convert"


@on_graphs("GB403", "quantized-in-training", "a quantized model has batch norms in training mode")
def check(subject: Subject) -> Iterator[Finding]:
    """Yield a finding for each batch norm that follows batches in such a model."""
    moving = [
        (norm.path, "model.eval()  # before prepare, calibration and convert", False)
        for norm in subject.batch_norms
        if subject.is_moving(norm) and not _is_fixed(norm.module)
    ]
    graphs = [each for each in baked(subject) if each.quantized]
    moving += [(each.layer, _MOVE, each.quantized == "quantized") for each in graphs]
    found = _stage(subject) if moving else None
    for path, fix, quantized in moving:
        if quantized:
            yield Finding(severity="error", layer=path, cause=_QUANTIZED, fix=fix)
        elif found is not None:
            severity, cause, better = found
            fix = better if better and fix != _MOVE else fix
            yield Finding(severity=severity, layer=path, cause=cause, fix=fix)


def _stage(subject: Subject) -> tuple[str, str, str] | None:
    """Return severity, cause and fix of what is done to the model; None if it is not quantized."""
    modules = list(subject.modules.values())
    if any(_is_quantized(module) for module in modules):
        return "error", _QUANTIZED, ""
    fakes: list[Any] = [m for m in modules if _is_a(m, "FakeQuantizeBase")]
    if not fakes:
        if not any(_is_a(module, "ObserverBase") for module in modules):
            return None
        cause = "it normalizes by the batch while the ranges for quantization are calibrated"
        return "error", cause, ""
    freeze = "model.apply(torch.ao.nn.intrinsic.qat.freeze_bn_stats)  # or model.eval()"
    if not any(_is_on(fake) for fake in fakes):
        cause = "its statistics move although the ranges for quantization are fixed"
        return "warning", cause, freeze
    if not subject.model.training and not baked(subject):
        cause = "it is in training mode although the model, with fake quantization, is in eval()"
        return "warning", cause, "model.eval()  # the whole of it"
    cause = "it is in training mode in a model with fake quantization"
    left = subject.optimizer is None and any(_has_seen(fake) for fake in fakes)
    return ("warning" if left else "info"), cause, "model.eval()  # before evaluation and convert"


def _is_quantized(module: nn.Module) -> bool:
    home = type(module).__module__
    return home.startswith(_INFERENCE) and not home.startswith(_REFERENCE)


def _is_fixed(module: nn.Module) -> bool:
    """Whether it is itself quantized: then it goes by its running statistics."""
    return _is_quantized(module)


def _is_a(module: nn.Module, name: str) -> bool:
    return any(cls.__name__ == name for cls in type(module).__mro__)


def _is_on(fake: Any) -> bool:
    enabled = getattr(fake, "observer_enabled", None)
    return enabled is None or bool(enabled[0])


def _has_seen(fake: Any) -> bool:
    """Whether the observer of a fake quantization has seen data."""
    observer = getattr(fake, "activation_post_process", None)
    low = getattr(observer, "min_val", None)
    return isinstance(low, torch.Tensor) and low.numel() > 0 and bool(torch.isfinite(low).all())
