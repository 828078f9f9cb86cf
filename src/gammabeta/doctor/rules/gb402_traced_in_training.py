"""A traced graph keeps a batch norm in training mode.

## What it is

`torch.jit.trace`, and `torch.fx.symbolic_trace` for functional batch norms, record what a model
does in its present mode. If that was training, ``training=True`` is a constant of the graph.

## Why it matters

``eval()`` on the traced model changes its flag and not what it computes: it normalizes by the batch
and updates its running statistics in each inference.

## How it is detected

The graphs of modules that are traced or scripted are read: a batch norm with running statistics
whose ``training`` is the constant True. A scripted batch norm reads its flag, which ``eval()``
sets: in training mode, and without an optimizer, it is information. With an optimizer, a graph is
trained and this is information only. Graphs that are being quantized are GB403's.

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
    found = baked(subject)
    for each in found:
        if each.form != "exported" and not each.quantized:
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
    yield from _scripted(subject, {each.layer for each in found})


def _scripted(subject: Subject, known: set[str]) -> Iterator[Finding]:
    """Yield one finding for batch norms whose compiled code is in training mode for now."""
    if subject.optimizer is not None:
        return
    moving = [
        norm.path
        for norm in subject.norms
        if norm.running is not None and norm.running.of == "compiled" and subject.is_moving(norm)
    ]
    if moving and not known:
        yield Finding(
            severity="info",
            layer=moving[0],
            layers=tuple(moving),
            cause="it is compiled and in training mode, which a file from save() keeps",
            fix="model.eval()  # before torch.jit.save",
        )
