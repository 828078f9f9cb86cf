"""``model.eval()`` has no effect on a norm or on dropout.

## What it is

After ``model.eval()`` a batch norm still normalizes by the batch and moves its running statistics,
or dropout still drops. A module overrides ``train()`` or ``eval()`` and does not pass the mode on,
a ``forward`` switches a part back to training, or ``F.dropout`` is called without ``training=``.

## Why it matters

The model is evaluated in training mode: a prediction depends on the other examples of the batch or
on chance, and each evaluation changes the running statistics by data of the test set.

## How it is detected

The model is put into evaluation by ``eval()``, and the modes of its batch norms and dropout layers
are read. A forward pass in evaluation then shows norms that normalize by the batch although they
keep running statistics, and functional dropout, or a random mask of zeros and ones
(``torch.bernoulli`` with one probability for all places), that drops. All of it is certain, so no
threshold is involved; only what was really called counts. Frozen norms, and norms that keep no
statistics (``track_running_stats=False``, see GB203), are left out.

## Fix

```python
def train(self, mode=True):
    super().train(mode)  # passes the mode on to all parts
    return self


def forward(self, x):
    return F.dropout(x, 0.5, training=self.training)
```

## Source

Documentation of `torch.nn.Module.eval` and of `torch.nn.functional.dropout`, whose default is
``training=True``; pytorch/pytorch issue 26338.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

from torch import nn
from torch.nn.modules.dropout import _DropoutNd

from gammabeta.doctor.evidence import Evidence
from gammabeta.doctor.evidence.part import found_in_model
from gammabeta.doctor.finding import Finding
from gammabeta.doctor.rule import on_batches
from gammabeta.doctor.subject import Subject
from gammabeta.statistics.preserve import preserved

_ELSEWHERE = ("GB102",)


@on_batches("GB202", "eval-without-effect", "eval() has no effect on a norm or on dropout")
def check(subject: Subject, evidence: Evidence) -> Iterator[Finding]:
    """Yield one finding for each way in which the mode is lost."""
    if found_in_model(subject):
        return
    left = _left_in_training(subject.model)
    first = evidence.evaluated[0]
    active = {call.layer: call.module for call in first.calls if _uses_batch(call)}
    active |= {path: m for path, m in left.items() if path in {c.layer for c in first.calls}}
    norms = {
        path: module
        for path, module in active.items()
        if subject.modules.get(path) is module
        and _keeps_statistics(module)
        and not subject.is_explained(path, _ELSEWHERE)
    }
    dropping = {path for path, p, on in first.dropouts if on and p > 0}
    layers = {p for p in dropping if isinstance(subject.modules.get(p), _DropoutNd)}
    lost = {path for path in (*norms, *layers) if path in left}
    if lost:
        culprit = _overrider(subject, lost)
        yield _finding(
            (*culprit, *sorted(lost, key=list(subject.modules).index)),
            "eval() does not reach it, so it works in training mode during evaluation",
            "def train(self, mode=True):\n    super().train(mode)  # passes it on\n    return self",
            norms=sum(path in norms for path in lost),
            dropouts=sum(path in layers for path in lost),
        )
    switched = [path for path in (*norms, *layers) if path not in left]
    if switched:
        yield _finding(
            (*_parents(switched), *switched),
            "forward() switches it back to training mode, also after eval()",
            "# in forward(): remove self.train() / norm.train(); before training, once:\n"
            "model.train()",
            norms=sum(path in norms for path in switched),
            dropouts=sum(path in layers for path in switched),
        )
    functional = sorted(dropping - layers)
    if functional:
        yield _finding(
            tuple(functional),
            "its functional dropout drops in evaluation, too: the mode is not looked at",
            "x = F.dropout(x, p, training=self.training)",
            dropouts=len(functional),
        )


def _finding(layers: tuple[str, ...], cause: str, fix: str, **numbers: int) -> Finding:
    layers = tuple(dict.fromkeys(layers))
    counted = {f"{name} in training mode": n for name, n in numbers.items() if n}
    return Finding(
        severity="error", layer=layers[0], layers=layers, cause=cause, numbers=counted, fix=fix
    )


def _uses_batch(call: Any) -> bool:
    return bool(call.by_batch)


def _keeps_statistics(module: Any) -> bool:
    return getattr(module, "running_mean", None) is not None


def _left_in_training(model: nn.Module) -> dict[str, nn.Module]:
    """Return the norms and dropout layers that are in training mode after ``eval()``."""
    with preserved(model):
        model.train()
        model.eval()
        return {
            path: module
            for path, module in model.named_modules()
            if module.training and (_keeps_statistics(module) or isinstance(module, _DropoutNd))
        }


def _overrider(subject: Subject, lost: set[str]) -> list[str]:
    """Return the path of the innermost module that contains all of ``lost`` and overrides."""
    found = [
        path
        for path, module in subject.modules.items()
        if _overrides(module) and all(_contains(path, each) for each in lost)
    ]
    return found[-1:]


def _overrides(module: nn.Module) -> bool:
    own = ("train", "eval")
    return any(getattr(type(module), name) is not getattr(nn.Module, name) for name in own) or any(
        name in module.__dict__ for name in own
    )


def _contains(outer: str, inner: str) -> bool:
    return not outer or inner == outer or inner.startswith(f"{outer}.")


def _parents(paths: list[str]) -> list[str]:
    parts = [path.split(".")[:-1] for path in paths]
    shared = itertools.takewhile(lambda names: len(set(names)) == 1, zip(*parts, strict=False))
    return [".".join(names[0] for names in shared)]
