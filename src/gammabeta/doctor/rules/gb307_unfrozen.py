"""The running statistics of a frozen layer move.

## What it is

A pretrained backbone was frozen, by ``requires_grad_(False)`` or by ``eval()`` of its batch norms,
and ``model.train()`` at the start of an epoch put its batch norms back into training mode.

## Why it matters

``requires_grad`` says nothing about buffers. The statistics drift to those of the new, often small
batches, while the weights stay those that were trained with the old ones.

## How it is detected

In two steps in a row, every call that updated a batch norm found all of its parameters (or, without
any, those beside it) without ``requires_grad``, and after a third their values are still the same
(those of a momentum encoder are not). Or a batch norm that was in evaluation mode while the model
was in training mode, when watching began or at the end of an earlier step that did not update it,
is updated later, and its
``requires_grad`` was not turned on meanwhile, as gradual unfreezing does.

## Fix

```python
gb.freeze(model.backbone)  # stays frozen after model.train()
```

## Source

Lightning-AI/pytorch-lightning#2551 (``train()`` after validation undoes the freezing);
documentation of `torch.nn.Module.train` and `torch.nn.Module.requires_grad_`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from gammabeta.doctor.finding import Finding
from gammabeta.doctor.model.access import access
from gammabeta.doctor.rule import while_training
from gammabeta.doctor.training.clinic import Passed, Step, TrainingRule, Watched

_STEPS = 2


@while_training("GB307", "unfrozen", "the running statistics of a frozen layer move")
class Rule(TrainingRule):
    """Looks at batch norms whose parameters are frozen, and at modes that flip back."""

    def __init__(self, watched: Watched) -> None:
        super().__init__(watched)
        self._norms: dict[str, Any] = {n.path: n.module for n in watched.batch_norms}
        self._guards = {path: _guard(path, watched) for path in self._norms}
        self._frozen: set[str] = set()  # in some call of the step
        self._live: set[str] = set()
        self._in_a_row: dict[str, tuple[int, int]] = {}
        self._values: dict[str, list[Tensor]] = {}
        self._held: dict[str, bool] = {}  # path → whether it required gradients when it was held
        self._done: set[str] = set()

    def begin(self) -> None:
        """Note which batch norms are in evaluation mode in a model in training mode."""
        if self.watched.model.training:
            self._hold()

    def called(self, passed: Passed, args: Any, kwargs: Any, output: Any) -> None:
        """Note which updated batch norms are frozen now."""
        if passed.recomputed or not passed.updates:
            return
        for path in passed.updates:
            guard = self._guards[path]
            if not guard or guard[0].requires_grad or _requires(guard):
                self._live.add(path)
            elif path not in self._done:
                self._frozen.add(path)

    def step(self, step: Step) -> Iterator[Finding]:
        """Yield a finding for the layers that are not frozen any more."""
        frozen, self._frozen, self._live = self._frozen - self._live, set(), set()
        if not step.own_steps:
            return
        learned = [p for p in step.passes if p.backward and p.training and p.updates]
        if self._held:
            updated = {path for p in learned for path in p.updates}
            yield from self._flipped(updated, step.number)
        if any(not norm.training for norm in self._norms.values()) and self._trains_yet(learned):
            self._hold({path for p in learned for path in p.updates})
        if frozen or self._in_a_row:
            yield from self._moved(frozen, step.number)

    def _trains_yet(self, learned: list[Passed]) -> bool:
        """Whether what learned is in training mode still, and not evaluated since."""
        modules = self.watched.subject.modules
        return any(p.path in modules and modules[p.path].training for p in learned)

    def _hold(self, updated: Collection[str] = ()) -> None:
        for path, norm in self._norms.items():
            if norm.training or path in self._held or path in updated:
                continue
            if "train" not in norm.__dict__:
                self._held[path] = _requires(self._guards[path])

    def _flipped(self, updated: set[str], step: int) -> Iterator[Finding]:
        back = []
        for path in [p for p in self._held if p in updated]:
            required = self._held.pop(path)
            if path not in self._done and not (not required and _requires(self._guards[path])):
                back.append(path)
        if back:
            self._done.update(back)
            yield self._finding(
                back,
                step,
                "model.train() put it back into training mode: it was "
                "in eval() mode before, and its running statistics move again",
            )

    def _moved(self, frozen: set[str], step: int) -> Iterator[Finding]:
        for path in [p for p in self._in_a_row if p not in frozen]:
            del self._in_a_row[path]
            self._values.pop(path, None)
        found = []
        for path in (p for p in self._norms if p in frozen and p not in self._done):
            began, count = self._in_a_row.get(path, (step, 0))
            self._in_a_row[path] = (began, count + 1)
            if count == 0:
                self._values[path] = [p.detach().clone() for p in self._guards[path][:2]]
            if count + 1 > _STEPS:
                self._done.add(path)
                if self._stands_still(path):
                    found.append(path)
        if found:
            began = self._in_a_row[found[0]][0]
            yield self._finding(
                found,
                began,
                "its parameters are frozen, but it is in training "
                "mode and its running statistics move",
            )

    def _stands_still(self, path: str) -> bool:
        return all(
            torch.equal(a, b) for a, b in zip(self._values[path], self._guards[path], strict=False)
        )

    def _finding(self, layers: list[str], step: int, cause: str) -> Finding:
        return Finding(
            severity="warning",
            layer=layers[0],
            layers=tuple(layers),
            cause=cause,
            numbers={"layers": len(layers)},
            fix=f"gb.freeze({access(_common(layers))})  # stays frozen after model.train()",
            step=step,
        )


def _guard(path: str, watched: Watched) -> list[nn.Parameter]:
    """The parameters that say whether a batch norm is frozen: its own, or those beside it."""
    modules = watched.subject.modules
    own = list(modules[path].parameters(recurse=False))
    return own or list(modules[path.rpartition(".")[0]].parameters())


def _requires(parameters: list[nn.Parameter]) -> bool:
    return not parameters or any(p.requires_grad for p in parameters)


def _common(layers: list[str]) -> str:
    """The module that contains all of ``layers``, or the first of them."""
    parts = [layer.split(".") for layer in layers]
    same = []
    for names in zip(*parts, strict=False):
        if len(set(names)) > 1:
            break
        same.append(names[0])
    return ".".join(same) or layers[0]
