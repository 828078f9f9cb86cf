"""Which batch norms of a model are calibrated, and the mode of all modules meanwhile."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.jit import ScriptModule
from torch.nn.parameter import is_lazy

from gammabeta.layers.traits import Running, lineage, running, traits
from gammabeta.statistics.contents import overlaps
from gammabeta.statistics.estimators import Algorithm2, Estimator, MovingAverage, Pooled
from gammabeta.statistics.freeze import is_frozen

_FRESH: dict[str, Callable[[], Estimator]] = {"algorithm2": Algorithm2, "pooled": Pooled}


_BY_HAND = "no subclass of torch's batch norms, so only its own code updates its running statistics"


@dataclass
class Target:
    """A batch norm to be calibrated.

    Attributes:
        layer: the batch norm.
        mean, var, tracked: its running_mean, running_var and num_batches_tracked.
        estimator: what its mini-batches are given to.
    """

    layer: Any
    mean: Tensor
    var: Tensor
    tracked: Tensor | None
    estimator: Estimator


@dataclass
class Selection:
    """The batch norms of a model, sorted.

    Attributes:
        targets: to be calibrated, by name.
        untracked: without running statistics; they always normalize by the mini-batch.
        kept: name of each layer whose running statistics are left alone → why.
    """

    targets: dict[str, Target] = field(default_factory=dict)
    untracked: dict[str, nn.Module] = field(default_factory=dict)
    kept: dict[str, str] = field(default_factory=dict)


@dataclass
class Sorted:
    """The layers of a model that keep running statistics, or could.

    Attributes:
        chosen: batch norms whose running statistics may be replaced, by name.
        untracked: batch norms without running statistics.
        kept: name of each other layer → why it is left alone.
    """

    chosen: dict[str, nn.Module] = field(default_factory=dict)
    untracked: dict[str, nn.Module] = field(default_factory=dict)
    kept: dict[str, str] = field(default_factory=dict)


def sort_layers(model: nn.Module) -> Sorted:
    """Sort the layers of ``model`` that keep running statistics; nothing is changed.

    A batch norm in ``eval()`` is kept if the model and another batch norm are in ``train()``: that
    is how a part of a model is frozen by hand. If all are in ``eval()``, as in the copy inside a
    wrapper for weight averaging, their mode says nothing.

    Raises:
        ValueError: a lazy module that has not seen a batch; no batch norm is left.

    Example:
        >>> model = nn.Sequential(nn.BatchNorm1d(2), nn.BatchNorm1d(2))
        >>> _ = model[0].eval()
        >>> list(sort_layers(model).chosen), sort_layers(model).kept
        (['1'], {'0': 'in eval()'})
        >>> _ = model[1].eval()
        >>> list(sort_layers(model).chosen)
        ['0', '1']
    """
    _refuse_lazy(model)
    found = Sorted()
    idle: list[str] = []
    for name, module in model.named_modules():
        its = running(module)
        if its is None:
            continue
        why = _why_kept(module, its)
        if not its.there:
            found.untracked[name] = module
        elif why:
            found.kept[name] = why
        else:
            found.chosen[name] = module
            if getattr(model, "training", False) and not module.training:
                idle.append(name)
    if len(idle) < len(found.chosen):
        for name in idle:
            del found.chosen[name]
        reasons = {**found.kept, **dict.fromkeys(idle, "in eval()")}
        found.kept = {name: reasons[name] for name, _ in model.named_modules() if name in reasons}
    if not found.chosen:
        left = [f"{name or 'the model itself'} ({why})" for name, why in found.kept.items()]
        left += [
            f"{name or 'the model itself'} (no running statistics)" for name in found.untracked
        ]
        raise ValueError(
            f"model={type(model).__name__} has no batch norm with running statistics"
            + (f" except those left alone: {', '.join(left)}" if left else "")
        )
    return found


def select(model: nn.Module, method: str) -> Selection:
    """Find the batch norms of ``model`` to calibrate; nothing is changed.

    Raises:
        ValueError: a lazy module that has not seen a batch; no batch norm to calibrate; one whose
            buffers cannot be written to.
    """
    found = sort_layers(model)
    selection = Selection({}, found.untracked, found.kept)
    for name, module in found.chosen.items():
        layer: Any = module
        _check_writable(name, layer)
        mean, var, tracked = layer.running_mean, layer.running_var, layer.num_batches_tracked
        estimator: Estimator
        if method == "moving_average":
            seen = 0 if tracked is None else int(tracked)
            estimator = MovingAverage(mean, var, layer.momentum, seen)
        else:
            estimator = _FRESH[method]()
        selection.targets[name] = Target(layer, mean, var, tracked, estimator)
    return selection


def warn_of_strangers(kept: Mapping[str, str]) -> None:
    """Warn if a batch norm of another class than torch's keeps statistics that may be stale.

    Args:
        kept: name of each layer that was left alone → why.
    """
    names = [name or "the model itself" for name, why in kept.items() if why.endswith(_BY_HAND)]
    if names:
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        warnings.warn(
            f"{', '.join(names[:3])}{more}: left alone: {_BY_HAND}; derive the class from torch's "
            "BatchNorm to have its statistics measured",
            UserWarning,
            stacklevel=3,
        )


def _refuse_lazy(model: nn.Module) -> None:
    for name, module in model.named_modules():
        own = (*module.parameters(recurse=False), *module.buffers(recurse=False))
        if any(map(is_lazy, own)):
            raise ValueError(
                f"model has an uninitialized lazy module, {name!r} "
                f"({type(module).__name__}); call the model on a batch first"
            )


def _why_kept(layer: Any, its: Running) -> str:
    """Why the running statistics ``its`` of ``layer`` are left alone; "" if they are not."""
    if is_frozen(layer):
        return "frozen"
    if its.of == "fixed":
        return f"{its.name}: fixed statistics"
    if its.of == "compiled":
        return "compiled by torch.jit"
    if its.of == "other" and _is_strange(layer):
        return f"{its.name}: {_BY_HAND}"
    if its.of != "batch":
        return f"{its.name}: not batch statistics"
    return "" if layer.track_running_stats else "track_running_stats=False"


def _is_strange(layer: nn.Module) -> bool:
    """Whether ``layer``, with running statistics, is a stranger's, and may update them."""
    if isinstance(layer, ScriptModule) or lineage(layer) or "Frozen" in type(layer).__name__:
        return False
    return traits(layer).family not in ("frozen", "instance")


def _check_writable(name: str, layer: Any) -> None:
    """Raise if running statistics have no memory of their own to be written to."""
    who = f"layer {name!r} ({type(layer).__name__})"
    for key in ("running_mean", "running_var", "num_batches_tracked"):
        buffer = getattr(layer, key)
        if buffer is None:
            continue
        if buffer.is_meta:
            raise ValueError(
                f"{who} has {key} on the meta device, which stores no values; move the model "
                "with to_empty() and load its weights first"
            )
        if overlaps(buffer):
            raise ValueError(
                f"{who} has an expanded {key}, whose elements share memory, so they cannot be set "
                f"one by one; replace it by a copy: layer.{key} = layer.{key}.clone()"
            )


def lend(model: nn.Module, targets: Mapping[str, Target], others: str) -> None:
    """Make ``model`` ready to be measured; to be undone by `preserved`.

    Training mode for the targets, evaluation for other layers that keep statistics of a batch,
    ``others`` for the rest. The attribute is set, not ``train()`` called: what a person's
    ``train()`` does besides cannot be undone. The targets get copies of their statistics to
    write to.
    """
    chosen = {target.layer for target in targets.values()}
    as_it_is = others == "train" and getattr(model, "training", False)
    for module in model.modules():
        if module in chosen:
            module.training = True
            _lend_copies(module)
            if hasattr(module, "fuses"):  # it could compute its output after all is put back
                module.__dict__["fuses"] = None
            if "batch-renorm" in lineage(module):  # it would go by the statistics to be replaced
                module.__dict__.update(r_max=1.0, d_max=0.0)
        elif _keeps_statistics(module):
            module.training = False
        elif not as_it_is:
            module.training = others == "train"
        if hasattr(module, "on_nonfinite"):  # gammabeta's guard: here calibrate itself decides
            module.__dict__["on_nonfinite"] = "accept"


def _keeps_statistics(module: nn.Module) -> bool:
    """Whether ``module`` is a batch norm that has running statistics to normalize by."""
    its = running(module)
    return its is not None and its.of in ("batch", "compiled") and its.mean is not None


def _lend_copies(layer: nn.Module) -> None:
    """Buffers made under `torch.inference_mode` could not be written to outside of it."""
    with torch.inference_mode(False):
        for name in ("running_mean", "running_var", "num_batches_tracked"):
            buffer = layer._buffers.get(name)
            if buffer is not None:
                layer._buffers[name] = buffer.clone()
