"""ε does not fit the number format or the variance.

## What it is

ε keeps a norm from dividing by zero where the variance vanishes. In float16 everything below 6e-8
is 0, so ``eps=1e-12``, right in float32, protects from nothing. An ε that is large against the
variance does the opposite: the norm hardly normalizes.

## Why it matters

A constant feature (padding, a dead channel) becomes 0/0 = NaN, or the rounding error of float16
is scaled up to unit variance. With a large ε the output shrinks: with ε = 10 σ² to 0.3 of 1.

## How it is detected

- ε negative or not a number is an error; ε = 0 is a warning, and an error if a running variance
  is 0.
- In float16 and bfloat16, a copy of a norm whose ε is below 6e-8 is called on constant input; NaN
  is an error. Otherwise an ε that is 0 in float16 is a warning, because kernels differ in the type
  they compute in. In bfloat16, which has the range of float32, it is information. A batch norm in
  ``eval()`` divides by its running variance and is silent unless that is tiny.
- ε ≥ 0.05 is a warning unless the variances are known and ten times as large. With batches, so is
  an ε above ten times the median variance of the layer's input (over channels that are not
  constant); it is information where the input is made by weights that were never
  trained, and in architectures of transformers. For
  ε ≥ 2e-3 trained running variances are compared likewise.

ε = 1e-12 in float32, as in BERT, is right, and so is ``eps=None`` of `torch.nn.RMSNorm`.

## Fix

```python
norm.eps = 1e-5
```

## Source

torch's issue #41527 (layer norm with ε = 1e-12 returns NaN in float16), wenet's pull request #907,
DeepSpeed's issue #581, and tensorflow's pull request #24979 (ε = 1e-3 for float16).
"""

from __future__ import annotations

import copy
import math
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from gammabeta.doctor.finding import Finding
from gammabeta.doctor.model.access import access
from gammabeta.doctor.model.fresh import is_fresh
from gammabeta.doctor.model.initial import has_values, is_initial
from gammabeta.doctor.model.published import is_published
from gammabeta.doctor.model.renamed import number
from gammabeta.doctor.rule import static
from gammabeta.doctor.subject import Norm, Subject
from gammabeta.layers.probe import apart, reason_untried

_NAMES = ("eps", "epsilon", "variance_epsilon")
_LARGE = 0.05
_KERAS = 2e-3
"""Above the largest ε that is common, 1e-3."""
_TIMES = 10.0
_TINY = 1e-4
_DEFAULT = 1e-5
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


@static("GB104", "epsilon", "ε does not fit the number format or the variance")
def check(subject: Subject) -> Iterator[Finding]:
    """Yield a finding for each norm with such an ε."""
    floats = (p.dtype for p in subject.model.parameters() if p.is_floating_point())
    usual = next(floats, torch.get_default_dtype())
    variances: dict[str, _Met] | None = None
    tried: dict[tuple[Any, ...], bool] = {}
    for norm in subject.norms:
        found_in = ((n, number(getattr(norm.module, n, None))) for n in _NAMES)
        name, eps = next(((n, value) for n, value in found_in if value is not None), ("", None))
        if eps is None:
            continue
        found = _invalid(norm, eps) or _underflow(norm, eps, usual, tried)
        if found is None:
            if variances is None:
                variances = _of_batches(subject)
            found = _too_large(subject, norm, eps, variances)
        if found is not None:
            severity, cause, numbers = found
            yield Finding(
                severity=severity,
                layer=norm.path,
                cause=cause,
                numbers={"ε": eps, **numbers},
                fix=f"{access(norm.path)}.{name} = {_DEFAULT}",
                repair=_setter(norm.path, name) if severity != "info" and eps < _TINY else None,
            )


_Found = tuple[str, str, dict[str, Any]]


@dataclass(frozen=True)
class _Met:
    """What a norm met on the batches.

    Attributes:
        var: median variance of its input.
        data: whether its input are the data themselves.
    """

    var: float
    data: bool


def _invalid(norm: Norm, eps: float) -> _Found | None:
    if math.isnan(eps) or eps < 0:
        return "error", "ε is negative or not a number", {}
    if eps == 0:
        var = None if norm.running is None else norm.running.var
        zero = var is not None and has_values(var) and bool((var == 0).any())
        cause = "ε is 0, so a feature without variance is divided by zero"
        return "error" if zero else "warning", cause, {}
    return None


def _underflow(
    norm: Norm, eps: float, usual: torch.dtype, tried: dict[tuple[Any, ...], bool]
) -> _Found | None:
    """Look for an ε that a half-precision format loses."""
    dtype = _dtype(norm.module, usual)
    if dtype not in (torch.float16, torch.bfloat16):
        return None
    if eps >= torch.finfo(torch.float16).smallest_normal * torch.finfo(torch.float16).eps:
        return None
    if norm.is_batch and not norm.module.training:
        var = None if norm.running is None else norm.running.var
        if var is not None and has_values(var) and float(var.min()) > _TINY:
            return None
    key = (type(norm.module), eps, dtype, norm.module.training)
    if key not in tried:
        tried[key] = _fails(norm.module, dtype)
    numbers = {"dtype": str(dtype).removeprefix("torch."), "smallest number above 0": 6e-8}
    if tried[key]:
        return "error", "ε is lost in the number format: constant input becomes NaN", numbers
    if dtype == torch.float16:
        cause = "ε is 0 in float16, so a constant feature is divided by its rounding error"
        return "warning", cause, numbers
    cause = "ε is far below the rounding error of bfloat16"
    return "info", cause, {"dtype": "bfloat16"}


def _too_large(
    subject: Subject, norm: Norm, eps: float, variances: dict[str, _Met]
) -> _Found | None:
    """Look for an ε that is large against the variance."""
    cause = "ε is large against the variance, so the layer hardly normalizes"
    met = variances.get(norm.path)
    var = None if met is None else met.var
    if var is None and eps >= _KERAS and not is_initial(norm):
        running = None if norm.running is None else norm.running.var
        var = _median(running) if running is not None and has_values(running) else None
    if var is not None and math.isfinite(var):
        numbers = {"median variance": var, "standard deviation after": (1 + eps / var) ** -0.5}
        if eps > _TIMES * var:
            # random weights may be small; training makes up for it
            inner = met is not None and not met.data and eps < _LARGE
            meant = inner and (is_fresh(subject) or is_published(subject, norm))
            return "info" if meant else "warning", cause, numbers
        return ("warning", cause, numbers) if eps >= _LARGE and eps * _TIMES > var else None
    return ("warning", cause, {}) if eps >= _LARGE else None


def _of_batches(subject: Subject) -> dict[str, _Met]:
    """Return the median variance that each norm met on the batches, if there were any.

    Norms that go by the batch are seen in training mode, as evaluation of an untrained model says
    nothing about their input.
    """
    evidence: Any = subject.evidence
    if evidence is None:
        return {}
    try:
        passes = evidence.trained if evidence.targets else evidence.evaluated
    except Exception:  # the batches do not serve
        return {}
    found: dict[str, list[float]] = {}
    data: set[str] = set()
    by_path = {norm.path: norm for norm in subject.norms}
    for batch, call in ((p.batch, call) for p in passes for call in p.calls):
        norm = by_path[call.layer]
        if call.var is None or call.mean is None or not call.finite or call.values < 2:
            continue
        if norm.is_batch and not call.by_batch:
            continue
        total = float((call.var + (call.mean - call.mean.mean()).square()).mean())
        if _is_data(evidence.input(batch), call.shape, total):
            data.add(call.layer)
        if norm.is_batch:
            var = _median(call.var)
        elif norm.family == "rms":
            var = float((call.var + call.mean.square()).mean())
        else:  # over features, too: the spread of their means belongs to it
            var = total
        if var > 0:
            found.setdefault(call.layer, []).append(var)
    return {path: _Met(max(values), path in data) for path, values in found.items()}


def _is_data(x: Tensor | None, shape: tuple[int, ...], total: float) -> bool:
    """Whether an input of this shape and variance is ``x``, possibly with its dims permuted."""
    if x is None or not x.is_floating_point() or x.numel() != math.prod(shape):
        return False
    return math.isclose(float(x.double().var(correction=0)), total, rel_tol=1e-6)


def _median(var: Tensor) -> float:
    """Return the median of the variances that are not 0; NaN if all are."""
    positive = var.detach().double()[var.detach() > 1e-30]
    return float(positive.median()) if positive.numel() else math.nan


def _dtype(module: nn.Module, usual: torch.dtype) -> torch.dtype:
    own = (*module.parameters(recurse=False), *module.buffers(recurse=False))
    return next((t.dtype for t in own if t.is_floating_point()), usual)


def _fails(module: nn.Module, dtype: torch.dtype) -> bool:
    """Whether a copy of ``module`` returns NaN for constant input in ``dtype``."""
    try:
        tensors = [*module.parameters(), *module.buffers()]
        if reason_untried(module) or any(is_lazy(t) or t.is_meta for t in tensors):
            return False
        with apart(), torch.no_grad():
            copied: Any = copy.deepcopy(module).to("cpu", dtype)
            for name in _HOOKS:
                copied.__dict__[name] = OrderedDict()
            own = next((tuple(t.shape) for t in tensors if t.dim()), (8,))
            size = tuple(getattr(copied, "normalized_shape", own))
            c = getattr(copied, "num_features", None) or getattr(copied, "num_channels", None)
            shapes = [(4, c, *[3] * n) for n in range(3)] if c else [(4, *size)]
            outputs = (_output(copied, torch.full(shape, 3.1, dtype=dtype)) for shape in shapes)
            return any(y is not None and not bool(torch.isfinite(y).all()) for y in outputs)
    except Exception:  # whatever a stranger's code may raise
        return False


def _output(module: Any, x: Tensor) -> Tensor | None:
    try:
        y = module.forward(x)
    except Exception:  # not the shape that it takes
        return None
    return y if isinstance(y, Tensor) else None


def _setter(path: str, name: str) -> Callable[[nn.Module], str]:
    def repair(model: nn.Module) -> str:
        norm: Any = model.get_submodule(path)
        before = getattr(norm, name)
        setattr(norm, name, _DEFAULT)
        return f"{path}.{name}: {before} → {_DEFAULT}"

    return repair
