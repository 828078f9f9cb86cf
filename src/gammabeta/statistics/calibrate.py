"""Give batch norms the statistics of the population, as evaluation needs them."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Mapping
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from typing import Any, SupportsIndex

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parameter import is_lazy

from gammabeta.layers.guard import NonFiniteBatchError
from gammabeta.layers.renorm import _BatchRenorm
from gammabeta.names import known
from gammabeta.statistics.estimators import (
    METHODS,
    Algorithm2,
    Estimator,
    MovingAverage,
    Pooled,
)
from gammabeta.statistics.feed import Feed
from gammabeta.statistics.freeze import is_frozen
from gammabeta.statistics.measuring import eagerly, measuring
from gammabeta.statistics.moments import Moments
from gammabeta.statistics.preserve import preserved
from gammabeta.statistics.progress import track
from gammabeta.statistics.report import Calibration, LayerChange

_FRESH: dict[str, Callable[[], Estimator]] = {"algorithm2": Algorithm2, "pooled": Pooled}


@dataclass
class _Target:
    """A batch norm to be calibrated."""

    layer: _BatchNorm
    mean: Tensor  # its running_mean and running_var
    var: Tensor
    estimator: Estimator


@torch.no_grad()
def calibrate(
    model: nn.Module,
    batches: Iterable[Any],
    method: str = "algorithm2",
    *,
    forward: Callable[[Any], object] | None = None,
    others: str = "eval",
    nonfinite: str = "raise",
    limit: int | None = None,
    progress: bool | None = None,
) -> Calibration:
    """Replace the running statistics of every batch norm by those of the population.

    Each batch norm is measured in the way the paper trains it: in a forward pass where it, and
    the batch norms before it, normalize by the mini-batch. Its input's mean and variance become,
    by one of the estimators of `gammabeta.statistics`, its ``running_mean`` and ``running_var``.
    ``num_batches_tracked`` is raised to the number of mini-batches it was measured on where it was
    lower, so that a cumulative average (``momentum=None``) that goes on training gives them their
    weight; for ``"moving_average"`` it grows by that number. No other thing of the model changes,
    nor does any random state, and if anything is raised, nothing changes at all.

    Args:
        model: any module whose batch norms are torch's, gammabeta's or subclasses of them; in
            either mode. A batch norm is left alone, and normalizes by its running statistics, if
            `gammabeta.freeze` holds it, if it is in ``eval()`` inside a model in ``train()``, or
            if it does not track statistics. So are running statistics of other kinds: an instance
            norm's, and `RecurrentBatchNormLSTM`'s, which says how to get the population's.
        batches: tensors; tuples or lists, whose first item is the input; mappings of keyword
            arguments; with ``forward``, anything. Best the training data, at the batch size and
            with the augmentation of training. Tensors are moved to the model's device.
        method: ``"algorithm2"``, ``"pooled"`` or ``"moving_average"``.
        forward: called with each batch in place of ``model``; it runs the model, once or more.
        others: mode of all other modules. ``"eval"``: dropout and its like are off, as they are
            when the statistics are used. ``"train"``: on, as in Algorithm 2 read to the letter; a
            model in ``train()`` keeps the mode of each module. Needed too where a branch runs in
            training only.
        nonfinite: what to do with a batch that gives a batch norm a NaN or an infinity:
            ``"raise"``, or ``"skip"`` it for all layers and count it.
        limit: number of batches after which to stop; None for all.
        progress: None for a bar on stderr if it is a terminal and the work takes longer than two
            seconds; True for a bar in any case; False for none.

    Returns:
        What changed; ``print`` shows it as a table.

    Raises:
        ValueError: a name that is not known; ``limit`` below 1; no batch norm to calibrate; no
            batches; a batch norm that no batch reached; a lazy module that has not seen a batch.
        NonFiniteBatchError: a batch that is not finite; a statistic too large for the layer's
            dtype. It is a ValueError, too.
        TypeError: a batch is of a type that needs ``forward``, or ``batches`` is one tensor.

    Numerics:
        Float64 throughout, rounded once, to the dtype of the layer's buffers. A layer called
        several times in a pass has a mini-batch each time. Activation checkpointing counts once:
        a recomputation during a backward pass (of ``forward``) is not measured. Lower layers
        normalize by the mini-batch and not by the population, so that layer k sees the spread
        that training saw; the alternative, to calibrate layer by layer from below with all lower
        layers in evaluation, matches evaluation to the letter but takes a pass a layer, and the
        two meet as batches grow. Batch renorm is measured as it begins training: as batch norm.
        In a distributed job each process measures its own batches.

    Source:
        Ioffe & Szegedy 2015, arXiv:1502.03167, Algorithm 2. For dropout: Li et al. 2018,
        arXiv:1801.05134. For ``"pooled"``: Wu & Johnson 2021, arXiv:2105.07576; they find 10³ to
        10⁴ samples to be enough.

    Example:
        >>> model = nn.Sequential(nn.BatchNorm1d(1))
        >>> report = calibrate(model, [torch.tensor([[0.0], [2.0]]), torch.tensor([[4.0], [8.0]])])
        >>> model[0].running_mean, model[0].running_var
        (tensor([3.5000]), tensor([5.]))
        >>> print(report)
        algorithm2 on 2 batches: running statistics of 1 batch norm set
        layer  batches  values  mean shift, rms     max  var ratio, median    min    max
        0            2       4           3.50 σ  3.50 σ              ×5.00  ×5.00  ×5.00
    """
    known("method", method, METHODS)
    known("others", others, ("eval", "train"))
    known("nonfinite", nonfinite, ("raise", "skip"))
    if limit is not None and (not isinstance(limit, SupportsIndex) or limit < 1):
        raise ValueError(
            f"limit={limit!r} must be at least 1, a whole number, or None for all batches"
        )
    if isinstance(batches, (Tensor, str, bytes, Mapping)):
        raise TypeError(
            f"batches is one {type(batches).__name__}; it must be an iterable of batches, such as "
            "a DataLoader or [batch]"
        )
    targets, kept = _targets(model, method)
    pending: list[tuple[str, Moments]] = []
    skipped: list[int] = []
    count = 0
    layers = {name: target.layer for name, target in targets.items()}
    with preserved(model), measuring(layers, pending), eagerly():
        _set_modes(model, targets, others)
        feed = forward or Feed(model)
        total = _total(batches, limit)
        with closing(track(islice(batches, limit), "calibrating", total, show=progress)) as items:
            for index, batch in enumerate(items):
                count += 1
                pending.clear()
                feed(batch)
                if _finite(index, pending, nonfinite):
                    for name, batch_moments in pending:
                        targets[name].estimator.add(batch_moments)
                else:
                    skipped.append(index)
    _check_seen(targets, count, skipped)
    changes = {name: _change(name, target) for name, target in targets.items()}
    _write(targets, changes, method)
    return Calibration(method, count - len(skipped), tuple(skipped), changes, tuple(kept))


def _total(batches: Iterable[Any], limit: int | None) -> int | None:
    """How many batches there will be, where that can be known."""
    hint = operator.length_hint(batches, -1)
    if hint < 0:  # an iterator: it may be endless
        return limit
    return hint if limit is None else min(limit, hint)


def _targets(model: nn.Module, method: str) -> tuple[dict[str, _Target], list[str]]:
    """The batch norms to calibrate, and the names of those left alone."""
    if any(map(is_lazy, (*model.parameters(), *model.buffers()))):
        raise ValueError(
            "model has a lazy module that has not seen a batch; call the model on one first"
        )
    targets, kept = {}, []
    for name, layer in model.named_modules():
        mean, var = getattr(layer, "running_mean", None), getattr(layer, "running_var", None)
        if mean is None or var is None:
            continue
        by_hand = model.training and not layer.training
        set_here = isinstance(layer, _BatchNorm) and layer.track_running_stats
        if is_frozen(layer) or by_hand or not set_here:
            kept.append(name)
            continue
        estimator: Estimator
        if method == "moving_average":
            seen = layer.num_batches_tracked
            estimator = MovingAverage(mean, var, layer.momentum, 0 if seen is None else int(seen))
        else:
            estimator = _FRESH[method]()
        targets[name] = _Target(layer, mean, var, estimator)
    if not targets:
        left = " but those left alone (frozen, in eval(), untracked or of another kind): "
        raise ValueError(
            f"model={type(model).__name__} has no batch norm with running statistics"
            + (left + ", ".join(name or "the model itself" for name in kept) if kept else "")
        )
    return targets, kept


def _set_modes(model: nn.Module, targets: Mapping[str, _Target], others: str) -> None:
    """Training mode for the targets, ``others`` for the rest.

    The attribute is set, not ``train()`` called: what a person's ``train()`` does besides cannot
    be undone.
    """
    chosen = {target.layer for target in targets.values()}
    as_it_is = others == "train" and model.training
    for module in model.modules():
        if module in chosen:
            module.training = True
            if isinstance(module, _BatchRenorm):  # it would go by the statistics to be replaced
                module.__dict__.update(r_max=1.0, d_max=0.0)
        elif isinstance(module, _BatchNorm) and module.running_mean is not None:
            module.training = False
        elif not as_it_is:
            module.training = others == "train"
        if hasattr(module, "on_nonfinite"):  # gammabeta's guard: here calibrate itself decides
            module.__dict__["on_nonfinite"] = "accept"


def _finite(index: int, pending: list[tuple[str, Moments]], nonfinite: str) -> bool:
    """Whether all that was measured of a batch is finite; if not, raise if that is asked for."""
    for name, measured in pending:
        if not measured.finite:
            if nonfinite == "raise":
                raise NonFiniteBatchError(
                    f"batch {index} (the first is 0) gives layer {name!r} a NaN or an infinity; "
                    "nonfinite='skip' leaves such batches out"
                )
            return False
    return True


def _check_seen(targets: Mapping[str, _Target], count: int, skipped: list[int]) -> None:
    if not count:
        raise ValueError("batches is empty; an iterator may have been used up before")
    if len(skipped) == count:
        raise NonFiniteBatchError(f"all {count} batches give some layer a NaN or an infinity")
    unseen = [name for name, target in targets.items() if not target.estimator.batches]
    if unseen:
        raise ValueError(
            f"no batch reached the layers {', '.join(map(repr, unseen))}; freeze() them to leave "
            "them as they are, or use others='train' if they run in training only"
        )


def _change(name: str, target: _Target) -> LayerChange:
    """What the layer's statistics are to become; raise if its dtype cannot hold them."""
    mean, var = target.estimator.estimate()
    for what, estimate, buffer in (
        ("running_mean", mean, target.mean),
        ("running_var", var, target.var),
    ):
        if not torch.isfinite(estimate.to(buffer.dtype)).all():
            raise NonFiniteBatchError(
                f"{what} of layer {name!r} would not be finite in {buffer.dtype} (its largest "
                f"value is {estimate.abs().max().item():.3g})"
            )
    return LayerChange(
        name=name,
        batches=target.estimator.batches,
        values=target.estimator.values,
        mean_before=target.mean.detach().cpu().double(),
        var_before=target.var.detach().cpu().double(),
        mean=mean.cpu(),
        var=var.cpu(),
        eps=target.layer.eps,
    )


def _write(targets: Mapping[str, _Target], changes: Mapping[str, LayerChange], method: str) -> None:
    """Write all or nothing."""
    seen = [target.layer.num_batches_tracked for target in targets.values()]
    before = [None if tensor is None else tensor.clone() for tensor in seen]
    try:
        for (name, target), tracked in zip(targets.items(), seen, strict=True):
            target.mean.copy_(changes[name].mean)
            target.var.copy_(changes[name].var)
            if tracked is not None:
                if method == "moving_average":
                    tracked.add_(target.estimator.batches)
                else:
                    tracked.clamp_(min=target.estimator.batches)
    except BaseException:  # an interrupt between two layers
        for (name, target), tracked, old in zip(targets.items(), seen, before, strict=True):
            target.mean.copy_(changes[name].mean_before)
            target.var.copy_(changes[name].var_before)
            if tracked is not None and old is not None:
                tracked.copy_(old)
        raise
