"""NaN: the layer and the step where it began.

## What it is

A value becomes NaN or infinite: a division by zero, the logarithm or square root of a negative
number, a softmax over a row that is masked entirely, an overflow in half precision, or a gradient
that is not finite and makes weights NaN.

## Why it matters

One NaN in a forward pass reaches the loss, from there all gradients, and after one step all
weights. The layer in which it is seen then says nothing about the layer in which it began.

## How it is detected

The output of each call is looked at, without waiting for an accelerator. In the first call whose
output is NaN, one more forward pass with the same arguments, without gradients and leaving the
model as it was, finds the first module whose inputs and parameters are finite and whose output is
not. If parameters are not finite already, an update made them so: the layers are named, the one
nearest to the loss first, because a gradient that is not finite spreads from there to the input.
An infinite output, such as logits that are masked with −∞, counts only if the loss is not finite
either. A loss that is NaN while the output is finite began in the loss function; if its step was
not observed, and the output of the next one is finite, the weights were spared. An input that is
not finite is GB311; NaN after a divergence is GB314. Steps that a `GradScaler` skips leave the
weights finite and are normal.

## Fix

```python
with torch.autograd.set_detect_anomaly(True):  # names the operation in the backward pass
    loss_function(model(x), y).backward()
```

## Source

Documentation of `torch.autograd.set_detect_anomaly`; pytorch/pytorch#2421 (the gradient of the
norm at 0); Lightning's `Trainer(detect_anomaly=True)`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from gammabeta.doctor.finding import Finding
from gammabeta.doctor.rule import while_training
from gammabeta.doctor.training.clinic import TrainingRule, Watched
from gammabeta.doctor.training.nonfinite import (
    Origin,
    is_finite,
    nan_flag,
    origin_in_forward,
    tensors,
)
from gammabeta.doctor.training.passes import Passed, Step

_ANOMALY = (
    "with torch.autograd.set_detect_anomaly(True):  # names the operation\n"
    "    loss_function(model(x), y).backward()"
)


@while_training("GB316", "nan", "a value became NaN")
class Rule(TrainingRule):
    """Looks at outputs and losses, and where the first NaN comes from."""

    def __init__(self, watched: Watched) -> None:
        super().__init__(watched)
        self._said = False
        self._found: tuple[int, Finding] | None = None
        self._flags: list[tuple[Tensor, Any]] = []  # on their way from an accelerator
        self._finite: dict[int, bool] = {}  # step → whether its outputs were finite
        self._look = False  # whether to look for the origin in the next call
        self._inputs = True
        self._unseen: int | None = None  # a step with a bad loss that was not observed

    def called(self, passed: Passed, args: Any, kwargs: Any, output: Any) -> None:
        """Look at the output, and where it is NaN for the origin."""
        if self._said or self._found is not None or not passed.grad:
            return
        number = self.watched.steps + 1
        if not self._look and not self._flags and _is_known_finite(passed, output):
            self._note(number, True)
            self._recovered()
            return
        outputs = list(tensors(output))
        host = [y for y in outputs if y.device.type == "cpu"]
        if not self._look and all(not _has_nan(y) for y in host):
            self._note(number, not self._flags)
            self._flags += [nan_flag(y) for y in outputs if y.device.type == "cuda"]
            if not self._flags:
                self._recovered()
            return
        if not all(is_finite(x) for x in tensors([args, kwargs])):
            self._inputs, self._said = False, True  # GB311
            return
        passed.finite = False
        origin = origin_in_forward(self.watched.model, args, kwargs)
        if origin is not None:
            self._found = number, self._of(origin, number)
        elif self._look:
            self._look = False
        else:
            self._found = number, self._finding("", "its output became NaN", number)

    def _recovered(self) -> None:
        """The output is finite, though a loss before was not."""
        if self._unseen is not None and self._found is None:
            self._found = self._unseen, self._of_loss(self._unseen)

    def _of_loss(self, step: int, seen: bool = False) -> Finding:
        return self._finding(
            "",
            "the loss is not finite although the model's output is"
            if seen
            else "the loss of a step is not finite, though its weights are",
            step,
            fix="loss = loss_function(output.clamp(-1e4, 1e4), target)  # eps in log, sqrt",
        )

    def _note(self, number: int, finite: bool) -> None:
        self._finite[number] = self._finite.get(number, True) and finite
        if len(self._finite) > 512:
            self._finite.pop(next(iter(self._finite)))

    def step(self, step: Step) -> None:
        """Ask for the flags that have arrived from an accelerator."""
        waiting = []
        for flag, event in self._flags:
            if not event.query():
                waiting.append((flag, event))
            elif bool(flag):
                self._look = True
                self._finite[step.number] = False
        self._flags = waiting[-8:]

    def numbers(self, step: int, scalars: Mapping[str, float]) -> Iterator[Finding]:
        """Yield what was found, once the rules before have judged the loss of its step."""
        if self._found is not None and step >= self._found[0]:
            yield from self._say(self._found[1])
        loss = scalars.get("loss", 0.0)
        if self._said or math.isfinite(loss):
            return
        if self.watched.bad_step is not None and self.watched.bad_step in (step, self._unseen):
            self._said = True  # GB311
            return
        if step not in self._finite and self._unseen is None:
            self._unseen = step
        if self._found is not None and self._found[0] <= step:  # a later one is a consequence
            return
        if math.isinf(loss) and not self._finite.get(step, True):
            self._look = True
        elif self._finite.get(step, False):
            self._found = step, self._of_loss(step, seen=True)
            yield from self._say(self._found[1])

    def end(self) -> Iterator[Finding]:
        """Yield what was found in a step whose loss was never given."""
        if self._found is None and self._unseen is not None:
            self._recovered()
        if self._found is not None:
            yield from self._say(self._found[1])

    def _say(self, finding: Finding) -> Iterator[Finding]:
        self._found = None
        if not self._said and not self.watched.course.blamed:
            self._said = True
            self.watched.course.blamed.add("GB316")
            yield finding
        self._said = True

    def _of(self, origin: Origin, step: int) -> Finding:
        if origin.by_update:
            began = self.watched.bad_loss  # steps between may not have been observed
            if began is not None and began < step:
                return self._finding(
                    origin.path,
                    "its weights became NaN: the loss of a step before was not finite",
                    began,
                    layers=(*origin.paths, ""),
                    fix="loss = loss_function(output.clamp(-1e4, 1e4), target)  # eps in log, sqrt",
                )
            return self._finding(
                origin.path,
                "its weights became NaN: the gradient of the step before was not finite",
                step - 1,
                layers=origin.paths,
            )
        return self._finding(
            origin.path,
            f"its inputs and parameters are finite, its output is not ({origin.kind})",
            step,
            numbers={"largest input": origin.largest},
            fix="torch.nan_to_num(x)  # better: eps in the division, log or sqrt of this layer",
        )

    def _finding(
        self,
        layer: str,
        cause: str,
        step: int,
        layers: tuple[str, ...] = (),
        numbers: Mapping[str, float] | None = None,
        fix: str = "",
    ) -> Finding:
        return Finding(
            severity="error",
            layer=layer,
            layers=layers,
            cause=cause,
            numbers={"step": step, **(numbers or {})},
            fix=f"{fix}\n{_ANOMALY}" if fix else _ANOMALY,
            step=max(1, step),
        )


def _is_known_finite(passed: Passed, output: Any) -> bool:
    """Whether GB311 has taken the sum of an output on the host, and it is finite."""
    total = passed.total
    if total is None or type(output) is not Tensor or output.device.type != "cpu":
        return False
    return total.device.type == "cpu" and math.isfinite(total.item())


def _has_nan(y: Tensor) -> bool:
    """Whether a tensor on the host has a NaN; of a large one, a sample is looked at."""
    flat = y.detach()
    if flat.numel() > 1 << 20:
        flat = flat.reshape(-1)[:: flat.numel() >> 18]
    total = flat.sum()
    return bool(torch.isnan(total)) and bool(torch.isnan(flat).any())  # ∞ − ∞ is NaN, too
