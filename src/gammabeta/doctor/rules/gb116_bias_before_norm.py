"""A layer adds a bias right before a batch norm, which subtracts it again.

## What it is

A batch norm in training mode subtracts the mean of its input, and with it any constant for each
channel: the bias of the convolution or linear layer before it has no effect and no gradient.

## Why it matters

It costs memory and time, and nothing else; weight decay pulls it to zero. This is information only.

## How it is detected

The model is traced. A layer with a trainable bias whose output goes to a batch norm in training
mode, and nowhere else, is reported. The bias is of use before a layer, group or instance norm
(whose statistics are over several channels, or which may have no bias of their own) and before a
frozen batch norm, so nothing is said there.

## Fix

```python
nn.Conv2d(c_in, c_out, 3, bias=False)
```

## Source

Ioffe & Szegedy 2015, arXiv:1502.03167, section 3.2.
"""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn
from torch.nn.parameter import is_lazy

from gammabeta.conversion.graph.nodes import BlockedError
from gammabeta.doctor.finding import Finding
from gammabeta.doctor.rule import static
from gammabeta.doctor.subject import Norm, Subject

_LINEAR = (nn.modules.conv._ConvNd, nn.Linear, nn.Bilinear)


@static("GB116", "bias-before-norm", "a bias before a batch norm has no effect")
def check(subject: Subject) -> Iterator[Finding]:
    """Yield one finding for all such layers."""
    norms = [norm for norm in subject.batch_norms if _subtracts(norm)]
    features = {getattr(norm.module, "num_features", None) for norm in norms}
    biased = any(
        isinstance(m, _LINEAR)
        and m.bias is not None
        and m.bias.requires_grad
        and not is_lazy(m.bias)
        and m.bias.numel() in features
        for m in subject.modules.values()
    )
    if not biased or subject.flow is None:
        return
    found = list(dict.fromkeys(path for norm in norms for path in _biased(subject, norm)))
    if found:
        yield Finding(
            severity="info",
            layer=found[0],
            layers=tuple(found),
            cause="its bias has no effect: the batch norm after it subtracts it",
            numbers={"layers": len(found)},
            fix=f"bias=False  # where {found[0] or 'it'} is made",
        )


def _subtracts(norm: Norm) -> bool:
    """Whether it subtracts the mean of the batch; a frozen one does not."""
    return norm.traits.normalizes and norm.family == "batch" and bool(norm.module.training)


def _biased(subject: Subject, norm: Norm) -> Iterator[str]:
    flow = subject.flow
    for site in flow.sites.get(norm.module, ()) if flow is not None else ():
        try:
            before = flow.before(site) if flow is not None else None
        except BlockedError:
            continue
        if before is None or before.node.op != "call_module" or flow is None:
            continue
        layer = flow.called(before)
        bias = getattr(layer, "bias", None)
        if not isinstance(layer, _LINEAR) or bias is None or not bias.requires_grad:
            continue
        if is_lazy(bias):
            continue
        if bias.numel() == getattr(norm.module, "num_features", bias.numel()):
            yield flow.name(layer)
