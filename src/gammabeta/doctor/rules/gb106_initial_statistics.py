"""The running statistics are at their initial values, but the weights are trained.

## What it is

``running_mean`` is 0 and ``running_var`` is 1 everywhere, as in a layer just built, while γ and β,
the optimizer or the counter say that the layer has been trained.

## Why it matters

In evaluation the layer does not normalize at all. It happens when a checkpoint has parameters only
(``load_state_dict(…, strict=False)`` is silent about missing buffers), when averaged or target
weights are copied without buffers, when statistics are reset, and when a model was trained with
its norms in ``eval()``.

## How it is detected

The statistics are exactly 0 and 1, and one of these holds: ``num_batches_tracked`` is above 0; the
optimizer has a state for γ or β; β is no longer a constant (models begin with β = 0, and with any
γ: ones, zeros, or drawn at random; γ and β drawn alike are no training); the norm has no parameters
and a layer beside it has biases beyond torch's initialization. If only the mean or only
the variance is at its initial values while the other has moved, that is reported, too. A model just
built shows none of these signs and is silent. A warning; with batches and a loss, the losses before
and after a calibration decide: where they agree, as in a model that was trained this way, it is
information. Layers whose momentum is 0 or whose tracking was turned off have findings of their own.

## Fix

```python
gb.calibrate(model, batches)  # measure the statistics on training batches
```

``--fix`` does so on the batches that were given.

## Source

Documentation of `torch.nn.Module.load_state_dict` and of `torch.optim.swa_utils.update_bn`;
Izmailov et al. 2018, arXiv:1803.05407, section 3.2.
"""

from __future__ import annotations

from collections.abc import Iterator

from gammabeta.doctor.evidence.damage import of_statistics
from gammabeta.doctor.finding import Finding
from gammabeta.doctor.model.fresh import biased_by_training
from gammabeta.doctor.model.initial import batches_seen, beta_moved, initial_parts, optimizer_steps
from gammabeta.doctor.repair import measured
from gammabeta.doctor.rule import static
from gammabeta.doctor.subject import Norm, Subject

_KINDS = ("batch", "compiled", "instance", "timestep", "other")
_ALIKE = 1.02
"""Losses this close are those of a model that was trained with its initial statistics."""
_BOTH = "the running statistics are at their initial values, but the weights are trained"
_HALF = "one of running mean and variance is at its initial values, but the other is not"


@static(
    "GB106",
    "initial-statistics",
    "the running statistics are at their initial values, but the weights are trained",
)
def check(subject: Subject) -> Iterator[Finding]:
    """Yield one finding for all such layers of a model."""
    found: dict[str, dict[str, str]] = {_BOTH: {}, _HALF: {}}
    for norm in subject.norms:
        if norm.running is None or norm.running.of not in _KINDS or not norm.running.there:
            continue
        mean, var = initial_parts(norm)
        if not (mean or var) or subject.is_explained(norm.path, ("GB102", "GB103", "GB105")):
            continue
        why = _trained(subject, norm)
        if why:
            found[_BOTH if mean and var else _HALF][norm.path] = why
    for cause, layers in found.items():
        if layers:
            yield _finding(subject, cause, layers)


def _finding(subject: Subject, cause: str, layers: dict[str, str]) -> Finding:
    damage = of_statistics(subject, layers)
    first = next(iter(layers))
    severity = "warning"
    if damage is not None and damage.severity == "error":
        severity = "error"
    elif damage is not None and damage.with_it <= _ALIKE * damage.without:
        severity = "info"
    return Finding(
        severity=severity,
        layer=first,
        layers=tuple(layers),
        cause=cause,
        numbers={"layers": len(layers), "sign of training": layers[first]},
        cost="" if damage is None else damage.text,
        fix="gb.calibrate(model, batches)  # measure the statistics on training batches",
        repair=None if severity == "info" else measured(subject.evidence, layers),
    )


def _trained(subject: Subject, norm: Norm) -> str:
    """Return what says that ``norm`` was trained; "" if nothing does."""
    seen = batches_seen(norm)
    if seen > 0:
        return f"num_batches_tracked is {seen}"
    if optimizer_steps(subject, norm):
        return "the optimizer has made steps"
    if next(norm.module.parameters(), None) is None and _beside_trained(subject, norm):
        return "biases beside it are beyond their initialization"
    return "β is no constant" if beta_moved(norm) else ""


def _beside_trained(subject: Subject, norm: Norm) -> bool:
    """Whether a layer right beside a norm without parameters shows that it was trained."""
    around = subject.modules.get(norm.path.rpartition(".")[0], subject.model)
    return any(biased_by_training(module) for module in around.children())
