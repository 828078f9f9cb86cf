"""A batch norm normalizes by one value a channel, or by so few that they say nothing.

## What it is

In training a batch norm normalizes each channel by the N·H·W values of the batch. With one value
the output is β whatever the input (torch raises an error where it can tell). With two, it is
β ± γ: the input decides the sign, and nothing else. Small batches and a last feature map of 1×1
make that happen.

## Why it matters

Training loses the size of the activations, while evaluation normalizes by running statistics and
sees activations that training never saw. The unbiased variance of two values is also twice the
biased one.

## How it is detected

The values of a channel are counted in the first batches, in evaluation, where torch does not
refuse. With n values a normalized output is at most √(n − 1): 2 values are an error, 3 a warning,
and 4 one if they come from one or two examples, else information. A last, smaller batch does not
count (see GB211). Norms in evaluation mode are not judged, because they do not use the batch.

## Fix

```python
loader = DataLoader(data, batch_size=32)
norm = nn.GroupNorm(32, channels)  # independent of the batch; on a 1×1 map nn.LayerNorm
```

## Source

Wu & He 2018, arXiv:1803.08494; the error "Expected more than 1 value per channel when training".
"""

from __future__ import annotations

from collections.abc import Iterator

from gammabeta.doctor.evidence import Call, Evidence
from gammabeta.doctor.finding import Finding
from gammabeta.doctor.rule import on_batches
from gammabeta.doctor.subject import Subject

_FEW = 4


@on_batches("GB206", "few-values", "a batch norm normalizes by very few values a channel")
def check(subject: Subject, evidence: Evidence) -> Iterator[Finding]:
    """Yield a finding for each batch norm whose largest number of values is that small."""
    norms = {n.path: n for n in subject.batch_norms}
    most: dict[str, Call] = {}
    for result in evidence.evaluated:
        for call in result.calls:
            known = most.get(call.layer)
            if call.layer in norms and (known is None or call.values > known.values):
                most[call.layer] = call
    for path, call in most.items():
        module = norms[path].module
        if call.values > _FEW or norms[path].family == "masked":
            continue
        trains = subject.is_moving(norms[path]) or (call.by_batch and module.training)
        examples = call.shape[0]
        severity = _severity(call.values, examples) if trains else "info"
        if not trains and not call.by_batch:
            continue
        yield Finding(
            severity=severity,
            layer=path,
            cause=_cause(call.values),
            numbers={
                "values a channel": call.values,
                "examples in the batch": examples,
                "input": str(tuple(call.shape)),
                "largest possible output": round((call.values - 1) ** 0.5, 3),
            },
            fix="loader = DataLoader(data, batch_size=32)\n"
            "# or a norm that does not need the batch:\n"
            f"norm = nn.GroupNorm({_groups(call)}, {call.shape[call.dim]})",
            cost="",
        )


def _severity(values: int, examples: int) -> str:
    if values <= 2:
        return "error"
    return "warning" if values == 3 or examples <= 2 else "info"


def _cause(values: int) -> str:
    if values == 1:
        return "it has one value a channel in training, so its output does not depend on its input"
    if values == 2:
        return "it has two values a channel in training, so its output is ±1, whatever their size"
    return "it has very few values a channel in training, so their sizes are all but lost"


def _groups(call: Call) -> int:
    channels = call.shape[call.dim]
    return next((g for g in (32, 16, 8, 4, 2) if channels % g == 0 and channels > g), 1)
