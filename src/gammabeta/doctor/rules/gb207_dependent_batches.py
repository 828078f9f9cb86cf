"""The examples of a batch are alike: batches are sorted by class, or alternate between domains.

## What it is

Batch norm takes the batch for a sample of the data. If each batch holds one class, one domain, one
patient or one scene, its mean and variance are those of that part only.

## Why it matters

In training, the norm removes what is common to a batch, so the model does not learn it, or learns
to rely on it. In evaluation, running statistics are those of the last batches, or of a mixture that
no batch in training looked like.

## How it is detected

The variance of the batch means is compared with what independent examples predict. Compared are
labels, if there are class labels, the inputs of the first batch norm, and those of the last one in
evaluation, in which batch mates do not matter. The prediction comes from permuting examples between
the batches, so neither correlated channels nor correlated positions disturb it. Two things are
asked: a probability below 10⁻⁷ under independence, which shuffled data practically never reaches,
and an intraclass correlation of at least 0.1 (of labels: 0.25, so that a sampler that draws a few
classes for each batch is accepted). From 0.5 on it is an error. Batches that a model in evaluation
mode is given, and a discriminator's separate batches of real and generated examples, are
information.

## Fix

```python
loader = DataLoader(data, batch_size=32, shuffle=True)
loader = DataLoader(ConcatDataset([first, second]), batch_size=32, shuffle=True)  # domains
```

## Source

Wu & Johnson 2021, "Rethinking 'Batch' in BatchNorm", arXiv:2105.07576, sections 3 and 5; Ioffe
2017, arXiv:1702.03275, experiments with batches that are not independent.
"""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

from gammabeta.doctor.evidence import Evidence
from gammabeta.doctor.evidence.composition import dependence
from gammabeta.doctor.evidence.mates import leaks
from gammabeta.doctor.finding import Finding
from gammabeta.doctor.rule import on_batches
from gammabeta.doctor.subject import Subject

_ERROR = 0.5


@on_batches("GB207", "dependent-batches", "the examples of a batch are alike")
def check(subject: Subject, evidence: Evidence) -> Iterator[Finding]:
    """Yield one finding for the batches; its layers are the batch norms that see them."""
    found = dependence(subject, evidence)
    if found is None:
        return
    if found.of != "labels" and leaks(subject, evidence) is not None:
        return  # GB208's
    moving = [norm.path for norm in subject.batch_norms if subject.is_moving(norm)]
    severity = "error" if found.correlation >= _ERROR else "warning"
    if not moving or _one_target_each(evidence):
        severity = "info"
    sorted_by = "class" if found.of == "labels" else "domain"
    first = found.layer or next(iter(moving), "")
    layers = dict.fromkeys(("", first, *moving))
    yield Finding(
        severity=severity,
        layer="",
        layers=tuple(layers),
        cause="the examples of a batch are alike: batches are sorted, or each is of one "
        f"{sorted_by}",
        numbers={
            "compared": found.of,
            "batches": found.batches,
            "intraclass correlation": found.correlation,
            "variance of batch means over that of independent examples": found.excess,
            "probability under independence": found.likely,
        },
        fix="loader = DataLoader(data, batch_size=32, shuffle=True)\n"
        "# or mix the domains in each batch: ConcatDataset([first, second])",
        cost="batch statistics vary as if a batch had "
        f"{max(1, round(_mean(evidence.sizes) / found.excess))} examples",
    )


def _one_target_each(evidence: Evidence) -> bool:
    """Whether each batch has one floating-point target: real or generated, for a discriminator."""
    seen: set[float] = set()
    for index in range(len(evidence.batches)):
        t = evidence.target(index)
        if not isinstance(t, Tensor) or not t.is_floating_point() or not t.numel():
            return False
        if bool((t != t.flatten()[0]).any()):
            return False
        seen.add(float(t.flatten()[0]))
    return len(seen) <= 2


def _mean(values: list[int]) -> float:
    return sum(values) / len(values)
