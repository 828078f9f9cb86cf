"""Whether batches are made of independent examples: a permutation test."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from gammabeta.doctor.evidence.forward_pass import Call
from gammabeta.doctor.evidence.gather import Evidence
from gammabeta.doctor.subject import Subject

_PERMUTATIONS = 200
_LIKELY = 1e-7
"""Largest probability, under independence, of a dependence that is reported."""
_OF_FEATURES, _OF_LABELS = 0.1, 0.25
"""Least correlations that are reported. Sampling a few classes for each batch, as metric learning
does, is below the second."""
_MOST_FEATURES, _MOST_EXAMPLES = 512, 64


@dataclass(frozen=True)
class Dependence:
    """How much examples of one batch are alike.

    Attributes:
        of: what was compared: ``"labels"`` or ``"features"``.
        layer: path of the norm whose inputs were compared; ``""`` for labels.
        correlation: intraclass correlation: 0 for independent examples, 1 if all examples of a
            batch are the same and batches differ.
        excess: variance of the batch means over what independence predicts.
        likely: probability of as much under independence.
        batches: number of batches.
    """

    of: str
    layer: str
    correlation: float
    excess: float
    likely: float
    batches: int


_CACHE: WeakKeyDictionary[Evidence, Dependence | None] = WeakKeyDictionary()


def dependence(subject: Subject, evidence: Evidence) -> Dependence | None:
    """Return the dependence between examples of a batch, the strongest; None if there is none."""
    if evidence not in _CACHE:
        _CACHE[evidence] = _measured(subject, evidence)
    return _CACHE[evidence]


def _measured(subject: Subject, evidence: Evidence) -> Dependence | None:
    moving = {norm.path for norm in subject.batch_norms}
    if len(evidence.batches) < 2 or not moving:
        return None
    found = []
    labels = _labels(evidence)
    if labels is not None:
        found.append(compared("labels", "", labels))
    for passes, place in ((evidence.trained, 0), (evidence.evaluated, -1)):
        rows: list[Tensor] = []
        layer = ""
        for each in passes:
            calls = [c for c in each.calls if c.layer in moving and c.rows is not None]
            if calls:
                layer = calls[place].layer
                rows.append(_by_example(calls[place], evidence.sizes[each.batch]))
        if len({r.shape[1] for r in rows}) == 1:
            found.append(compared("features", layer, rows))
    known = [each for each in found if each is not None]
    return max(known, key=lambda each: (each.of == "labels", each.correlation), default=None)


def _labels(evidence: Evidence) -> list[Tensor] | None:
    targets = [evidence.target(index) for index in range(len(evidence.batches))]
    alike = all(
        isinstance(t, Tensor) and t.dim() == 1 and not t.is_floating_point() for t in targets
    )
    if not alike or [len(t) for t in targets] != evidence.sizes:
        return None
    every, where = torch.unique(torch.cat([t.cpu() for t in targets]), return_inverse=True)
    if not 2 <= len(every) <= len(where) // 4:
        return None
    one_hot = torch.nn.functional.one_hot(where).float()
    return list(torch.split(one_hot, [len(t) for t in targets]))


def _by_example(call: Call, size: int) -> Tensor:
    rows: Any = call.rows
    if rows.shape[0] != size and rows.shape[0] % size == 0:
        rows = rows.reshape(size, -1, rows.shape[1]).mean(1)
    return rows.cpu().float()  # type: ignore[no-any-return]


def compared(of: str, layer: str, rows: list[Tensor]) -> Dependence | None:
    """Return the dependence if independent examples would hardly show as much, else None.

    The statistic is the sum of squares between batches, over all features, each standardized. Its
    distribution under independence is that over permutations of the examples, whatever the
    correlation of the features; a gamma distribution with the same mean and variance gives the
    probability of the tail.

    Example:
        >>> rows = torch.randn(8, 32, 4, generator=torch.Generator().manual_seed(0))
        >>> compared("features", "", list(rows)) is None
        True
        >>> found = compared("features", "", list(rows + torch.arange(8.0)[:, None, None]))
        >>> found.correlation > 0.5
        True
    """
    rows = [r[:: max(1, len(r) // _MOST_EXAMPLES)] for r in rows if len(r)]
    sizes = torch.tensor([len(r) for r in rows])
    n, k = int(sizes.sum()), len(rows)
    if k < 2 or n - k < 1 or _partitions(sizes) < -math.log10(_LIKELY):
        return None
    z = torch.cat(rows).double()
    z = z[:, :: max(1, z.shape[1] // _MOST_FEATURES)]
    if not bool(torch.isfinite(z).all()):
        return None
    z = z - z.mean(0)
    spread = z.square().mean(0).sqrt()
    z = z[:, spread > 1e-6 * spread.max()] / spread[spread > 1e-6 * spread.max()]
    if not z.numel():
        return None
    gram = z @ z.T / z.shape[1]
    member = torch.repeat_interleave(torch.arange(k), sizes)
    weights = torch.nn.functional.one_hot(member, k).double() / sizes.double().sqrt()
    generator = torch.Generator().manual_seed(0)
    orders = [torch.randperm(n, generator=generator) for _ in range(_PERMUTATIONS)]
    between = _between(gram, weights[:, None])[0]
    chance = _between(gram, weights[torch.stack(orders, 1)])
    mean, var = float(chance.mean()), float(chance.var())
    if var <= 0 or float(between) <= float(chance.max()):
        return None
    shape = mean * mean / var
    tail = torch.special.gammaincc(
        torch.tensor(shape, dtype=torch.float64), between.double() * mean / var
    )
    msb, msw = float(between) / (k - 1), (n - float(between)) / (n - k)
    each = (n - float(sizes.square().sum()) / n) / (k - 1)
    correlation = (msb - msw) / (msb + (each - 1) * max(msw, 0.0))
    least = _OF_LABELS if of == "labels" else _OF_FEATURES
    if float(tail) > _LIKELY or correlation < least:
        return None
    return Dependence(of, layer, correlation, float(between) / mean, float(tail), k)


def _between(gram: Tensor, weights: Tensor) -> Tensor:
    """Return the sum of squares between batches for each of the assignments, (n, P, k)."""
    return (weights * (gram @ weights.flatten(1)).view_as(weights)).sum((0, 2))


def _partitions(sizes: Tensor) -> float:
    """Return the logarithm (base 10) of the number of ways to make batches of these sizes."""
    n, k = float(sizes.sum()), len(sizes)
    logs = math.lgamma(n + 1) - sum(math.lgamma(float(s) + 1) for s in sizes) - math.lgamma(k + 1)
    return logs / math.log(10)
