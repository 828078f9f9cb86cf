"""The momentum of a batch norm is 0, above 0.5, or that of another framework.

## What it is

PyTorch's ``momentum`` is the share of the *new* batch in the running statistics: 0.1 by default.
Keras, TensorFlow, JAX and Caffe call the share of the *old* value momentum or decay (0.99 or 0.9).
A value copied from them makes PyTorch's running statistics those of the last batch. With 0 they
never leave their initial values. ``None`` is fine: a cumulative average.

## Why it matters

Evaluation normalizes by running statistics. With momentum 0.99 they are as noisy as those of one
batch. With 0 they never change: they are the initial ones, or those of an earlier training.

## How it is detected

The setting is read. A norm written by hand may mean either share, so a copy of it is called on a
batch of ones, which shows what share of it arrives in the running mean. A share above 0.5 is a
warning, because fewer than two batches make up most of the statistics. 0 is an error while the
statistics are at their initial values and a warning afterwards; outside [0, 1] is an error. With
batches and a loss, the loss before and after a calibration decides between warning and error. Norms
in ``eval()`` beside norms in training mode, and those that `gammabeta.freeze` holds, are silent. A
value that an architecture of transformers is published with (EfficientNet, MobileNet) is
information, unless there is damage.

## Fix

```python
norm.momentum = 0.01  # 1 − 0.99
```

## Source

Documentation of `torch.nn.BatchNorm2d` ("the update rule … is different from the one used in
optimizer classes and the conventional notion of momentum") and of
``keras.layers.BatchNormalization``, whose default is 0.99; Ioffe & Szegedy 2015, arXiv:1502.03167.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

from torch import nn

from gammabeta.doctor.evidence.damage import of_statistics
from gammabeta.doctor.finding import Finding
from gammabeta.doctor.model.access import access
from gammabeta.doctor.model.initial import is_initial
from gammabeta.doctor.model.published import is_published
from gammabeta.doctor.model.renamed import number
from gammabeta.doctor.model.share import moves, share
from gammabeta.doctor.rule import static
from gammabeta.doctor.subject import Norm, Subject
from gammabeta.statistics.freeze import is_frozen

_PORTED = 0.5
_DEFAULT = 0.1


@static("GB103", "momentum", "the momentum is 0, above 0.5, or that of another framework")
def check(subject: Subject) -> Iterator[Finding]:
    """Yield a finding for each such batch norm."""
    idle = not any(moves(subject, norm) for norm in subject.norms)
    for norm in subject.norms:
        part = share(norm)
        if part is None or not (moves(subject, norm) or (idle and _may_train(norm))):
            continue
        if not 0 <= part <= 1:
            yield _found(subject, norm, part, "error", "momentum is no share between 0 and 1")
        elif part == 0 and is_initial(norm):
            cause = "momentum is 0, so the running statistics never leave their initial values"
            yield _found(subject, norm, part, "error", cause)
        elif part == 0:
            cause = (
                "momentum is 0: training normalizes by the batch, and the running statistics "
                "that evaluation uses no longer follow the data"
            )
            yield _found(subject, norm, part, "info" if idle else "warning", cause)
        elif part > _PORTED:
            cause = (
                "momentum is the share of the new batch in PyTorch, and this one replaces most of "
                "the running statistics in every step"
            )
            yield _found(subject, norm, part, "warning", cause)


def _may_train(norm: Norm) -> bool:
    """Whether ``train()`` would make the statistics of ``norm``, of a model in eval(), move."""
    module = norm.module
    of = None if norm.running is None else norm.running.of
    return (
        of in ("batch", "compiled")
        and not is_frozen(module)
        and getattr(module, "track_running_stats", True) is not False
    )


def _found(subject: Subject, norm: Norm, part: float, severity: str, cause: str) -> Finding:
    measured = severity == "warning" and not is_initial(norm)  # a new model has no damage yet
    damage = of_statistics(subject, [norm.path]) if measured else None
    if damage is not None and damage.severity == "error":
        severity = "error"
    elif severity == "warning" and is_published(subject, norm):
        severity = "info" if damage is None else damage.severity
    setting = number(getattr(norm.module, "momentum", None))
    setting = part if setting is None else round(setting, 6)
    as_torch = math.isclose(setting, part, abs_tol=1e-6)
    better = _better(part)
    value = better if as_torch else 1 - better
    about = f"  # 1 − {setting}" if as_torch and _PORTED < part < 1 else ""
    numbers: dict[str, float] = {"momentum": setting, "PyTorch's default": _DEFAULT}
    if not as_torch:
        numbers["measured share of the new batch"] = part
    compiled = norm.running is not None and norm.running.of == "compiled"
    settable = hasattr(norm.module, "momentum") and not compiled
    return Finding(
        severity=severity,
        layer=norm.path,
        cause=cause,
        numbers=numbers,
        fix=f"{access(norm.path)}.momentum = {round(value, 10)}{about}",
        cost=damage.text if damage is not None and damage.severity != "info" else "",
        repair=_setter(norm.path, round(value, 10)) if settable else None,
    )


def _better(part: float) -> float:
    """The share that was probably meant."""
    ported = round(1 - part, 6)
    return ported if _PORTED < part < 1 else _DEFAULT


def _setter(path: str, momentum: float) -> Callable[[nn.Module], str]:
    def repair(model: nn.Module) -> str:
        norm = model.get_submodule(path)
        before, norm.momentum = norm.momentum, momentum  # type: ignore[assignment]
        return f"{path}.momentum: {before} → {momentum}"

    return repair
