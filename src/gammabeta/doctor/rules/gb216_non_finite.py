"""The forward pass makes values that are infinite or NaN.

## What it is

A layer returns ``inf`` or ``NaN`` although its input is finite: its weights are not finite, its
result is too large for float16, or a formula divides by zero or takes the logarithm of zero.

## Why it matters

One such value makes the loss NaN, and the next optimizer step makes every weight NaN. In training
mode it also ends in the running statistics of every batch norm behind it, where it stays.

## How it is detected

The output of every module is checked in the passes that are run anyway, in evaluation mode first.
The first module whose output is not finite while its input is finite is reported; if the code of a
module makes the values between its parts, that module. It is an error if the loss, or the model's
output, is NaN or infinite, and information otherwise, because a mask of −∞ before a softmax is
meant. An output that holds −∞ but no NaN, made by the model's own code, is such a mask, too. Silent
where NaN buffers or statistics in low precision are the reason, which are GB107 and GB105.

## Fix

```python
with torch.autocast("cuda", dtype=torch.bfloat16):  # float16 ends at 65504
    y = model(x)
```

## Source

Micikevicius et al. 2018, Mixed precision training, arXiv:1710.03740; documentation of
`torch.amp` and of `torch.autograd.detect_anomaly`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from gammabeta.doctor.evidence import Broken, Evidence, Pass, first_tensor
from gammabeta.doctor.finding import Finding
from gammabeta.doctor.model.access import access
from gammabeta.doctor.rule import on_batches
from gammabeta.doctor.subject import Subject

_OTHERS = ("GB105", "GB107")


@on_batches("GB216", "non-finite", "the forward pass makes values that are infinite or NaN")
def check(subject: Subject, evidence: Evidence) -> Iterator[Finding]:
    """Yield one finding, for the layer where such values appear first."""
    for index in range(len(evidence.batches)):
        x = evidence.input(index)
        if x is not None and not _finite(x):
            yield Finding(
                severity="error",
                layer="",
                cause="a batch that it is given has non-finite values",
                numbers={"batch": index, "share of values": _share(x)},
                fix="assert torch.isfinite(x).all()  # find the file, or x = torch.nan_to_num(x)",
            )
            return
    first = next((p for p in evidence.evaluated if p.broken is not None), None)
    mode = "evaluation"
    if first is None and subject.batch_norms:
        first = next((p for p in evidence.trained if p.broken is not None), None)
        mode = "training"
    if first is None or first.broken is None:
        yield from _of_loss(evidence)
        return
    broken = first.broken
    if any(b.is_floating_point() and not _finite(b) for b in _buffers(broken)):
        return
    if any(f.code in _OTHERS and f.severity != "info" for f in subject.findings):
        return
    cause, fix = _why(broken)
    lost = _is_lost(first)
    if broken.code and not broken.nan and not lost:
        return  # a mask
    cost = "the loss is not finite" if first.loss is not None and lost else ""
    yield Finding(
        severity="error" if lost else "info",
        layer=broken.layer,
        cause=cause,
        numbers={
            "batch": first.batch,
            "mode": mode,
            "dtype": str(broken.dtype).removeprefix("torch."),
            "largest input": broken.largest,
            "NaN": broken.nan,
        },
        cost=cost or ("the model's output is not finite" if lost else ""),
        fix=fix,
    )


def _of_loss(evidence: Evidence) -> Iterator[Finding]:
    for p in evidence.evaluated:
        y = first_tensor(p.output)
        if p.loss is not None and not math.isfinite(p.loss) and y is not None and _finite(y):
            yield Finding(
                severity="error",
                layer="",
                cause="its output is finite, but the loss is not",
                numbers={"batch": p.batch, "largest output": float(y.detach().abs().max())},
                cost="the loss is not finite",
                fix="loss = F.cross_entropy(logits, target)  # in place of log(softmax(logits)); "
                "or p.clamp(1e-6, 1 - 1e-6) before a logarithm",
            )
            return


def _why(broken: Broken) -> tuple[str, str]:
    name = access(broken.layer)
    module = broken.module
    own = [] if module is None else list(module.named_parameters(recurse=broken.code))
    bad = [path for path, p in own if not _finite(p.detach())]
    if bad:
        return (
            "its weights are not finite, and so is everything it returns",
            f"# {name}.{bad[0]} has non-finite values; load an earlier checkpoint:\n"
            "model.load_state_dict(torch.load(path, weights_only=True))",
        )
    if broken.dtype == torch.float16:
        return (
            "it returns values beyond the range of float16, which ends at 65504",
            "model.bfloat16()  # or model.float(), or torch.autocast with dtype=torch.bfloat16",
        )
    if broken.code:
        return (
            "its own code makes non-finite values of finite ones, such as a division by zero",
            f"# in {name}.forward: x / y.clamp(min=1e-6), torch.log(x.clamp(min=1e-6)), "
            "torch.sqrt(x + 1e-6); no row of an attention mask may hide everything",
        )
    return (
        "it returns non-finite values for a finite input",
        f"{name}.register_forward_hook(lambda m, x, y: print(x[0].abs().max(), "
        "torch.isfinite(y).all()))  # clamp or normalize its input",
    )


def _is_lost(p: Pass) -> bool:
    if p.loss is not None:
        return not math.isfinite(p.loss)
    y = first_tensor(p.output)
    if y is None or not y.is_floating_point():
        return False
    if p.broken is not None and p.broken.code:
        return bool(torch.isnan(y).any() or torch.isposinf(y).any())
    return not _finite(y)


def _buffers(broken: Broken) -> list[Any]:
    return [] if broken.module is None else list(broken.module.buffers(recurse=broken.code))


def _finite(x: Tensor) -> bool:
    return not x.is_floating_point() or bool(torch.isfinite(x).all())


def _share(x: Tensor) -> float:
    return float((~torch.isfinite(x)).double().mean())
