"""Weight decay pulls γ and β to zero.

## What it is

The optimizer applies weight decay to the scale and shift of norms, as to all other parameters.

## Why it matters

Decay of a weight before a norm does not change what the network computes; decay of γ does: it
shrinks the signal. Most recipes leave γ and β (and biases) out. The effect is usually small, and
some recipes decay them on purpose, so this is information only.

## How it is detected

The groups of the optimizer that is given are read: a norm's parameter in one with ``weight_decay``
above 0.

## Fix

```python
norms = {id(p) for m in model.modules() if "Norm" in type(m).__name__ for p in m.parameters()}
groups = [
    {"params": [p for p in model.parameters() if id(p) not in norms]},
    {"params": [p for p in model.parameters() if id(p) in norms], "weight_decay": 0.0},
]
optimizer = torch.optim.AdamW(groups, lr=1e-3, weight_decay=0.05)
```

## Source

He et al. 2019, arXiv:1812.01187 (no bias decay); Goyal et al. 2017, arXiv:1706.02677.
"""

from __future__ import annotations

from collections.abc import Iterator

from gammabeta.doctor.finding import Finding
from gammabeta.doctor.rule import static
from gammabeta.doctor.subject import Subject


@static("GB115", "decayed-affine", "weight decay pulls γ and β to zero")
def check(subject: Subject) -> Iterator[Finding]:
    """Yield one finding for all norms whose parameters decay."""
    if subject.optimizer is None:
        return
    decay = {
        id(p): float(group.get("weight_decay") or 0.0)
        for group in subject.optimizer.param_groups
        for p in group["params"]
        if p.requires_grad
    }
    decayed = {
        norm.path: most
        for norm in subject.norms
        if (most := max((decay.get(id(p), 0.0) for p in _own(norm.module)), default=0.0)) > 0
    }
    if decayed:
        yield Finding(
            severity="info",
            layer=next(iter(decayed)),
            layers=tuple(decayed),
            cause="weight decay pulls its γ and β to zero",
            numbers={"weight_decay": max(decayed.values()), "norms": len(decayed)},
            fix='groups = [{"params": others}, {"params": norms, "weight_decay": 0.0}]',
        )


def _own(norm: object) -> list[object]:
    values = (getattr(norm, name, None) for name in ("weight", "bias"))
    return [value for value in values if value is not None]
