"""The model is evaluated in ``train()`` mode.

## What it is

A validation loop that never called ``model.eval()``, with or without ``torch.no_grad()``.

## Why it matters

Batch norms normalize the validation data by its own mini-batches, and dropout is on, so that the
measured loss is not that of the deployed model. The running statistics follow the validation data:
it leaks into the model.

## How it is detected

Calls of the model in training mode moved running statistics, or dropout was on and gradients off;
no backward pass reached their outputs, and they came between some of the steps only, after the
first step only from the second on, or after the last one. Calls in each step are GB303 or GB304 (or
meant, if only dropout is on), calls before the first step GB306. It is silent while the momentum of
batch norms is changed (somebody measures population statistics), and if another model's optimizer
steps in between, as in a GAN.

## Fix

```python
model.eval()
with torch.no_grad():
    ...  # validate
model.train()
```

## Source

princeton-vl/pytorch_stacked_hourglass#44 (``train()`` in the validation phase);
wolny/pytorch-3dunet#53; documentation of `torch.nn.Module.eval`. facebookresearch/schedule_free#60
shows forward passes in training mode that are meant: at exchanged weights.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from gammabeta.doctor.finding import Finding
from gammabeta.doctor.rule import while_training
from gammabeta.doctor.training.clinic import Step, TrainingRule

_FIX = """model.eval()
with torch.no_grad():
    ...  # validate
model.train()"""


@while_training("GB302", "evaluation-in-train", "the model is evaluated in train() mode")
class Rule(TrainingRule):
    """Reports validations among the calls that nothing learned from."""

    def step(self, step: Step) -> Iterable[Finding]:
        """Yield the finding when it is known that calls were a validation."""
        return self._found()

    def end(self) -> Iterable[Finding]:
        """Look at what came after the last step."""
        return self._found()

    def _found(self) -> Iterator[Finding]:
        for spare in self.watched.spares:
            if spare.why != "evaluation":
                continue
            first = spare.passes[0]
            yield Finding(
                severity="warning",
                layer="",
                layers=("", *spare.layers),
                cause="it is evaluated in train() mode: "
                + (
                    "batch norms normalize by the mini-batch, and their running statistics "
                    "follow the validation data"
                    if spare.layers
                    else "dropout is on"
                ),
                numbers={
                    "calls": len(spare.passes),
                    "examples a call": first.size,
                    "gradients on": first.grad,
                },
                fix=_FIX,
                step=first.number,
            )
