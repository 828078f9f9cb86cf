"""Running statistics are updated more than once a step.

## What it is

Activation checkpointing runs a part of the model a second time in the backward pass, and updates
its batch norms a second time. A forward pass for a log or a metric does the same with what it sees.

## Why it matters

The same batch counts twice: momentum m becomes 1 − (1 − m)², and with it the noise of the running
statistics; what an extra pass sees counts as much as what the model learns from.

## How it is detected

Running statistics were updated during a backward pass; or a call of the model in training mode,
with gradients on, that no backward pass reached came in each step. With gradients off and another
input it is GB303, and this is only information; so it is if one backward pass goes through two
calls, which a consistency loss intends. Gradient accumulation (a backward pass for each call) is
silent, and so are models between whose calls another optimizer steps, as in a GAN.

## Fix

```python
norm.momentum = 1 - (1 - norm.momentum) ** 0.5  # checkpointing: two updates make one
```

For extra calls, ``model.eval()`` before them and ``model.train()`` after.

## Source

pytorch/pytorch#96136 and #62471 (checkpointing updates batch norm twice);
pfnet/pytorch-pfn-extras#117 (momentum 1 − √(1 − m)); m2lines/Samudra#572 (checkpointing and an
extra forward pass).
"""

from __future__ import annotations

from collections.abc import Iterator

from gammabeta.doctor.finding import Finding
from gammabeta.doctor.model.access import access
from gammabeta.doctor.rule import while_training
from gammabeta.doctor.training.clinic import Step, TrainingRule, Watched
from gammabeta.doctor.training.loops import Spare

_STEPS = 2


@while_training("GB304", "repeated-updates", "statistics are updated more than once a step")
class Rule(TrainingRule):
    """Looks at updates in backward passes, and at calls that nothing learned from."""

    def __init__(self, watched: Watched) -> None:
        super().__init__(watched)
        self._began: int | None = None
        self._steps = 0

    def step(self, step: Step) -> Iterator[Finding]:
        """Yield what became known with this step."""
        again = dict(step.recomputed)
        for p in step.passes:
            if p.recomputed:
                again.update(p.updates)
        if again and self._steps < _STEPS:
            self._began = self._began or step.number
            self._steps += 1
            if self._steps == _STEPS:
                yield self._recomputed(step, again)
        yield from self.end()

    def end(self) -> Iterator[Finding]:
        """Look at the last calls."""
        for spare in self.watched.spares:
            if spare.why in ("each step", "after", "twice"):
                yield _of_calls(spare)

    def _recomputed(self, step: Step, again: dict[str, int]) -> Finding:
        layers = tuple(again)
        module = self.watched.subject.modules[layers[0]]
        momentum = getattr(module, "momentum", None)
        numbers = {"updates in the backward pass": max(again.values())}
        fix = f"{access(layers[0])}.momentum = 0.05  # and that of the other norms in it"
        if isinstance(momentum, float) and 0 < momentum < 1:
            half = 1 - (1 - momentum) ** 0.5
            fix = f"{access(layers[0])}.momentum = {half:.4g}  # two updates make one of {momentum}"
        return Finding(
            severity="warning",
            layer=layers[0],
            layers=layers,
            cause="activation checkpointing runs it again in the backward pass, which updates its "
            "running statistics a second time",
            numbers=numbers,
            fix=fix,
            step=self._began,
        )


def _of_calls(spare: Spare) -> Finding:
    first = spare.passes[0]
    meant = spare.why == "twice"
    return Finding(
        severity="warning" if (first.grad or spare.same) and not meant else "info",
        layer="",
        layers=("", *spare.layers),
        cause="one backward pass goes through several calls in train() mode, each of which updates "
        "running statistics"
        if meant
        else "an extra call in train() mode in each step updates running statistics once more",
        numbers={"calls": len(spare.passes), "gradients on": first.grad},
        fix="output = model(torch.cat([a, b]))  # one call, if both are of one distribution"
        if meant
        else "model.eval()\nwith torch.no_grad():\n    ...  # the extra call\nmodel.train()",
        step=first.number,
    )
