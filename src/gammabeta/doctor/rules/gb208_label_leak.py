"""In training, the answer for an example can be read from its batch mates.

## What it is

Batch norm passes information between the examples of a batch. If the composition of a batch has to
do with the answer (one right candidate with its wrong ones, both views of an image in the same
small group, episodes, patches of one image), the model reads it from the batch statistics.

## Why it matters

Training looks excellent and the model has learned to compare batch mates. In evaluation there are
no mates, and the accuracy is gone; calibration does not help.

## How it is detected

With class labels, or one logit an example: the first batches are mixed, so that each example has
mates of other batches, and the mixed batch (of up to 64 examples, if batches are smaller) is run in
training mode. With random batches that changes nothing on average. It is reported if the accuracy
of the same examples, all classes counting the same, falls by at least 0.15 and by 3.5 standard
errors of the paired differences (or by 2, if the margins of the right answers fall by 5), and if
evaluation with calibrated statistics is worse than training, too. Batches of one class each are
GB207's.

With pairs, for a model that returns the similarity of each first view with each second one: the
second views are shuffled before the pass and put in order after it. Batch norm over the whole batch
does not notice; statistics of groups, in which both views of a pair are together, do.

## Fix

```python
order = torch.randperm(len(k))  # MoCo's shuffling: other mates for the keys
k = encoder(k[order])[order.argsort()]
norm = nn.GroupNorm(32, channels)  # or a norm without mates
```

## Source

He et al. 2020 (MoCo), arXiv:1911.05722, section 3.3 "Shuffling BN"; Wu & Johnson 2021,
arXiv:2105.07576, section 6 "Leakage of Information in Mini-Batch".
"""

from __future__ import annotations

from collections.abc import Iterator

from gammabeta.doctor.evidence import Evidence
from gammabeta.doctor.evidence.mates import leaks
from gammabeta.doctor.finding import Finding
from gammabeta.doctor.rule import on_batches
from gammabeta.doctor.subject import Subject


@on_batches("GB208", "label-leak", "the answer for an example can be read from its batch mates")
def check(subject: Subject, evidence: Evidence) -> Iterator[Finding]:
    """Yield one finding for the model; its layers are the batch norms."""
    found = leaks(subject, evidence)
    if found is None:
        return
    norms = [call.layer for call in evidence.trained[0].calls if call.by_batch]
    what = "the pairs found" if found.pairs else "accuracy"
    yield Finding(
        severity="error",
        layer="",
        layers=tuple(dict.fromkeys(("", *norms))),
        cause="in training it reads the answer for an example from its batch mates, through the "
        "statistics of its batch norms",
        numbers={
            "accuracy with the mates of the batch": found.with_mates,
            "accuracy with other mates": found.without,
            "examples": found.examples,
        },
        fix="order = torch.randperm(len(k))  # shuffle, so that mates say nothing\n"
        "k = encoder(k[order])[order.argsort()]\n"
        "# or use a norm without batch mates: nn.GroupNorm(groups, channels)",
        cost=f"{what}: {found.without:.0%} instead of {found.with_mates:.0%} with other mates",
    )
