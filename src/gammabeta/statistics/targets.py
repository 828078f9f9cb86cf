"""Which batch norms of a model are calibrated, and the mode of all modules meanwhile."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parameter import is_lazy

from gammabeta.layers.renorm import _BatchRenorm
from gammabeta.statistics.contents import overlaps
from gammabeta.statistics.estimators import Algorithm2, Estimator, MovingAverage, Pooled
from gammabeta.statistics.freeze import is_frozen
from gammabeta.statistics.scripted import is_scripted_batch_norm

_FRESH: dict[str, Callable[[], Estimator]] = {"algorithm2": Algorithm2, "pooled": Pooled}


@dataclass
class Target:
    """A batch norm to be calibrated.

    Attributes:
        layer: the batch norm.
        mean, var, tracked: its running_mean, running_var and num_batches_tracked.
        estimator: what its mini-batches are given to.
    """

    layer: _BatchNorm
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
        kept: names of the layers whose running statistics are left alone.
    """

    targets: dict[str, Target] = field(default_factory=dict)
    untracked: dict[str, _BatchNorm] = field(default_factory=dict)
    kept: list[str] = field(default_factory=list)


def select(model: nn.Module, method: str) -> Selection:
    """Find the batch norms of ``model``; nothing is changed.

    Raises:
        ValueError: a lazy module that has not seen a batch; no batch norm to calibrate; one whose
            buffers cannot be written to.
    """
    for name, module in model.named_modules():
        own = (*module.parameters(recurse=False), *module.buffers(recurse=False))
        if any(map(is_lazy, own)):
            raise ValueError(
                f"model has a lazy module that has not seen a batch, {name!r} "
                f"({type(module).__name__}); call the model on one first"
            )
    selection = Selection()
    for name, layer in model.named_modules():
        mean, var = getattr(layer, "running_mean", None), getattr(layer, "running_var", None)
        if mean is None or var is None:
            if isinstance(layer, _BatchNorm):
                selection.untracked[name] = layer
            continue
        by_hand = getattr(model, "training", False) and not getattr(layer, "training", False)
        set_here = isinstance(layer, _BatchNorm) and layer.track_running_stats
        if is_frozen(layer) or by_hand or not set_here:
            selection.kept.append(name)
            continue
        _check_writable(name, layer)
        tracked = layer.num_batches_tracked
        estimator: Estimator
        if method == "moving_average":
            seen = 0 if tracked is None else int(tracked)
            estimator = MovingAverage(mean, var, layer.momentum, seen)
        else:
            estimator = _FRESH[method]()
        selection.targets[name] = Target(layer, mean, var, tracked, estimator)
    if not selection.targets:
        left = (
            " but those left alone (frozen, in eval(), untracked, compiled by torch.jit or of "
            "another kind): "
        )
        names = ", ".join(name or "the model itself" for name in selection.kept)
        raise ValueError(
            f"model={type(model).__name__} has no batch norm with running statistics"
            + (left + names if names else "")
        )
    return selection


def _check_writable(name: str, layer: _BatchNorm) -> None:
    """Raise if running statistics have no memory of their own to be written to."""
    who = f"layer {name!r} ({type(layer).__name__})"
    for key in ("running_mean", "running_var", "num_batches_tracked"):
        buffer = getattr(layer, key)
        if buffer is None:
            continue
        if buffer.is_meta:
            raise ValueError(
                f"{who} has {key} on the meta device, where there are no values; move the model "
                "with to_empty() and load its weights first"
            )
        if overlaps(buffer):
            raise ValueError(
                f"{who} has an expanded {key}, whose elements share memory, so they cannot be set "
                f"one by one; give it memory of its own: layer.{key} = layer.{key}.clone()"
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
            if isinstance(module, _BatchRenorm):  # it would go by the statistics to be replaced
                module.__dict__.update(r_max=1.0, d_max=0.0)
        elif _keeps_statistics(module):
            module.training = False
        elif not as_it_is:
            module.training = others == "train"
        if hasattr(module, "on_nonfinite"):  # gammabeta's guard: here calibrate itself decides
            module.__dict__["on_nonfinite"] = "accept"


def _keeps_statistics(module: nn.Module) -> bool:
    """Whether ``module`` is a batch norm that has running statistics to normalize by."""
    if isinstance(module, _BatchNorm):
        return module.running_mean is not None
    return is_scripted_batch_norm(module)


def _lend_copies(layer: nn.Module) -> None:
    """Buffers made under `torch.inference_mode` could not be written to outside of it."""
    with torch.inference_mode(False):
        for name in ("running_mean", "running_var", "num_batches_tracked"):
            buffer = layer._buffers.get(name)
            if buffer is not None:
                layer._buffers[name] = buffer.clone()
