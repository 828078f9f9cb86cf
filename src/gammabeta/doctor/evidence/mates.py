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

from gammabeta.doctor.evidence.batch import first_tensor, target_of
from gammabeta.doctor.evidence.composition import dependence
from gammabeta.doctor.evidence.forward_pass import Pass
from gammabeta.doctor.evidence.gather import Evidence
from gammabeta.doctor.evidence.part import is_by_example
from gammabeta.doctor.subject import Subject

_DROP = 0.15
"""Least accuracy that is lost without the mates."""
_WORSE = 0.05
"""Least accuracy that evaluation with calibrated statistics lacks."""
_LOST = 0.05
"""Least cross-entropy of finding the pairs that is lost, in units of that of guessing."""
_EXAMPLES = 64
"""Small batches are mixed into one of about this many examples: fewer would prove nothing."""
_T = 3.5
"""Least mean of the paired differences, in standard errors."""
_LIKELY, _SURELY = 2.0, 5.0
"""The same of what is right, and of the margins, if both are asked for."""


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
    if len(trained) < 2 or len(set(evidence.sizes)) > 1:
        return None
    after = _accuracy(evidence, evidence.calibrated)
    own = _accuracy(evidence, trained[: len(evidence.calibrated)])
    if own is None or after is None or own - after < _WORSE:
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
    if any(_is_of_one_class(target_of(batch)) for batch in batches):
        return None  # such as the real and the generated batches of a discriminator
    rounds = min(len(batches), max(1, _EXAMPLES // size))
    places = [((i + r) % len(batches), i) for r in range(rounds) for i in range(size)]
    mixed = _gathered(batches, size, places)
    if mixed is None or size < 2:
        return None
    result = evidence.run(mixed, "train")
    before = [first_tensor(each.output) for each in trained]
    y, target = first_tensor(result.output), target_of(mixed)
    if y is None or any(each is None for each in before):
        return None
    own = torch.stack([_row(before[which], place) for which, place in places])
    if not bool(torch.isfinite(own).all() and torch.isfinite(y).all()):
        return None  # GB216
    with_mates, without = _margins(own, target), _margins(y, target)
    if with_mates is None or without is None:
        return None
    return _judged(with_mates, without, _weights(target))


def _right(y: Tensor, target: Any) -> Tensor | None:
    """Return which examples are classified rightly; None if it is no classification."""
    margins = _margins(y, target)
    return None if margins is None else margins > 0


def _margins(y: Tensor, target: Any) -> Tensor | None:
    """Return by how much the right answer of each example wins; None if it is no classification.

    By class scores, or by one number an example: a logit, or a probability.
    """
    if not isinstance(target, Tensor) or y.dim() not in (1, 2) or not y.is_floating_point():
        return None
    target = target.to(y.device)
    if target.dim() == 1 and y.dim() == 2 and y.shape[1] > 1 and not target.is_floating_point():
        chosen = F.one_hot(target, y.shape[1]).bool()
        others = y.masked_fill(chosen, -math.inf).amax(1)
        margins: Tensor = y[chosen] - others
        return margins
    y, target = y.flatten(), target.flatten()
    if y.shape != target.shape or not bool(((target == 0) | (target == 1)).all()):
        return None
    half = 0.5 if bool(((y >= 0) & (y <= 1)).all()) else 0.0
    signed: Tensor = (y - half) * (2 * target - 1)
    return signed


def _is_of_one_class(target: Any) -> bool:
    if not isinstance(target, Tensor) or not target.is_floating_point() or not target.numel():
        return False
    return bool((target == target.flatten()[0]).all())


def _weights(target: Tensor) -> Tensor:
    """Return the weights of examples, mean 1; each class counts as much, also a rare one.

    Example:
        >>> _weights(torch.tensor([0, 0, 0, 1]))
        tensor([0.6667, 0.6667, 0.6667, 2.0000], dtype=torch.float64)
    """
    classes = target.flatten().cpu()
    where = torch.unique(classes, return_inverse=True)[1]
    counts = torch.bincount(where).double()
    return len(where) / (len(counts) * counts[where])


def _accuracy(evidence: Evidence, passes: list[Pass]) -> float | None:
    """Return the accuracy of some passes; of both classes equally, if there is one logit."""
    outputs = [first_tensor(each.output) for each in passes]
    targets = [evidence.target(each.batch) for each in passes]
    pairs = list(zip(outputs, targets, strict=True))
    right = [_right(y, target) if y is not None else None for y, target in pairs]
    known = [each.cpu().double() for each in right if each is not None]
    if not known or len(known) < len(right):
        return None
    return float((torch.cat(known) * _weights(torch.cat([t.cpu() for t in targets]))).mean())


def _row(y: Any, place: int) -> Tensor:
    row: Tensor = y[place]
    return row


def _gathered(batches: list[Any], size: int, places: list[tuple[int, int]]) -> Any:
    """Return a batch of the examples at ``places``, (batch, index in it); None if impossible."""
    first = batches[0]
    if isinstance(first, Tensor):
        if any(not isinstance(b, Tensor) or b.shape != first.shape for b in batches):
            return None
        if not first.dim() or first.shape[0] != size:
            return first
        return torch.stack([batches[which][place] for which, place in places])
    if isinstance(first, Mapping):
        return {key: _gathered([b[key] for b in batches], size, places) for key in first}
    if isinstance(first, (tuple, list)):
        each = zip(*batches, strict=True)
        return type(first)(_gathered(list(parts), size, places) for parts in each)
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


def _judged(own: Tensor, other: Tensor, weights: Tensor) -> Leak | None:
    """Return the leak if the margin of ``own`` is positive where that of ``other`` is not.

    Of small batches there are few examples: then it counts, too, that margins fall nearly always.
    """
    own, other = own.cpu().double(), other.cpu().double()
    right, still = (own > 0) * weights, (other > 0) * weights
    lost = right - still
    clear = _t(lost) >= _T or (_t(lost) >= _LIKELY and _t(own - other) >= _SURELY)
    if float(lost.mean()) < _DROP or not clear:
        return None
    return Leak(float(right.mean()), float(still.mean()), len(lost), False)


def _t(differences: Tensor) -> float:
    """Return the mean in standard errors."""
    error = float(differences.std()) / math.sqrt(len(differences))
    mean = float(differences.mean())
    return mean / error if error > 0 else math.copysign(math.inf, mean)
