"""The model trains in ``eval()`` mode.

## What it is

Gradient steps are taken while the model, and its batch norms, are in evaluation mode: dropout is
off, and batch norms normalize by running statistics that do not follow.

## Why it matters

A validation loop, a checkpoint or a trainer called ``model.eval()`` and nothing called
``model.train()`` afterwards. The loss still falls, so nobody notices.

## How it is detected

A backward pass reached an output of the model that was computed in evaluation mode, with all batch
norms in evaluation mode, and an optimizer step followed.

## Fix

```python
model.train()  # at the start of each epoch
```

## Source

Several threads of Lightning's users, where ``eval()`` was left on after validation.
"""

from __future__ import annotations

from collections.abc import Iterator

from gammabeta.doctor.clinic import Step, TrainingRule
from gammabeta.doctor.finding import Finding
from gammabeta.doctor.rule import while_training


@while_training("GB301", "training-in-eval", "the model trains in eval() mode")
class Rule(TrainingRule):
    """Looks at the mode of each call with a backward pass."""

    def step(self, step: Step) -> Iterator[Finding]:
        """Yield the finding at the first step in evaluation mode."""
        learned = [p for p in step.passes if p.backward and p.grad]
        if not learned or any(p.training for p in learned):
            return
        yield Finding(
            severity="error",
            layer="",
            cause="it is trained in eval() mode: dropout is off and running statistics stand still",
            numbers={"batch norms in training mode": learned[-1].norms_training},
            fix="model.train()",
            step=step.number,
        )
