"""One batch norm is used for two distributions.

## What it is

The same batch norm is called several times in a forward pass with inputs whose means or variances
differ: a siamese network on two modalities, two domains, the time steps of a recurrent network, a
discriminator on real and on generated examples. Or one batch holds two distributions, one in each
half, as when real and generated examples are concatenated.

## Why it matters

In training each call is normalized by its own statistics. The running statistics mix those of all
calls, and of the last one most, so in evaluation no call is normalized as in training. Where two
distributions share a batch, their statistics mix in training already, and examples of one change
the output for the other.

## How it is detected

Calls of a norm are matched by their order, over all batches in training mode. For each channel, the
means and variances of the calls are compared with those of the mixture, less what differs from
batch to batch anyway: a distance of 0.3 σ between a call and the mixture, or a variance 1.6 times
apart, is information. It is an error or a warning if the loss in evaluation, also after a
calibration, is 1.5 or 1.1 times that with each call's own statistics, and the outputs differ by a
tenth of their spread. A discriminator (by its name) is not evaluated, and its calls on real and
generated examples are right: information. Two views of one distribution do not differ, whatever
they are, and are silent.

The halves of a batch are compared likewise, at a model's first norm with such a difference. They
are a warning where the targets say that each half has a label of its own and the norm's input
differs by 0.7 σ; else information.

## Fix

```python
self.norms = nn.ModuleList(nn.BatchNorm2d(64) for _ in range(2))  # one for each distribution
x = self.norms[domain](x)
```

## Source

Cooijmans et al. 2017, Recurrent batch normalization, arXiv:1603.09025; Xie et al. 2020, Adversarial
examples improve image recognition, arXiv:1911.09665; Chang et al. 2019, Domain-specific batch
normalization, arXiv:1906.03950; ganhacks (GitHub, soumith/ganhacks), item 4.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from gammabeta.doctor.evidence import Call, Evidence, Pass
from gammabeta.doctor.evidence.damage import Damage
from gammabeta.doctor.evidence.part import distance, outputs
from gammabeta.doctor.finding import Finding
from gammabeta.doctor.model.access import access
from gammabeta.doctor.rule import on_batches
from gammabeta.doctor.subject import Subject

_SHIFT, _SCALE = 0.3, 1.6
_STRONG = 0.7
_VISIBLE = 0.1
"""Least change of the outputs, in units of their spread, that is damage."""
_OTHERS = ("GB102", "GB103", "GB105", "GB106", "GB107", "GB201", "GB206", "GB208", "GB209")

_JUDGE = re.compile(r"discriminator|critic|^net_?d$|^d$", re.IGNORECASE)


@dataclass(frozen=True)
class _Gap:
    """How far the calls are from their mixture: the largest of all calls."""

    shift: float
    scale: float

    @property
    def is_one(self) -> bool:
        return self.shift >= _SHIFT or self.scale >= _SCALE


@on_batches("GB210", "shared-norm", "one batch norm is used for two distributions")
def check(subject: Subject, evidence: Evidence) -> Iterator[Finding]:
    """Yield a finding for each norm whose calls, or whose halves of a batch, differ."""
    if not evidence.targets:
        return
    passes = evidence.trained
    found = False
    for path in evidence.targets:
        sequences = _sequences(passes, path)
        if not sequences or len(sequences[0]) < 2:
            continue
        gap = _gap(sequences, [_examples(s) for s in sequences])
        if gap is None or not gap.is_one:
            continue
        found = True
        yield _several_calls(subject, evidence, path, gap, len(sequences[0]))
    if not found:
        yield from _halves(evidence, passes)


def _several_calls(
    subject: Subject, evidence: Evidence, path: str, gap: _Gap, calls: int
) -> Finding:
    damage = _damage(evidence)
    severity = damage.severity if damage is not None else "info"
    if subject.is_explained(path, _OTHERS) or _is_judge(subject, path):
        severity = "info"
    cost = ""
    if damage is not None and severity != "info":
        cost = f"evaluation loss {damage.with_it:.3g}, and {damage.without:.3g} if each call is "
        cost += "normalized by its own statistics"
    return Finding(
        severity=severity,
        layer=path,
        cause="it is called several times in a forward pass, on inputs of different distributions, "
        "and its running statistics mix them",
        numbers={
            "calls": calls,
            "largest distance from the mixture in σ": round(gap.shift, 3),
            "largest ratio of variances": round(gap.scale, 3),
        },
        cost=cost,
        fix=_fix(evidence, path, calls),
    )


def _is_judge(subject: Subject, path: str) -> bool:
    """Whether a norm belongs to the discriminator of a GAN, which is not evaluated."""
    names = path.split(".")
    parts = [".".join(names[:end]) for end in range(len(names))]
    classes = [type(subject.modules[part]).__name__ for part in parts if part in subject.modules]
    return any(_JUDGE.search(name) for name in (*names, *classes))


def _fix(evidence: Evidence, path: str, calls: int) -> str:
    norm = evidence.targets[path]
    name, features = type(norm).__name__, getattr(norm, "num_features", "features")
    return (
        f"norms = nn.ModuleList(nn.{name}({features}) for _ in range({calls}))  # one for each "
        f"distribution, in place of {access(path)}\nx = norms[index](x)"
    )


def _damage(evidence: Evidence) -> Damage | None:
    """The loss in evaluation, calibrated or not, against that with each call's own statistics."""
    own = {p.batch: p.loss for p in evidence.trained if p.loss is not None}
    stored = {p.batch: p.loss for p in evidence.evaluated if p.loss is not None}
    mixed = {p.batch: p.loss for p in evidence.calibrated if p.loss is not None}
    both = sorted(set(own) & set(stored) & set(mixed))
    if not both or max(_change(evidence, i) for i in both) < _VISIBLE:
        return None
    best = min(sum(stored[i] for i in both), sum(mixed[i] for i in both))
    return Damage(best / len(both), sum(own[i] for i in both) / len(both))


def _change(evidence: Evidence, batch: int) -> float:
    """Change of the outputs from each call's own statistics to the mixture, by their spread."""
    first, second = (
        next(p for p in passes if p.batch == batch)
        for passes in (evidence.trained, evidence.calibrated)
    )
    pairs = zip(outputs(first.output), outputs(second.output), strict=False)
    return max((distance(a, b) for a, b in pairs if a.shape == b.shape), default=math.inf)


# Distances


def _sequences(passes: list[Pass], path: str) -> list[list[Call]]:
    """The calls of a norm in each pass, if there is the same number of them in all passes."""
    found = []
    for p in passes:
        calls = [c for c in p.of(path) if c.by_batch and c.var is not None and c.finite]
        distinct = list({c.number: c for c in calls}.values())
        found.append([c for c in distinct if c.values > 1])
    length = {len(each) for each in found}
    return found if len(length) == 1 else []


def _examples(calls: list[Call]) -> int:
    return min(c.values if c.dim == 0 else max(1, c.shape[0]) for c in calls)


def _gap(sequences: list[list[Call]], examples: list[int]) -> _Gap | None:
    means = torch.stack([torch.stack([c.mean for c in calls]) for calls in sequences])
    variances = torch.stack([torch.stack([c.var for c in calls]) for calls in sequences])
    return _gap_of(means, variances, min(examples))


def _gap_of(means: Tensor, variances: Tensor, examples: int) -> _Gap | None:
    """Distances of (batches, calls, channels) moments, less what chance explains."""
    batches = means.shape[0]
    mean, var = means.mean(0), variances.mean(0)
    around = mean.mean(0)
    mixture = var.mean(0) + (mean - around).square().mean(0)
    varies = mixture > 1e-12
    if not bool(varies.any()) or examples < 2:
        return None
    scale = mixture[varies]
    shifts = (means - means.mean(1, keepdim=True))[..., varies]  # of each batch
    if batches > 2:
        noise = shifts.var(0) / batches
    else:  # all variance may lie between examples
        noise = (scale / (examples * batches)).expand(shifts.shape[1], -1)
    margin = 2 if batches > 2 else 6
    square = (shifts.mean(0).square() - margin * noise) / scale
    shift = float(square.mean(1).max().clamp(min=0).sqrt())
    logs = ((variances[..., varies] + 1e-12) / (variances[..., varies] + 1e-12).mean(1, True)).log()
    middle = logs.median(2).values  # (batches, calls)
    if batches > 2:
        error = 3 * middle.std(0) / batches**0.5
    else:
        error = torch.full((middle.shape[1],), 3 * (2.0 / (examples * batches)) ** 0.5)
    apart = middle.mean(0)
    sure = (apart.abs() - error.to(apart)).clamp(min=0) * apart.sign()
    ratio = float((sure.max() - sure.min()).exp())
    return _Gap(shift, ratio)


# Two halves of a batch


def _halves(evidence: Evidence, passes: list[Pass]) -> Iterator[Finding]:
    """Yield a finding for the first norm where two halves of each batch differ."""
    for path in evidence.targets:
        first = [p.of(path)[0] for p in passes if p.of(path)]
        calls = [c for c in first if c.by_batch and c.halves is not None]
        calls = [c for c in calls if c.finite and c.shape[0] >= 8]
        if len(calls) < 2 or len({c.mean.numel() for c in calls}) > 1:
            continue
        halves = [c.halves for c in calls if c.halves is not None]
        means = torch.stack([torch.stack([a[0], b[0]]) for a, b in halves])
        variances = torch.stack([torch.stack([a[1], b[1]]) for a, b in halves])
        gap = _gap_of(means, variances, min(c.shape[0] for c in calls) // 2)
        if gap is None or not gap.is_one:
            continue
        apart = _labels_apart(evidence)
        strong = gap.shift >= _STRONG / 2 and apart  # half of the distance between the halves
        yield Finding(
            severity="warning" if strong else "info",
            layer=path,
            cause="the two halves of each batch have different distributions, and are normalized "
            "by statistics of both",
            numbers={
                "distance between the halves in σ": round(2 * gap.shift, 3),
                "ratio of variances": round(gap.scale, 3),
                "each half has its own label": apart,
            },
            fix="first, second = x.chunk(2)\ny = torch.cat([model(first), model(second)])  # a "
            "batch for each distribution, so that each is normalized by its own statistics",
        )
        return


def _labels_apart(evidence: Evidence) -> bool:
    """Whether the targets of each half of each batch are constant, and differ between halves."""
    for index, size in enumerate(evidence.sizes):
        target = evidence.target(index)
        if not isinstance(target, Tensor) or not target.dim() or target.shape[0] != size:
            return False
        first, second = target.chunk(2)
        if not first.numel() or bool((first != first.flatten()[0]).any()):
            return False
        if bool((second != second.flatten()[0]).any()) or bool((first[:1] == second[:1]).all()):
            return False
    return True
