"""Weights are averaged or copied to another network, and running statistics are not.

## What it is

An exponential moving average, a teacher or a target network follows the parameters of the trained
model, but not its buffers: ``for a, p in zip(ema.parameters(), model.parameters())``.

## Why it matters

Its batch norms keep the statistics of the moment when it was made, mostly the initial ones, and its
evaluation is that of another network. The average looks worse than the model, or useless.

## How it is detected

Modules of the same class, with parameters of the same shapes, are looked for in this process, and
among the parts of the model (a target network beside the one that learns). One
whose parameters have changed and whose running statistics have not, while those of the trained
model have, is reported. Or the model's own parameters change for an evaluation, with no optimizer
step, while its running statistics do not: weights of an average were put in. It is information for
a `torch.optim.swa_utils.AveragedModel` that averages exponentially with ``use_buffers=False``: it
has the statistics of the trained model.

## Fix

```python
for a, b in zip(ema.buffers(), model.buffers()):
    a.copy_(b)  # or gb.calibrate(ema, batches)
```

## Source

CuriousAI/mean-teacher#9, facebookresearch/moco#70 and fadel/pytorch_ema#13 (buffers are left out);
pytorch/ignite#2590 (a teacher in ``eval()`` mode); documentation of
`torch.optim.swa_utils.AveragedModel` (``use_buffers``).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from gammabeta.doctor.finding import Finding
from gammabeta.doctor.rule import while_training
from gammabeta.doctor.training.clinic import Passed, Step, TrainingRule, Watched
from gammabeta.doctor.training.copies import Copy, versions

_LOOKS = (32, 256, 2048, 16384)
_FIX = """for a, b in zip(average.buffers(), model.buffers()):
    a.copy_(b)  # or gb.calibrate(average, batches)"""


@while_training(
    "GB308", "averaged-without-statistics", "weights are averaged or copied without statistics"
)
class Rule(TrainingRule):
    """Looks at copies of the model, and at weights that are exchanged for an evaluation."""

    def __init__(self, watched: Watched) -> None:
        super().__init__(watched)
        self._kept: list[tuple[Tensor, Tensor]] = []
        self._own = False
        self._swapped = False
        self._steps = -1
        self._norm = next((n.module for n in watched.batch_norms if _affine(n.module)), None)

    def step(self, step: Step) -> Iterator[Finding]:
        """Keep a few values; look at the copies now and then."""
        self._own = self._own or step.own_steps > 0
        self._keep()
        if self._swapped:
            self._swapped = False
            yield self._finding(
                "its weights are exchanged for an evaluation, but not its running statistics",
                step.number,
                "buffers = {k: b.clone() for k, b in model.named_buffers()}  # average these too",
            )
        if self._steps < 0:
            self._steps = step.number - 1
        if any(self._steps < look <= step.number for look in _LOOKS):
            yield from self._look()
        self._steps = step.number

    def resume(self, whole: bool) -> None:
        """Keep the values of now, or none."""
        self._kept = []
        if whole:
            self._keep()

    def called(self, passed: Passed, args: Any, kwargs: Any, output: Any) -> Iterator[Finding]:
        """Compare the weights of an evaluation with those of the last step."""
        if passed.training or passed.grad or not (self._own and self._kept):
            return
        kept, self._kept = self._kept, []
        if self.watched.own_steps:
            return
        (beta, beta_then), (mean, mean_then) = kept
        if beta.dtype != beta_then.dtype or beta.device != beta_then.device:
            return
        if not torch.equal(beta, beta_then) and torch.equal(mean, mean_then):
            yield self._finding(
                "its weights are exchanged for an evaluation, but not its running statistics",
                self.watched.steps,
                "gb.calibrate(model, batches)  # with the exchanged weights, or average the "
                "buffers too",
            )

    def end(self) -> Iterator[Finding]:
        """Look at the copies for the last time."""
        yield from self._look()

    def _keep(self) -> None:
        norm = self._norm
        if norm is None or not _affine(norm):
            return
        pairs = (norm.bias.detach(), norm.running_mean)
        same = len(self._kept) == 2 and all(
            now.data_ptr() == kept.data_ptr() and now.dtype == then.dtype
            for now, (kept, then) in zip(pairs, self._kept, strict=True)
        )
        if same:
            for now, then in self._kept:
                then.copy_(now)
        else:
            self._kept = [(now, now.clone()) for now in pairs]

    def _look(self) -> Iterator[Finding]:
        for copy in list(self.watched.copies.found.values()):
            finding = self._judged(copy)
            if finding is not None:
                yield finding

    def _judged(self, copy: Copy) -> Finding | None:
        module = copy.module()
        if module is None:
            return None
        moved, followed, live = copy.changed()
        wrapper = copy.wrapper() if copy.wrapper is not None else None
        if wrapper is not None:
            return self._averaged(copy, wrapper) if averages_exponentially(wrapper) else None
        if copy.step and not copy.fresh:  # found late: only version counters tell
            parameters, counters = versions(module)
            count = sum(1 for _ in module.parameters())
            norms = len(self.watched.batch_norms)
            moved, followed = parameters >= 4 * count, counters > 2 * norms
            live = self.watched.steps > 1
        if not moved or followed or not live:
            return None
        if copy.path and (module.training or any(p.grad is not None for p in module.parameters())):
            return None  # it learns by itself
        of = f"of its part {copy.original}" if copy.path else "of it"
        name = copy.path or type(module).__name__
        return self._finding(
            f"a copy {of} ({name}) follows its weights, but not its running statistics",
            max(1, copy.step),
            _FIX,
            copy=copy,
        )

    def _averaged(self, copy: Copy, wrapper: Any) -> Finding | None:
        module = copy.module()
        if wrapper.use_buffers or module is None or int(wrapper.n_averaged) < 2:
            return None
        if has_own_statistics(copy, wrapper):
            return None
        return self._finding(
            "an AveragedModel averages its weights and takes its running statistics as they are "
            "(use_buffers=False)",
            max(1, copy.step),
            "AveragedModel(model, multi_avg_fn=..., use_buffers=True)",
            severity="info",
        )

    def _finding(
        self, cause: str, step: int, fix: str, severity: str = "warning", copy: Copy | None = None
    ) -> Finding:
        layers = tuple(n.path for n in self.watched.batch_norms)
        inside = copy.path if copy is not None else ""
        if copy is not None and inside:
            layers = tuple(p for p in layers if p.startswith((f"{inside}.", f"{copy.original}.")))
        return Finding(
            severity=severity,
            layer=inside,
            layers=(inside, *layers),
            cause=cause,
            numbers={"batch norms": len(layers)},
            fix=fix,
            step=step,
        )


def averages_exponentially(wrapper: Any) -> bool:
    """Whether an `AveragedModel` has another average than that of SWA."""
    own = wrapper.multi_avg_fn or wrapper.avg_fn
    return own is not None and "swa" not in getattr(own, "__qualname__", "")


def has_own_statistics(copy: Copy, wrapper: Any) -> bool:
    """Whether somebody else than `AveragedModel.update_parameters` has updated the statistics."""
    module = copy.module()
    if module is None:
        return True
    updates = int(wrapper.n_averaged) - copy.averaged
    now = versions(module)[1] - copy.versions[1]
    norms = max(1, sum(1 for b in module.buffers() if b.dtype == torch.long and b.dim() == 0))
    return now != updates * norms


def _affine(norm: Any) -> bool:
    return isinstance(getattr(norm, "bias", None), Tensor) and isinstance(
        getattr(norm, "running_mean", None), Tensor
    )
