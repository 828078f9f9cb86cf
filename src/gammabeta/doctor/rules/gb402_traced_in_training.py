"""A traced graph keeps a batch norm in training mode.

## What it is

`torch.jit.trace`, and `torch.fx.symbolic_trace` for functional batch norms, record what a model
does in its present mode. If that was training, ``training=True`` is a constant of the graph.

## Why it matters

``eval()`` on the traced model changes its flag and not what it computes: it normalizes by the batch
and updates its running statistics in each inference.

## How it is detected

The graphs of modules that are traced or scripted are read: a batch norm with running statistics
whose ``training`` is the constant True. A scripted batch norm reads its flag and is right. With an
optimizer, the graph is trained and this is information only.

## Fix

```python
traced = torch.jit.trace(model.eval(), example)
```

## Source

Documentation of `torch.jit.trace`: modes of the model are recorded.
"""

from __future__ import annotations

from collections.abc import Iterator

from gammabeta.doctor.finding import Finding
from gammabeta.doctor.model.graphs import baked
from gammabeta.doctor.rule import on_graphs
from gammabeta.doctor.subject import Subject


@on_graphs("GB402", "traced-in-training", "a traced graph has batch norms in training mode")
def check(subject: Subject) -> Iterator[Finding]:
    """Yield a finding for each such batch norm."""
    for each in baked(subject):
        if each.form != "exported":
            call = "torch.jit.trace(model.eval(), example)"
            if each.form == "traced":
                call = "torch.fx.symbolic_trace(model.eval())"
            yield Finding(
                severity="info" if each.on_purpose else "error",
                layer=each.layer,
                cause="the traced graph normalizes by the batch, and eval() cannot change it",
                numbers={"operator": each.operator},
                fix=f"traced = {call}",
            )
