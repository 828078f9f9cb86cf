"""An exported graph keeps a batch norm in training mode.

## What it is

`torch.export` writes the mode of each batch norm into the graph as a constant. A model that was
exported without ``eval()`` normalizes by the batch, and updates its running statistics, wherever it
runs.

## Why it matters

Predictions depend on the other examples of a batch, a batch of one gives nothing useful, and each
inference changes the model. ``eval()`` on the exported program does not help.

## How it is detected

The nodes of the graph are read: batch norm operators of ATen with running statistics and a
``training`` that is True. A graph that is made for training (it returns a loss or has a backward
pass, it holds fake quantization, or an optimizer was given) is information only.

## Fix

```python
program = torch.export.export(model.eval(), example)
```

## Source

Documentation of `torch.export`: the mode of the modules is captured.
"""

from __future__ import annotations

from collections.abc import Iterator

from gammabeta.doctor.finding import Finding
from gammabeta.doctor.model.graphs import baked
from gammabeta.doctor.rule import on_graphs
from gammabeta.doctor.subject import Subject


@on_graphs("GB401", "exported-in-training", "an exported graph has batch norms in training mode")
def check(subject: Subject) -> Iterator[Finding]:
    """Yield a finding for each such batch norm."""
    for each in baked(subject):
        if each.form == "exported" and not each.quantized:
            yield Finding(
                severity="info" if each.on_purpose else "error",
                layer=each.layer,
                cause="the exported graph normalizes by the batch, and eval() cannot change it",
                numbers={"operator": each.operator},
                fix="program = torch.export.export(model.eval(), example)",
            )
