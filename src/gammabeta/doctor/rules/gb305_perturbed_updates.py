"""Running statistics are updated at perturbed weights, as in sharpness-aware minimization.

## What it is

SAM (and ASAM, adversarial weight perturbation, LBFGS) calls the model a second time in each step,
at weights that it has changed for this call only.

## Why it matters

Running statistics then mix those of the weights and those of the perturbed weights, half and half,
and evaluation uses only the former.

## How it is detected

Between two calls of a step that updated the same batch norms, the parameters changed though no
optimizer had stepped (by the version counters of the parameters, and by one β in the first calls).
It needs two such steps.

## Fix

```python
norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
for norm in norms:
    norm.momentum, norm.saved = 0, norm.momentum  # before the second call
...
for norm in norms:
    norm.momentum = norm.saved  # after it
```

## Source

Foret et al. 2021, arXiv:2010.01412; davda54/sam, whose README says to turn the running statistics
off in the second pass (``bypass_bn.py``).
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from gammabeta.doctor.finding import Finding
from gammabeta.doctor.rule import while_training
from gammabeta.doctor.training.clinic import Passed, Step, TrainingRule, Watched

_STEPS = 2
_LOOKS = 64
_FIX = """norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
for norm in norms:
    norm.momentum, norm.saved = 0, norm.momentum  # before the second call
...
for norm in norms:
    norm.momentum = norm.saved  # after it"""


@while_training("GB305", "perturbed-updates", "statistics are updated at perturbed weights")
class Rule(TrainingRule):
    """Compares the weights of the calls of a step."""

    def __init__(self, watched: Watched) -> None:
        super().__init__(watched)
        self._began: int | None = None
        self._steps = 0
        self._norms: dict[str, Any] = {n.path: n.module for n in watched.batch_norms}
        self._kept: dict[str, tuple[int, str, Tensor]] = {}
        self._looks = 0
        self._moved: set[Passed] = set()

    def called(self, passed: Passed, args: Any, kwargs: Any, output: Any) -> None:
        """Compare β with that of the first call of the step: ``.data`` has no version counter."""
        if self._looks > _LOOKS or not (passed.training and passed.updates):
            return
        self._looks += 1
        kept = self._kept.get(passed.path)
        if kept is None or kept[0] != passed.own:
            name = next(iter(passed.updates))
            beta = getattr(self._norms[name], "bias", None)
            if isinstance(beta, Tensor):
                self._kept[passed.path] = (passed.own, name, beta.detach().clone())
        elif not torch.equal(self._norms[kept[1]].bias, kept[2]):
            self._moved.add(passed)

    def step(self, step: Step) -> Iterator[Finding]:
        """Yield the finding at the second such step."""
        if len(step.passes) < 2 or not step.own_steps:
            return
        layers, self._moved = _perturbed(step, self._moved), set()
        if not layers:
            return
        self._began = self._began or step.number
        self._steps += 1
        if self._steps == _STEPS:
            yield Finding(
                severity="warning",
                layer="",
                layers=("", *layers),
                cause="a second call in each step, at perturbed weights, updates the running "
                "statistics too",
                numbers={"calls a step": len(step.passes)},
                fix=_FIX,
                step=self._began,
            )


def _perturbed(step: Step, moved: set[Passed]) -> tuple[str, ...]:
    """Batch norms that two calls updated between which weights changed without a step."""
    passes = [p for p in step.passes if p.training and p.updates and p.backward]
    found: dict[str, None] = {}
    for a, b in pairwise(passes):
        changed = a.weights != b.weights or b in moved
        if changed and (a.own, a.stepped) == (b.own, b.stepped) and a.path == b.path:
            found.update(dict.fromkeys(p for p in b.updates if p in a.updates))
    return tuple(found)
