"""γ and β are frozen, but the running statistics still move.

## What it is

``requires_grad_(False)`` freezes parameters. Running statistics are buffers: a batch norm in
training mode normalizes by the batch and updates them all the same. A backbone frozen this way is
not frozen.

## Why it matters

The frozen weights were trained with other statistics, and they cannot adapt: their features now
change from batch to batch and from step to step. Small batches add noise; new data replace the
statistics of pretraining. A linear probe then measures another backbone than the one it reports.

## How it is detected

A batch norm whose statistics would move in the present mode and whose parameters all require no
gradient, in a model that trains something. With an optimizer that holds only a few layers without
norms (a linear probe), parameters that it does not hold count as frozen. A warning; with batches
and a loss, an error where the loss with the norms in training mode is 1.5 times that with them in
``eval()``, or the reverse.

Silent: norms without parameters (``affine=False``), with only γ or only β frozen (as the neck of
re-identification networks), in ``eval()``, or held by `gammabeta.freeze`; the slow copy of a part
that trains (momentum encoders). Only information: a model in which nothing trains; a discriminator,
which training freezes for half of each step.

## Fix

```python
gb.freeze(model.backbone)  # eval() mode, which model.train() does not undo
```

## Source

torch's issue #86590 (statistics of a network frozen by ``requires_grad`` change); lightly's issue
#1438; gt-pyg's issue #112; He et al. 2016, arXiv:1512.03385, appendix A. In Keras,
``trainable = False`` puts batch norms in inference mode, since TensorFlow 2.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from gammabeta.doctor.evidence.damage import MUCH_WORSE, of_batch_statistics
from gammabeta.doctor.finding import Finding
from gammabeta.doctor.model.access import access
from gammabeta.doctor.model.initial import has_values, is_initial
from gammabeta.doctor.model.share import moves
from gammabeta.doctor.rule import static
from gammabeta.doctor.subject import Norm, Subject
from gammabeta.statistics.freeze import freeze

_DISCRIMINATOR = re.compile(r"(net_?)?d(is|isc|iscriminators?|_[a-z])?\d*|critics?\d*")
_MOST_LINES = 4
_ALIKE = 0.5
"""Cosine between the weights of two parts from which one is taken to follow the other."""


@static("GB101", "frozen-affine", "γ and β are frozen, but the running statistics move")
def check(subject: Subject) -> Iterator[Finding]:
    """Yield one finding for the norms that are a fault, and one for those that may be meant."""
    frozen = _Frozen(subject)
    found: dict[str, list[Norm]] = {"fault": [], "meant": []}
    for norm in subject.norms:
        if frozen.is_all(norm.module) and moves(subject, norm):
            intent = frozen.intent(norm)
            if intent:
                found[intent].append(norm)
    if found["fault"]:
        yield _fault(subject, found["fault"], frozen)
    if found["meant"]:
        yield Finding(
            severity="info",
            layer=found["meant"][0].path,
            layers=tuple(norm.path for norm in found["meant"]),
            cause="no parameter of these norms trains, but their running statistics move",
            fix=_fix(found["meant"], frozen),
        )


def _fault(subject: Subject, norms: list[Norm], frozen: _Frozen) -> Finding:
    severity, cost = "warning", ""
    losses = of_batch_statistics(subject)
    if losses is not None:
        by_batch, by_running = losses
        high, low = max(losses), min(losses)
        cost = f"loss {by_batch:.3g} in training mode, {by_running:.3g} with frozen statistics"
        if high - low > (MUCH_WORSE - 1) * abs(low) + 1e-6:
            severity = "error"
    repair = None if any(is_initial(norm) for norm in norms) else _freezer(norms)
    return Finding(
        severity=severity,
        layer=norms[0].path,
        layers=tuple(norm.path for norm in norms),
        cause="γ and β are frozen, but the layer is in training mode: it normalizes by the batch "
        "and its running statistics move",
        numbers={"norms": len(norms)},
        cost=cost,
        fix=_fix(norms, frozen),
        repair=repair,
    )


def _fix(norms: list[Norm], frozen: _Frozen) -> str:
    roots = list(dict.fromkeys(frozen.root(norm.path) for norm in norms))
    lines = [f"gb.freeze({access(root)})" for root in roots[:_MOST_LINES]]
    if len(roots) > _MOST_LINES:
        lines.append(f"# and {len(roots) - _MOST_LINES} more layers")
    return "\n".join(lines)


def _freezer(norms: list[Norm]) -> Callable[[nn.Module], str]:
    paths = [norm.path for norm in norms]

    def repair(model: nn.Module) -> str:
        done = []
        for path in paths:
            freeze(model.get_submodule(path))
            done.append(f"{path or 'the model'}: frozen, in eval() mode")
        return "\n".join(done)

    return repair


@dataclass(frozen=True)
class _Part:
    """What the parameters of a module, with its parts, are together."""

    total: int
    trained: int


class _Frozen:
    """Which parts of a model are frozen."""

    def __init__(self, subject: Subject) -> None:
        self.subject = subject
        self._held = _probed(subject)
        self._parts: dict[nn.Module, _Part] = {}
        self._twins: dict[str, bool] = {}

    def part(self, module: nn.Module) -> _Part:
        """Count the parameters of ``module`` and those of them that train."""
        if module not in self._parts:
            own = list(module.parameters(recurse=False))
            total, trained = len(own), sum(self.trains(p) for p in own)
            self._parts[module] = _Part(total, trained)  # a module that contains itself ends here
            for child in module.children():
                part = self.part(child)
                total, trained = total + part.total, trained + part.trained
            self._parts[module] = _Part(total, trained)
        return self._parts[module]

    def trains(self, parameter: nn.Parameter) -> bool:
        """Whether ``parameter`` is trained."""
        return parameter.requires_grad and (self._held is None or id(parameter) in self._held)

    def is_all(self, module: nn.Module) -> bool:
        """Whether ``module`` has parameters, and all of them are frozen."""
        part = self.part(module)
        return part.total > 0 and not part.trained

    def root(self, path: str) -> str:
        """Return the path of the largest frozen part that contains ``path``."""
        names = path.split(".") if path else []
        for depth in range(len(names) + 1):
            above = ".".join(names[:depth])
            module = self.subject.modules.get(above)
            if module is not None and not self.part(module).trained:
                return above
        return path

    def intent(self, norm: Norm) -> str:
        """Return ``"fault"``, ``"meant"`` where it may be, or ``""`` where it certainly is."""
        root = self.root(norm.path)
        if not self.part(self.subject.model).trained:
            return "meant"
        if root not in self._twins:
            self._twins[root] = self._follows(root)
        if self._twins[root]:
            return ""
        if any(_DISCRIMINATOR.fullmatch(name.lower()) for name in norm.path.split(".")):
            return "meant"
        return "fault"

    def _follows(self, root: str) -> bool:
        """Whether the part at ``root`` is the slow copy of a part that trains."""
        mine = self.subject.modules[root]
        if isinstance(mine, _NormBase):
            return False
        shape = _shapes(mine)
        for module in self.subject.modules.values():
            if module is mine or type(module) is not type(mine) or not self.part(module).trained:
                continue
            same = self.part(module).total == len(shape) and _shapes(module) == shape
            if same and _alike(mine, module):
                return True
        return False


def _shapes(module: nn.Module) -> list[tuple[str, tuple[int, ...]]]:
    return [(name, tuple(p.shape)) for name, p in module.named_parameters()]


def _alike(one: nn.Module, other: nn.Module) -> bool:
    """Whether the largest weights point in about the same direction."""
    pairs = [
        (a.detach(), b.detach())
        for a, b in zip(one.parameters(), other.parameters(), strict=False)
        if has_values(a) and has_values(b) and a.dim() > 1
    ]
    if not pairs:
        return False
    a, b = max(pairs, key=lambda pair: pair[0].numel())
    cosine = torch.cosine_similarity(a.flatten().float(), b.flatten().float().to(a.device), dim=0)
    return float(cosine) > _ALIKE


def _probed(subject: Subject) -> set[int] | None:
    """Return the parameters of a linear probe's optimizer; None if it is something else.

    An optimizer that leaves norms out may be one of two (of a GAN, say). It is a probe's if all
    that it holds of the model is a few layers without norms, and less than a quarter of it.
    """
    if subject.optimizer is None:
        return None
    held = {id(p) for group in subject.optimizer.param_groups for p in group["params"]}
    mine = {id(p): p for p in subject.model.parameters()}
    ours = held & set(mine)
    if not ours or any(id(p) in held for n in subject.norms for p in n.module.parameters()):
        return None
    size = sum(mine[key].numel() for key in ours if has_values(mine[key]))
    total = sum(p.numel() for p in mine.values() if has_values(p))
    return ours if len(ours) <= 4 and 4 * size < total else None
