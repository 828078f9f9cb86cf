"""Padded positions are part of a batch norm's statistics.

## What it is

Sequences of different lengths are padded to the longest, and batch norm takes the padding for data:
its mean and variance are those of data and padding together.

## Why it matters

The statistics depend on how much padding a batch happens to have. In training the same sequence is
normalized in another way next to a long one; in evaluation the running statistics hold a share of
padding that no single sequence has.

## How it is detected

A mask or lengths in the batch, or a ragged tail of zeros or of one token in the input, say which
positions are padding. In one pass in training mode, mean and variance of each batch norm's input
are computed with and without them. A mean that moves by 0.15 σ, or a variance that changes by 15 %,
is a warning; 0.5 σ or a factor of 1.65 is an error. `gammabeta.MaskedBatchNorm1d`, and norms whose
input has no such positions (because they were taken out, also by the code of a subclass of batch
norm), are not looked at. Images with empty
borders are data.

## Fix

```python
norm = gb.MaskedBatchNorm1d(channels)
x = norm(x, mask)
x[mask] = norm(x[mask])  # or on the positions of data alone, (positions, channels)
```

## Source

pytorch/pytorch#70529 (padded values are part of the statistics); discuss.pytorch.org, topic 57813
(masked batch normalization); Shen et al. 2020 (PowerNorm), arXiv:2003.07845, on batch statistics of
text.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from gammabeta.doctor.evidence import Call, Evidence
from gammabeta.doctor.evidence.padding import valid_positions
from gammabeta.doctor.finding import Finding
from gammabeta.doctor.model.access import access
from gammabeta.doctor.rule import on_batches
from gammabeta.doctor.subject import Subject

_LIMITS = {"error": 0.5, "warning": 0.15}
"""Of the shift of the mean in σ, and of the logarithm of the ratio of the variances."""


@on_batches("GB205", "padding", "padded positions are part of a batch norm's statistics")
def check(subject: Subject, evidence: Evidence) -> Iterator[Finding]:
    """Yield a finding for each batch norm whose statistics change without the padding."""
    norms = {n.path: n for n in subject.batch_norms if n.family != "masked"}
    if not norms:
        return
    masks = [valid_positions(subject.model, batch) for batch in evidence.batches]
    found = [(index, valid) for index, valid in enumerate(masks) if valid is not None]
    if not found or not any(c.layer in norms for p in evidence.evaluated for c in p.calls):
        return
    index, valid = min(found, key=lambda each: float(each[1].double().mean()))
    measured: dict[str, tuple[float, float]] = {}

    def look(call: Call, x: Tensor) -> None:
        if call.layer in norms and call.by_batch and call.layer not in measured:
            both = _change(call, x.cpu(), valid)
            if both is not None:
                measured[call.layer] = both

    ran = evidence.run(evidence.batches[index], "train", index, look=look)
    chosen = {call.layer for call in ran.calls if call.chosen}  # it takes the padding out itself
    for path, (shift, ratio) in measured.items():
        worst = max(shift, ratio)
        severity = next((name for name, least in _LIMITS.items() if worst >= least), None)
        if severity is None or path in chosen:
            continue
        yield Finding(
            severity=severity,
            layer=path,
            cause="padded positions are part of its mean and variance",
            numbers={
                "share of padding": 1 - float(valid.double().mean()),
                "mean moves by σ": shift,
                "logarithm of the ratio of variances": ratio,
            },
            fix=f"{access(path) if path else 'norm'} = "
            f"gb.MaskedBatchNorm1d({getattr(norms[path].module, 'num_features', 'channels')})\n"
            "x = norm(x, mask)  # mask: (N, L), True where there is data",
            cost=f"padding moves means by {shift:.2g} σ and changes variances by "
            f"{torch.tensor(ratio).exp() - 1:.0%}",
        )


def _change(call: Call, x: Tensor, valid: Tensor) -> tuple[float, float] | None:
    """Return how far mean and variance move by the padding; None if it has no such positions."""
    mask = _mask(call, x, valid)
    if mask is None or not bool(mask.any()):
        return None
    data = x.movedim(call.dim, -1)[mask].double()
    if len(data) < 2 or call.mean is None:
        return None
    mean, var = data.mean(0), data.var(0, correction=0)
    every, spread = call.mean.cpu(), call.var.cpu()
    alive = torch.maximum(var, spread) > 1e-12
    if not bool(alive.any()):
        return None
    scale = torch.maximum(var, 0.01 * spread).sqrt()
    shift = ((every - mean) / scale)[alive].square().mean().sqrt()
    floor = 1e-3 * torch.maximum(var, spread)[alive]
    ratio = ((spread[alive] + floor) / (var[alive] + floor)).log().abs().mean()
    return float(shift), float(ratio)


def _mask(call: Call, x: Tensor, valid: Tensor) -> Tensor | None:
    """Return ``valid`` in the shape of ``x`` without the dim of the features, or None."""
    n, length = valid.shape
    rest = [size for dim, size in enumerate(x.shape) if dim != call.dim]
    if rest == [n * length]:
        return valid.reshape(-1)
    if len(rest) < 2 or rest[0] != n:
        return None
    places = [place for place in range(1, len(rest)) if rest[place] == length]
    if not places and len(rest) == 2 and length // 16 <= rest[1] < length:  # strided
        kept = (torch.arange(rest[1]) * (length / rest[1])).long()
        valid, places = valid[:, kept], [1]
    if not places:
        return None
    shape = [n if d == 0 else rest[d] if d == places[0] else 1 for d in range(len(rest))]
    return valid.reshape(shape).expand(rest)
