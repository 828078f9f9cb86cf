"""The loss jumps far above its running level.

## What it is

After a stretch of steady training the loss leaps up: by a batch that is unlike the others, an
update that was too large, a learning rate that was raised, an optimizer whose state was lost.

## Why it matters

A spike undoes what many steps have learned. Batch norms take the batch of the spike into their
running statistics, so that evaluation suffers longer than training does.

## How it is detected

The last 50 losses give the running level: their median, highest value and robust scale (1.48 × the
median absolute deviation, at least 5% of the median). A loss is a spike if it is above the median
by three of these: 8 scales; twice the distance of the highest of the 50; 30% of what has been
learned since the first loss. Single outliers are the noise of small mini-batches: two of the next
five losses must also be above the highest of the 50, or the spike be ten times as far as it. The
first 20 steps, and batches smaller than half the usual size, such as the last one of an epoch, are
left out. A loss that does not come back while the learning rate is still raised is GB314; one that
becomes NaN is GB316.

## Fix

```python
torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
```

## Source

Chowdhery et al. 2022 (PaLM), arXiv:2204.02311, section 5.1; Wortsman et al. 2023, *Small-scale
proxies for large-scale Transformer training instabilities*, arXiv:2309.14322.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from statistics import median

from gammabeta.doctor.finding import Finding
from gammabeta.doctor.rule import while_training
from gammabeta.doctor.training.clinic import TrainingRule, Watched
from gammabeta.doctor.training.passes import Step

_WINDOW, _LEAST, _AFTER = 50, 20, 5


@dataclass
class _Spike:
    step: int
    loss: float
    level: float
    highest: float
    scales: float
    single: bool
    rate: float
    rate_before: float
    above: int = 0
    seen: int = 0


@while_training("GB315", "loss-spike", "the loss jumps far above its running level")
class Rule(TrainingRule):
    """Compares each loss with the running level of those before."""

    def __init__(self, watched: Watched) -> None:
        super().__init__(watched)
        self._window: deque[float] = deque(maxlen=_WINDOW)
        self._sizes: dict[int, int] = {}
        self._rates: dict[int, float] = {}
        self._spike: _Spike | None = None

    def step(self, step: Step) -> None:
        """Note the number of examples and the learning rate."""
        self._sizes[step.number] = sum(p.size for p in step.passes if p.grad)
        self._rates.setdefault(step.number, max(step.rates, default=math.nan))
        for old in (self._sizes, self._rates):
            if len(old) > 512:
                old.pop(next(iter(old)), None)

    def numbers(self, step: int, scalars: Mapping[str, float]) -> Iterator[Finding]:
        """Yield the finding once the losses after a spike are known."""
        rates = [rate for n, rate in scalars.items() if n == "lr" or n.startswith("lr ")]
        if rates:  # of steps that were not observed, too
            self._rates[step] = max(rates)
        size = self.watched.course.sizes.pop(step, 0)
        if size:
            self._sizes[step] = size
        loss = scalars.get("loss")
        if loss is None or self.watched.course.blamed:
            return
        if not math.isfinite(loss):  # that is GB316
            self._spike = None
            self._window.clear()
            return
        if self._spike is not None:
            yield from self._judge(loss)
            return
        if not self._is_small(step):
            self._spike = self._seen(step, loss)
            if self._spike is None:
                self._window.append(loss)

    def end(self) -> Iterator[Finding]:
        """Yield the finding of a spike in the last steps."""
        spike = self._spike
        if spike is None or self.watched.course.blamed:
            return
        if spike.single or spike.above >= min(2, max(1, spike.seen)):
            yield self._finding(spike, recovered=spike.seen > spike.above)

    def _is_small(self, step: int) -> bool:
        size, sizes = self._sizes.get(step, 0), list(self._sizes.values())[-_WINDOW:]
        return bool(size) and size < median(sizes) / 2

    def _seen(self, step: int, loss: float) -> _Spike | None:
        if len(self._window) < _LEAST:
            return None
        level, highest = median(self._window), max(self._window)
        spread = median(abs(x - level) for x in self._window)
        scale = max(1.4826 * spread, 0.05 * abs(level), 1e-12)
        initial = self.watched.course.initial
        learned = max(initial - level, 0.3 * abs(initial))
        rise, reach = loss - level, highest - level
        if not (rise > 8 * scale and rise > 2 * reach and rise > 0.3 * learned):
            return None
        rate = self._rates.get(step, math.nan)
        usual = [r for s, r in list(self._rates.items()) if step - _WINDOW <= s < step - 1]
        before = median(usual) if usual else math.nan
        seen = step in self._sizes  # an unseen step may be a small last batch
        single = seen and rise > 10 * reach and rise > 20 * scale
        return _Spike(step, loss, level, highest, rise / scale, single, rate, before)

    def _judge(self, loss: float) -> Iterator[Finding]:
        spike = self._spike
        if spike is None:
            return
        spike.seen += 1
        spike.above += loss > spike.highest
        spike.loss = max(spike.loss, loss)
        if spike.seen < _AFTER:
            return
        if spike.above < 2 and not spike.single:  # one outlier among the mini-batches
            self._spike = None
            return
        if loss <= spike.highest:
            yield self._finding(spike, recovered=True)
        elif spike.seen >= 4 * _AFTER:
            yield from self._stays(spike)

    def _stays(self, spike: _Spike) -> Iterator[Finding]:
        """Judge a loss that did not come back: GB314 if the learning rate was raised."""
        course = self.watched.course
        now = list(self._rates.values())[-1]
        if min(now, spike.rate) > 1.5 * spike.rate_before and course.rose(
            median(course.last(10)), 0.9
        ):
            course.lost = spike.step
            self._spike = None
        else:
            yield self._finding(spike, recovered=False)

    def _finding(self, spike: _Spike, *, recovered: bool) -> Finding:
        self._spike = None
        self._window.clear()
        if not recovered:
            self.watched.course.blamed.add("GB315")
        raised = spike.rate > 1.5 * spike.rate_before
        numbers: dict[str, float] = {
            "loss": spike.loss,
            "running median": spike.level,
            "scales above": spike.scales,
        }
        if raised:
            numbers["learning rate"], numbers["learning rate before"] = (
                spike.rate,
                spike.rate_before,
            )
        cause = "the loss jumps far above its running level"
        if raised:
            cause += " when the learning rate is raised"
        fix = "torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)  # before optimizer.step()"
        if raised:
            fix = f'for group in optimizer.param_groups:\n    group["lr"] = {spike.rate_before:.3g}'
        return Finding(
            severity="warning",
            layer="",
            cause=cause + (" and comes back" if recovered else " and stays there"),
            numbers=numbers,
            fix=fix,
            cost=f"loss {spike.loss:.3g} instead of {spike.level:.3g}",
            step=spike.step,
        )
