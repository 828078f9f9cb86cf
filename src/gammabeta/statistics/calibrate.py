"""Set the running statistics of batch norms to those of the population, for evaluation."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Mapping
from contextlib import closing
from itertools import islice
from typing import Any

import torch
from torch import nn

from gammabeta.layers.guard import NonFiniteBatchError
from gammabeta.names import known
from gammabeta.statistics.adapted import adapted_forward
from gammabeta.statistics.arguments import (
    check_batches,
    check_bool,
    check_callable,
    check_module,
    is_whole,
)
from gammabeta.statistics.contents import Contents
from gammabeta.statistics.estimators import METHODS
from gammabeta.statistics.feed import Feed
from gammabeta.statistics.measuring import Measured, OneValueError, eagerly, measuring
from gammabeta.statistics.preserve import preserved
from gammabeta.statistics.progress import track
from gammabeta.statistics.report import Calibration, LayerChange
from gammabeta.statistics.targets import Target, lend, select, warn_of_strangers
from gammabeta.statistics.undo import undo_all


@torch.no_grad()
def calibrate(
    model: nn.Module,
    batches: Iterable[Any],
    method: str = "algorithm2",
    *,
    forward: Callable[[Any], object] | None = None,
    others: str = "eval",
    nonfinite: str = "raise",
    small: str = "raise",
    limit: int | None = None,
    progress: bool | None = None,
) -> Calibration:
    """Replace the running statistics of every batch norm by those of the population.

    Each batch norm is measured in the way the paper trains it: in a forward pass where it, and
    the batch norms before it, normalize by the mini-batch. Its input's mean and variance become,
    by one of the estimators of `gammabeta.statistics`, its ``running_mean`` and ``running_var``.
    ``num_batches_tracked`` is raised to the number of measured mini-batches if it was lower, so
    that a cumulative average (``momentum=None``) weighs them correctly in further training;
    for ``"moving_average"`` it grows by that number. Nothing else in the model changes, nor does
    any random state; if an error is raised, nothing changes at all.

    Args:
        model: any module whose batch norms are torch's, gammabeta's or subclasses of them; in
            either mode. A batch norm is left alone, and normalizes by its running statistics, if
            `gammabeta.freeze` holds it; if it does not track statistics; or if it is in ``eval()``
            while the model and another of its batch norms are in ``train()``, which is how a part
            is frozen by hand. (If all batch norms are in ``eval()``, as those of an average of
            weights inside its wrapper, all are measured.) Running statistics of other kinds are
            left alone, too: an instance norm's; `RecurrentBatchNormLSTM`'s, which says how to get
            the population's; and those of parts that `torch.jit` has compiled, which cannot be
            measured. A subclass with a ``forward`` of its own is measured where it calls batch
            norm.
        batches: tensors; tuples or lists, whose first item is the input; mappings of keyword
            arguments; with ``forward``, anything. Best the training data, at the batch size and
            with the augmentation of training. Tensors are moved to the model's device.
        method: ``"algorithm2"``, ``"pooled"`` or ``"moving_average"``.
        forward: called with each batch in place of ``model``; it runs the model, once or more.
        others: mode of all other modules. ``"eval"``: dropout and similar modules are off, as
            when the statistics are used. ``"train"``: on, as in a literal reading of Algorithm 2; a
            model in ``train()`` keeps the mode of each module. Also needed if a branch runs in
            training only.
        nonfinite: how to handle a batch that gives a batch norm a NaN or an infinity:
            ``"raise"``, or ``"skip"`` it for all layers and count it.
        small: how to handle a batch that gives a batch norm one value per channel, which has no
            variance, such as a last batch of one example: ``"raise"`` or ``"skip"``, likewise.
        limit: number of batches after which to stop; None for all.
        progress: None for a bar on stderr if it is a terminal and the work takes longer than two
            seconds; True for a bar in any case; False for none.

    Returns:
        What changed; ``print`` shows it as a table.

    Raises:
        ValueError: a name that is not known; ``limit`` no whole number of 1 or more; no batch
            norm to calibrate; a model inside a block of `gammabeta.adapt`; no batches; a batch norm
            that no batch reached; a batch that gives one value per channel; a batch norm with a
            ``forward`` of its own of which it is not known what it normalizes; a lazy module that
            has not seen a batch.
        NonFiniteBatchError: a batch that is not finite; a statistic too large for the layer's
            dtype. It is a ValueError, too.
        TypeError: an argument of a wrong type; a batch of a type that needs ``forward``.

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
    check_module(model)
    check_batches(batches)
    known("method", method, METHODS)
    check_callable("forward", forward, "a function that is called with each batch")
    known("others", others, ("eval", "train"))
    known("nonfinite", nonfinite, ("raise", "skip"))
    known("small", small, ("raise", "skip"))
    check_bool("progress", progress, also=None)
    if limit is not None and not is_whole(limit, 1):
        raise ValueError(
            f"limit={limit!r} must be at least 1, a whole number, or None for all batches"
        )
    found = select(model, method)
    warn_of_strangers(found.kept)
    targets = found.targets
    for name, target in targets.items():
        if adapted_forward(target.layer) is not None:
            raise ValueError(
                f"layer {name!r} is inside a block of gb.adapt(); calibrate the model outside of it"
            )
    layers = {name: target.layer for name, target in targets.items()}
    nonfinite_ones: list[int] = []
    small_ones: list[int] = []
    count = 0
    with preserved(model), measuring(layers, found.untracked) as measured, eagerly():
        lend(model, targets, others)
        feed = forward or Feed(model)
        total = _total(batches, limit)
        with closing(track(islice(batches, limit), "calibrating", total, show=progress)) as items:
            for index, batch in enumerate(items):
                count += 1
                if not _large(index, batch, feed, measured, small):
                    small_ones.append(index)
                elif not _finite(index, measured, nonfinite):
                    nonfinite_ones.append(index)
                else:
                    for name, moments in measured.batches:
                        targets[name].estimator.add(moments)
    _check_seen(targets, count, nonfinite_ones, small_ones)
    changes = {name: _change(name, target) for name, target in targets.items()}
    _write(targets, changes, method)
    skipped = tuple(sorted(nonfinite_ones + small_ones))
    return Calibration(
        method=method,
        batches=count - len(skipped),
        skipped=skipped,
        layers=changes,
        kept=tuple(found.kept),
        small=tuple(small_ones),
        reasons=found.kept,
        untracked=tuple(found.untracked),
    )


def _total(batches: Iterable[Any], limit: int | None) -> int | None:
    """How many batches there will be, where that can be known."""
    hint = operator.length_hint(batches, -1)
    if hint < 0:  # an iterator: it may be endless
        return limit
    return hint if limit is None else min(limit, hint)


def _large(
    index: int, batch: Any, feed: Callable[[Any], object], measured: Measured, small: str
) -> bool:
    """Run the model on a batch; whether no layer got one value per channel of it."""
    measured.clear()
    try:
        feed(batch)
    except Exception as error:
        if measured.failure is None:
            if hasattr(error, "add_note"):  # from Python 3.11 on
                error.add_note(f"raised by the model on batch {index + 1} of batches=")
            raise
    if measured.failure is None:
        return True
    # Raised inside the forward pass, where the model may have caught or replaced it.
    if not isinstance(measured.failure, OneValueError):
        raise measured.failure
    if small == "raise":
        raise ValueError(
            f"batch {index + 1}: {measured.failure}, too few for a variance; drop such a "
            "batch with drop_last=True in the DataLoader, or skip it with small='skip'"
        ) from None
    return False


def _finite(index: int, measured: Measured, nonfinite: str) -> bool:
    """Whether all that was measured of a batch is finite; if not, raise if that is asked for."""
    for name, moments in measured.batches:
        if not moments.finite:
            if nonfinite == "raise":
                raise NonFiniteBatchError(
                    f"batch {index + 1} gives layer {name!r} a NaN or an infinity; "
                    "use nonfinite='skip' to skip such batches"
                )
            return False
    return True


def _check_seen(
    targets: Mapping[str, Target], count: int, nonfinite: list[int], small: list[int]
) -> None:
    if not count:
        raise ValueError("batches is empty; an iterator may already be exhausted")
    if len(nonfinite) == count:
        raise NonFiniteBatchError(f"all {count} batches give some layer a NaN or an infinity")
    if len(nonfinite) + len(small) == count:
        rest = f", and the other {len(nonfinite)} a NaN or an infinity" if nonfinite else ""
        raise ValueError(
            f"{len(small)} of {count} batches give some layer one value per channel{rest}; give "
            "larger batches"
        )
    unseen = [name for name, target in targets.items() if not target.estimator.batches]
    if unseen:
        raise ValueError(
            f"no batch reached the layers {', '.join(map(repr, unseen))}; freeze() them to keep "
            "their statistics, or use others='train' if they run in training only"
        )


def _change(name: str, target: Target) -> LayerChange:
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


def _write(targets: Mapping[str, Target], changes: Mapping[str, LayerChange], method: str) -> None:
    """Write all or nothing."""
    buffers = (b for t in targets.values() for b in (t.mean, t.var, t.tracked) if b is not None)
    before = [Contents(buffer) for buffer in buffers]
    try:
        for name, target in targets.items():
            with torch.inference_mode(target.mean.is_inference()):
                target.mean.copy_(changes[name].mean)
            with torch.inference_mode(target.var.is_inference()):
                target.var.copy_(changes[name].var)
            if target.tracked is not None:
                with torch.inference_mode(target.tracked.is_inference()):
                    if method == "moving_average":
                        target.tracked.add_(target.estimator.batches)
                    else:
                        target.tracked.clamp_(min=target.estimator.batches)
    except BaseException:  # an interrupt between two layers
        undo_all(contents.restore for contents in before)
        raise
