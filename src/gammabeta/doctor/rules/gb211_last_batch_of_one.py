"""The last batch of an epoch has one example.

## What it is

The number of examples divided by the batch size leaves a remainder of 1, and the loader does
not drop the last batch.

## Why it matters

A batch norm behind a pooling or linear layer sees one value per channel. Torch raises
``Expected more than 1 value per channel when training`` at the end of the first epoch; other
implementations return β for every input. Convolutional layers see several values, but all of one
image: their running statistics take in a tenth of a single image once an epoch.

## How it is detected

The length of a `DataLoader`'s sampler and its batch size are compared; of a list of batches, the
size of the last one. It is an error if a batch norm that normalizes by the batch would see a single
value per channel, a warning if it would see at most four, and information otherwise. Silent without
batch norm, with ``drop_last=True``, and with batches of one throughout.

## Fix

```python
loader = DataLoader(data, batch_size=32, shuffle=True, drop_last=True)
```

## Source

fastai/fastai#1352, openvinotoolkit/nncf#379 and yassouali/pytorch-segmentation#8 (the error at the
end of an epoch); documentation of `torch.utils.data.DataLoader` (``drop_last``).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from gammabeta.doctor.evidence import Evidence, first_tensor
from gammabeta.doctor.finding import Finding
from gammabeta.doctor.rule import on_batches
from gammabeta.doctor.subject import Subject

_FEW = 4


@on_batches("GB211", "last-batch-of-one", "the last batch of an epoch has one example")
def check(subject: Subject, evidence: Evidence) -> Iterator[Finding]:
    """Yield one finding, for the batch norms that see the fewest values."""
    if not subject.batch_norms or not (found := _last(evidence)):
        return
    usual, source = found
    fewest: dict[str, int] = {}
    for p in evidence.trained:
        size = evidence.sizes[p.batch]
        for call in p.calls:
            if call.by_batch and size:
                values = max(1, call.values // size)
                fewest[call.layer] = min(values, fewest.get(call.layer, values))
    if not fewest:
        return
    least = min(fewest.values())
    layers = tuple(layer for layer, values in fewest.items() if values == least)
    if least == 1:
        severity = "error"
        cause = "the last batch has one example, so that it sees one value per channel in training"
    else:
        severity = "warning" if least <= _FEW else "info"
        cause = "the last batch has one example, whose statistics it takes for those of the data"
    yield Finding(
        severity=severity,
        layer=layers[0],
        layers=layers,
        cause=cause,
        numbers={"usual batch size": usual, "values per channel in the last batch": least},
        cost=next((f"training raises: {said}" for said in evidence.refused.values()), ""),
        fix=source,
    )


def _last(evidence: Evidence) -> tuple[int, str] | None:
    """Return the usual batch size and the fix, if the last batch has one example."""
    source: Any = evidence.source
    sampler, size = getattr(source, "sampler", None), getattr(source, "batch_size", None)
    inner = getattr(source, "batch_sampler", None)
    if size is None and inner is not None:  # a loader that was given a batch sampler
        sampler, size = getattr(inner, "sampler", None), getattr(inner, "batch_size", None)
        source = inner
    if isinstance(size, int) and sampler is not None:
        try:
            examples = len(sampler)
        except (TypeError, NotImplementedError):  # an iterable data set
            return None
        if size < 2 or getattr(source, "drop_last", False) or examples % size != 1:
            return None
        return size, (
            f"loader = DataLoader(data, batch_size={size}, shuffle=True, drop_last=True)  "
            f"# {examples} = {examples // size} × {size} + 1"
        )
    last = evidence.sizes[-1] if evidence.complete else _size_of_last(source)
    usual = evidence.sizes[0]
    if last != 1 or usual < 2:
        return None
    return usual, f"batches = [b for b in batches if len(b) > 1]  # as drop_last=True: {usual} each"


def _size_of_last(source: object) -> int | None:
    if not isinstance(source, Sequence) or not source:
        return None
    x = first_tensor(source[-1])
    return int(x.shape[0]) if x is not None and x.dim() else None
