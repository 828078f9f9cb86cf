"""Whether a model uses the other examples of the batch to predict an example: two experiments.

Both are one pass in training mode. In the first, examples get mates from other batches; if batches
are random that changes nothing on average. In the second, for a model of pairs that returns the
similarity of each first item with each second one, the second items are shuffled.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from torch import Tensor

from gammabeta.doctor.composition import dependence
from gammabeta.doctor.evidence import Evidence, Pass, first_tensor, target_of
from gammabeta.doctor.part import is_by_example
from gammabeta.doctor.subject import Subject

_DROP = 0.15
"""Least accuracy that is lost without the mates."""
_WORSE = 0.05
"""Least accuracy that evaluation with calibrated statistics lacks."""
_LOST = 0.05
"""Least cross-entropy of finding the pairs that is lost, in units of that of guessing."""
_T = 3.5
"""Least mean of the paired differences, in standard errors."""


@dataclass(frozen=True)
class Leak:
    """What is lost when an example has other batch mates.

    Attributes:
        with_mates: accuracy with the mates of the batch.
        without: accuracy with others.
        examples: number of examples compared.
        pairs: whether the second experiment was made.
    """

    with_mates: float
    without: float
    examples: int
    pairs: bool


_CACHE: WeakKeyDictionary[Evidence, Leak | None] = WeakKeyDictionary()


def leaks(subject: Subject, evidence: Evidence) -> Leak | None:
    """Return the leak, if there is one that is significant and large."""
    if evidence not in _CACHE:
        _CACHE[evidence] = None  # also if the pass fails: it is not repeated
        _CACHE[evidence] = _measured(subject, evidence)
    return _CACHE[evidence]


def _measured(subject: Subject, evidence: Evidence) -> Leak | None:
    trained = evidence.trained
    if not trained or not any(call.by_batch for call in trained[0].calls):
        return None
    if _is_square(trained[0], evidence):
        return _paired(evidence)
    accuracies = [each.accuracy for each in trained]
    if len(trained) < 2 or None in accuracies or len(set(evidence.sizes)) > 1:
        return None
    after = [p.accuracy for p in evidence.calibrated if p.accuracy is not None]
    own = [p.accuracy for p in trained[: len(after)] if p.accuracy is not None]
    if not after or sum(own) / len(own) - sum(after) / len(after) < _WORSE:
        return None  # evaluation does as well without mates
    found = dependence(subject, evidence)
    if found is not None and found.of == "labels":
        return None
    if not is_by_example(subject.model, evidence.batches[0], trained[0].output):
        return None
    return _mixed(evidence, trained)


def _mixed(evidence: Evidence, trained: list[Pass]) -> Leak | None:
    size = evidence.sizes[0]
    batches = [evidence.batches[each.batch] for each in trained]
    mixed = _interleaved(batches, size)
    if mixed is None or size < len(batches):
        return None
    result = evidence.run(mixed, "train")
    target, y = target_of(mixed), first_tensor(result.output)
    before = [first_tensor(each.output) for each in trained]
    if not isinstance(target, Tensor) or target.dim() != 1 or y is None or y.dim() != 2:
        return None
    own = torch.stack([_row(before[place % len(before)], place) for place in range(size)])
    return _judged(own.argmax(1) == target.to(own.device), y.argmax(1) == target.to(y.device))


def _row(y: Any, place: int) -> Tensor:
    row: Tensor = y[place]
    return row


def _interleaved(batches: list[Any], size: int) -> Any:
    """Return a batch whose example i is example i of batch i modulo their number; or None."""
    first = batches[0]
    if isinstance(first, Tensor):
        if any(not isinstance(b, Tensor) or b.shape != first.shape for b in batches):
            return None
        if not first.dim() or first.shape[0] != size:
            return first
        return torch.stack([batches[place % len(batches)][place] for place in range(size)])
    if isinstance(first, Mapping):
        return {key: _interleaved([b[key] for b in batches], size) for key in first}
    if isinstance(first, (tuple, list)):
        return type(first)(_interleaved(list(each), size) for each in zip(*batches, strict=True))
    return first


def _is_square(result: Pass, evidence: Evidence) -> bool:
    y, n = first_tensor(result.output), evidence.sizes[result.batch]
    return y is not None and n >= 8 and y.shape == (n, n) and len(_views(evidence.batches[0])) == 2


def _views(batch: Any) -> list[Any]:
    """Return where the two inputs of equal shape are in a batch."""
    if isinstance(batch, Mapping):
        items = list(batch.items())
    elif isinstance(batch, (tuple, list)):
        items = list(enumerate(batch))
    else:
        return []
    tensors = [(k, v) for k, v in items if isinstance(v, Tensor) and v.is_floating_point()]
    return [k for k, v in tensors if tensors and v.shape == tensors[0][1].shape]


def _paired(evidence: Evidence) -> Leak | None:
    batch, y = evidence.batches[0], first_tensor(evidence.trained[0].output)
    size = evidence.sizes[0]
    order = torch.randperm(size, generator=torch.Generator().manual_seed(0))
    _, second = _views(batch)
    parts = dict(batch) if isinstance(batch, Mapping) else list(batch)
    parts[second] = batch[second][order.to(batch[second].device)]
    moved = parts if isinstance(batch, (Mapping, list)) else tuple(parts)
    again = first_tensor(evidence.run(moved, "train").output)
    if y is None or again is None:
        return None
    again = again[:, order.argsort().to(again.device)]
    right = torch.arange(len(y), device=y.device)
    lost = F.cross_entropy(again, right, reduction="none").double()
    lost = lost - F.cross_entropy(y, right, reduction="none")
    if float(lost.mean()) < _LOST * math.log(size) or _t(lost) < _T:
        return None
    hits = [float((each.argmax(1) == right).double().mean()) for each in (y, again)]
    return Leak(hits[0], hits[1], size, True)


def _judged(own: Tensor, other: Tensor) -> Leak | None:
    """Return the leak if ``own`` is right where ``other`` is wrong, and not the reverse."""
    lost = own.double() - other.double()
    if float(lost.mean()) < _DROP or _t(lost) < _T:
        return None
    return Leak(float(own.double().mean()), float(other.double().mean()), len(lost), False)


def _t(differences: Tensor) -> float:
    """Return the mean in standard errors."""
    error = float(differences.std()) / math.sqrt(len(differences))
    mean = float(differences.mean())
    return mean / error if error > 0 else math.copysign(math.inf, mean)
