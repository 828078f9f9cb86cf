"""``track_running_stats`` was turned off (or on) after construction.

## What it is

``track_running_stats`` decides at construction whether a batch norm gets buffers. Set afterwards it
does something else: turned off, with the buffers still there, training no longer updates them, and
evaluation still uses them. Buffers set to None make evaluation normalize by the batch. Turned on
without buffers, nothing is tracked.

## Why it matters

Turning it off is a common advice against bad validation results. It does the opposite: evaluation
normalizes by statistics that stand still, usually the initial ones. Without buffers, a prediction
depends on the batch that the example is in.

## How it is detected

The attribute is compared with the buffers: off with buffers, on without buffers, off without
buffers but with ``num_batches_tracked`` (they were deleted), or one of two buffers. A layer built
with ``track_running_stats=False`` is silent, and so are a norm in ``eval()`` beside norms in
training mode, one held by `gammabeta.freeze`, and a model in which only norms train (test-time
adaptation as in Tent deletes the buffers on purpose). Off with buffers is an error while they are
at their initial values; with batches and a loss, the loss in training mode against that in
evaluation decides.

## Fix

```python
norm.track_running_stats = True
gb.calibrate(model, batches)
```

## Source

torch's issues #37823, #20967 and #44415 (``track_running_stats`` changed after construction), and
``torch/nn/modules/batchnorm.py``; Wang et al. 2021, arXiv:2006.10726 (Tent).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from torch import nn
from torch.nn.modules.instancenorm import _InstanceNorm

from gammabeta.doctor.evidence.damage import Damage, of_batch_statistics
from gammabeta.doctor.finding import Finding
from gammabeta.doctor.model.access import access
from gammabeta.doctor.model.initial import is_initial
from gammabeta.doctor.rule import static
from gammabeta.doctor.subject import Norm, Subject
from gammabeta.statistics.freeze import is_frozen


@static("GB102", "tracking-off", "track_running_stats was turned off after construction")
def check(subject: Subject) -> Iterator[Finding]:
    """Yield a finding for each layer whose attribute and buffers contradict each other."""
    adapts = _adapts(subject)
    trains = any(norm.module.training for norm in subject.batch_norms)
    for norm in subject.norms:
        module = norm.module
        if isinstance(module, _InstanceNorm):
            if module.track_running_stats and module.running_mean is None:
                yield _without(norm, "error", _TURNED_ON, "evaluation raises an error")
            continue
        its = norm.running
        if its is None or its.of not in ("batch", "compiled"):
            continue
        tracks = getattr(module, "track_running_stats", True) is not False
        if (its.mean is None) != (its.var is None):
            yield _without(norm, "error", _HALF, "evaluation raises an error")
        elif its.mean is None and tracks and its.tracked is None:
            yield _without(norm, "warning", _TURNED_ON)
        elif its.mean is None and its.tracked is not None and not adapts:
            yield _without(norm, "warning", _DELETED)
        elif its.mean is None or tracks or is_frozen(module):
            continue
        elif module.training or not trains:
            yield _turned_off(subject, norm)


_HALF = "only one of running_mean and running_var is there"
_DELETED = (
    "the running statistics were deleted after construction, so evaluation normalizes by the "
    "batch and a prediction depends on its batch mates"
)
_TURNED_ON = (
    "track_running_stats was turned on after construction, which makes no buffers: nothing is "
    "tracked, and evaluation has no running statistics"
)
_TURNED_OFF = (
    "track_running_stats was turned off after construction: batches no longer update the running "
    "statistics, but evaluation still normalizes by them"
)


def _turned_off(subject: Subject, norm: Norm) -> Finding:
    initial = is_initial(norm)
    severity = "error" if initial else "warning" if norm.module.training else "info"
    losses = of_batch_statistics(subject) if norm.module.training or initial else None
    cost = ""
    if losses is not None:
        damage = Damage(with_it=losses[1], without=losses[0])
        severity = "error" if damage.severity == "error" else "warning"
        cost = f"evaluation loss {losses[1]:.3g}, {losses[0]:.3g} by the statistics of the batch"
    return Finding(
        severity=severity,
        layer=norm.path,
        cause=_TURNED_OFF,
        numbers={"at initial values": initial},
        cost=cost,
        fix=f"{access(norm.path)}.track_running_stats = True\ngb.calibrate(model, batches)",
        repair=_on(norm.path),
    )


def _without(norm: Norm, severity: str, cause: str, cost: str = "") -> Finding:
    name, features = type(norm.module).__name__, getattr(norm.module, "num_features", None)
    return Finding(
        severity=severity,
        layer=norm.path,
        cause=cause,
        cost=cost,
        fix=f"{access(norm.path)} = nn.{name}({features}, track_running_stats=True)  # anew\n"
        "gb.calibrate(model, batches)",
    )


def _on(path: str) -> Callable[[nn.Module], str]:
    def repair(model: nn.Module) -> str:
        norm = model.get_submodule(path)
        norm.track_running_stats = True  # type: ignore[assignment]
        return f"{path}.track_running_stats: False → True"

    return repair


def _adapts(subject: Subject) -> bool:
    """Whether all that trains are parameters of norms, as in test-time adaptation."""
    norms = {id(p) for norm in subject.norms for p in norm.module.parameters()}
    trained = [p for p in subject.model.parameters() if p.requires_grad]
    others = len(list(subject.model.parameters())) > len(norms)
    return bool(trained) and others and all(id(p) in norms for p in trained)
