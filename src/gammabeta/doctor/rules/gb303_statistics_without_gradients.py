"""Running statistics move while gradients are off.

## What it is

A network, or a part of it, runs in training mode under ``torch.no_grad()``: a frozen backbone as a
feature extractor, a forward pass for pseudo-labels, a metric on the training batch.

## Why it matters

Nothing learns from such a pass, but it moves the running statistics. A frozen backbone drifts away
from the statistics that its weights were trained with; a live one counts other data, or the same
data twice.

## How it is detected

Either a call of the model in training mode with gradients off comes in each step. Or a batch norm
is updated in each step, its γ requires a gradient and gets none in three steps in a row, its values
do not change (a momentum encoder's do), and gradients are found to be off when it is called. It is
silent where GB302 or GB307 explain the same, and if another model's optimizer steps between the
call and the next step, as in a GAN. Where GB302 or GB304 is the cause, this is only information.

## Fix

```python
backbone.eval()  # after each model.train()
with torch.no_grad():
    features = backbone(x)
```

## Source

Documentation of `torch.no_grad`, which changes no mode, and of `torch.nn.Module.eval`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from gammabeta.doctor.finding import Finding
from gammabeta.doctor.model.access import access
from gammabeta.doctor.rule import while_training
from gammabeta.doctor.training.clinic import Step, TrainingRule, Watched
from gammabeta.doctor.training.entries import may_have_hooks
from gammabeta.doctor.training.loops import Spare

_STEPS = 3


@while_training("GB303", "statistics-without-gradients", "statistics move while gradients are off")
class Rule(TrainingRule):
    """Looks at calls without gradients, and at norms that get no gradient."""

    def __init__(self, watched: Watched) -> None:
        super().__init__(watched)
        self._in_a_row: dict[str, int] = {}
        self._began: dict[str, int] = {}
        self._values: dict[str, list[Tensor]] = {}
        self._look: _Look | None = None
        self._done: set[str] = set()

    def step(self, step: Step) -> Iterator[Finding]:
        """Yield what became known with this step."""
        for spare in self.watched.spares:
            if not spare.passes[0].grad:
                yield from _of_calls(spare)
        yield from self._of_parts(step)

    def end(self) -> Iterator[Finding]:
        """Look at the last calls."""
        if self._look is not None:
            self._look.remove()
        for spare in self.watched.spares:
            if not spare.passes[0].grad:
                yield from _of_calls(spare)

    def _of_parts(self, step: Step) -> Iterator[Finding]:
        if not self._in_a_row and not step.without_gradient:
            return
        for path in [p for p in self._in_a_row if p not in step.without_gradient]:
            del self._in_a_row[path]
            self._values.pop(path, None)
        modules = self.watched.subject.modules
        for path in sorted(step.without_gradient - self._done):
            self._in_a_row[path] = self._in_a_row.get(path, 0) + 1
            if self._in_a_row[path] == 1:
                self._began[path] = step.number
                parameters = modules[path].parameters(recurse=False)
                self._values[path] = [p.detach().clone() for p in parameters]
        known = [path for path, count in self._in_a_row.items() if count >= _STEPS]
        if not known:
            return
        if self._look is None:
            self._look = _Look(modules[known[0]])
            return
        seen = self._look
        if seen.grad is None and seen.tries < _STEPS and seen.handle is not None:
            seen.tries += 1
            return
        seen.remove()
        self._look = None
        still = [path for path in known if self._stands_still(path)]
        self._done.update(known)
        for path in known:
            del self._in_a_row[path]
        if seen.grad is not False or not still:
            return
        yield Finding(
            severity="warning",
            layer=still[0],
            layers=tuple(still),
            cause="it runs in training mode under torch.no_grad(): its weights stand still while "
            "its running statistics move",
            numbers={"steps in a row": _STEPS},
            fix=f"{access(still[0])}.eval()  # after each model.train(), with all norms beside it",
            step=self._began[still[0]],
        )

    def _stands_still(self, path: str) -> bool:
        now = self.watched.subject.modules[path].parameters(recurse=False)
        return all(torch.equal(a, b) for a, b in zip(self._values[path], now, strict=False))


class _Look:
    """Sees whether gradients are on in the next call of a module."""

    def __init__(self, module: nn.Module) -> None:
        self.grad: bool | None = None
        self.tries = 0
        self.handle: RemovableHandle | None = None
        if may_have_hooks(module):
            self.handle = module.register_forward_pre_hook(_Grad(self))

    def remove(self) -> None:
        if self.handle is not None:
            self.handle.remove()
            self.handle = None


class _Grad:
    """A hook; in a copy of the model it does nothing."""

    def __init__(self, look: _Look | None = None) -> None:
        self._look = look
        self.__name__ = "watch"

    def __call__(self, module: nn.Module, args: Any) -> None:
        if self._look is not None and not torch.compiler.is_compiling():
            self._look.grad = torch.is_grad_enabled()

    def __reduce__(self) -> tuple[Any, ...]:
        return _Grad, ()


def _of_calls(spare: Spare) -> Iterator[Finding]:
    first = spare.passes[0]
    if spare.why not in ("each step", "after", "evaluation") or not spare.layers:
        return
    code = "GB302" if spare.why == "evaluation" else "GB304" if spare.same else ""
    yield Finding(
        severity="info" if code else "warning",
        layer="",
        layers=("", *spare.layers),
        cause="it is called in train() mode with gradients off, which moves running statistics"
        + (f" (see {code})" if code else " though nothing learns from the call"),
        numbers={"calls": len(spare.passes), "examples a call": first.size},
        fix="model.eval()\nwith torch.no_grad():\n    ...  # the extra call\nmodel.train()",
        step=first.number,
    )
