"""Gradients of single examples are taken of a model with batch norms.

## What it is

Differential privacy, influence functions and gradient variances need the gradient of each example's
loss on its own. In training mode a batch norm mixes the examples: the loss of one depends on all.

## Why it matters

What is computed is not the gradient of that example, so clipping it bounds nothing: the privacy
guarantee does not hold. `torch.func.vmap` fails on the update of running statistics, or normalizes
each example by itself.

## How it is detected

The model is read for what takes such gradients: a wrapper or an optimizer of Opacus, or one called
like them; parameters with a ``grad_sample`` or ``grad_batch``; hooks that capture them; code that
mentions both ``vmap`` and ``grad`` of `torch.func`. Batch norms under it are reported if they
normalize by the batch: in evaluation mode or frozen they are not, nor group, layer and instance
norms.

## Fix

```python
model = gb.convert(model, "group")  # or gb.freeze(model)
```

## Source

Opacus' `ModuleValidator`, which refuses batch norms; documentation of `torch.func` on batch norm.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from types import FunctionType, MethodType
from typing import Any

from gammabeta.conversion.graph.reach import names_in_code
from gammabeta.doctor.finding import Finding
from gammabeta.doctor.model.hidden import is_library
from gammabeta.doctor.rule import static
from gammabeta.doctor.subject import Norm, Subject, is_within

_WRAPPER = re.compile(r"GradSample|Per(Sample|Example)Grad|DPDDP|DifferentiallyPrivate")
_OPTIMIZER = re.compile(r"DPOptimizer|^DP_?(SGD|Adam|RMSprop)|Private|PerSample")
_ON_PARAMETERS = ("grad_sample", "grad_batch", "_grad_sample", "summed_clipped_grad")
_HOOK = re.compile(
    r"grad_?sample|per_?(sample|example)|capture_(activations|backprops)|hook_store_io", re.I
)
_GRADIENTS = {"grad", "grad_and_value", "vjp", "jacrev", "jacfwd"}


@static("GB114", "per-example-gradients", "gradients of single examples through batch norms")
def check(subject: Subject) -> Iterator[Finding]:
    """Yield a finding for each batch norm that mixes examples."""
    mixing = [norm for norm in subject.batch_norms if _mixes(norm)]
    if not mixing:
        return
    sources = dict(_sources(subject))
    for norm in mixing:
        why = next((why for path, why in sources.items() if is_within(norm.path, path)), None)
        if why is None:
            continue
        yield Finding(
            severity="error",
            layer=norm.path,
            cause="it mixes the examples of a batch, but gradients of single examples are taken",
            numbers={"taken by": why},
            fix='model = gb.convert(model, "group")  # before it is wrapped; or gb.freeze(model)',
        )


def _mixes(norm: Norm) -> bool:
    stored = norm.running is not None and norm.running.there
    return bool(norm.module.training) or not stored


def _sources(subject: Subject) -> Iterator[tuple[str, str]]:
    """Yield path and description of what takes gradients of single examples."""
    optimizer = subject.optimizer
    if optimizer is not None:
        names = [cls.__name__ for cls in type(optimizer).__mro__]
        private = any(_OPTIMIZER.search(name) for name in names)
        if private or (
            hasattr(optimizer, "noise_multiplier") and hasattr(optimizer, "max_grad_norm")
        ):
            yield "", f"the optimizer {names[0]}"
    classes = {type(module) for module in subject.modules.values()}
    vmapped = {cls for cls in classes if not is_library(cls) and _vmaps(names_in_code(cls))}
    for path, module in subject.modules.items():
        for cls in type(module).__mro__:
            if _WRAPPER.search(cls.__name__):
                yield path, cls.__name__
        if type(module) in vmapped:
            yield path, f"torch.func in {type(module).__name__}"
        for hook in (*module._forward_hooks.values(), *module._backward_hooks.values()):
            if _HOOK.search(_name(hook)):
                yield path.rpartition(".")[0], f"the hook {_name(hook)}"
    for name, parameter in subject.each_parameter():
        if any(hasattr(parameter, attribute) for attribute in _ON_PARAMETERS):
            yield "", f"a hook that sets grad_sample on {name}"
            break
    for path, module in subject.modules.items():
        for name, value in module.__dict__.items():
            if isinstance(value, FunctionType) and _vmaps(_names(value)):
                yield path, f"torch.func in {name}()"
    forward = getattr(subject.evidence, "forward", None)
    for name, function in (("loss", subject.loss), ("forward", forward)):
        if _vmaps(_names(function)):
            yield "", f"torch.func in {name}()"


def _vmaps(names: set[str]) -> bool:
    return ("vmap" in names and bool(names & _GRADIENTS)) or "call_for_per_sample_grads" in names


def _names(function: Any, depth: int = 5) -> set[str]:
    """Return the names in the code of a function and of the functions it holds or calls."""
    if isinstance(function, MethodType):
        function = function.__func__
    if not isinstance(function, FunctionType) or depth == 0:
        return set()
    code = function.__code__
    names = set(code.co_names) | {code.co_qualname.partition(".")[0]}
    for constant in code.co_consts:
        names |= set(getattr(constant, "co_names", ()))
    held = [cell.cell_contents for cell in function.__closure__ or () if _is_filled(cell)]
    called = [function.__globals__.get(name) for name in code.co_names]
    library = (getattr(function, "__globals__", {}).get("__name__") or "").startswith("torch")
    for each in held if library else (*held, *called):
        if isinstance(each, FunctionType) and not is_library(each):
            names |= _names(each, depth - 1)
    return names


def _is_filled(cell: Any) -> bool:
    try:
        return cell.cell_contents is not None
    except ValueError:
        return False


def _name(hook: Any) -> str:
    hook = getattr(hook, "func", hook)
    return str(getattr(hook, "__qualname__", type(hook).__name__))
