"""Merge the running statistics of several models: federated averaging, model soups."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, MutableMapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from gammabeta.layers.guard import NonFiniteBatchError
from gammabeta.layers.traits import running
from gammabeta.statistics.collected import (
    MEAN,
    TRACKED,
    VAR,
    LayerStatistics,
    collected,
    join,
)
from gammabeta.statistics.contents import Contents, overlaps
from gammabeta.statistics.freeze import is_frozen
from gammabeta.statistics.moments import where_float64_is
from gammabeta.statistics.undo import undo_all


@torch.no_grad()
def merge_statistics(
    models: Iterable[Any],
    weights: Iterable[float] | None = None,
    into: nn.Module | MutableMapping[str, Any] | None = None,
) -> dict[str, Tensor]:
    """Merge the running statistics of several models of one architecture into those of all data.

    Model k has seen a share p_k of the data, with mean μ_k and variance σ²_k per channel. All data
    have the mean ``μ = Σ p_k μ_k`` and the variance ``σ² = Σ p_k (σ²_k + (μ_k − μ)²)``: that within
    the models' data and that between them. The average of the variances alone leaves out the
    second, which is large where the models' data differ.

    Args:
        models: two or more, mostly. Each is a module; a ``state_dict``, of tensors or NumPy arrays;
            or, with ``into``, a list of arrays in the order of its ``state_dict`` (with or without
            ``num_batches_tracked``). They are not changed.
        weights: for each model, how many examples its statistics were measured on; any unit, and
            0 leaves the model out. None if they are equal.
        into: where the result is written to, or None. A module: its buffers are written to, except
            those of layers that `gammabeta.freeze` holds. A ``state_dict``: its entries are
            replaced by new ones, and the tensors that were in it are not changed.

    Returns:
        The merged statistics, under the keys of a ``state_dict``: ``running_mean``, ``running_var``
        and ``num_batches_tracked`` of each layer, as new tensors on the CPU, in the dtype of
        ``into`` if it is given, else of the first model.

    Raises:
        ValueError: no models; weights that are negative, not finite, all zero or of another
            number; models whose layers, or sizes of layers, differ; a negative variance, or
            statistics that are not finite; a list of arrays without ``into``, or of another number
            than ``into`` has entries. The message names the model, by index, and the layer. If an
            error is raised, nothing is changed.
        NonFiniteBatchError: a result too large for its dtype. It is a ValueError, too.
        TypeError: an argument of a wrong type.

    Numerics:
        Float64 throughout, rounded once. All terms of σ² are squares or variances, so nothing
        cancels and no result is negative. Merging equal statistics returns them to the bit.

        *Biased or unbiased?* ``running_var`` averages unbiased variances of mini-batches, so σ²_k
        estimates the variance of model k's data, and the formula above is that of their mixture:
        no correction by n/(n − 1) is due. The exact unbiased variance of all n values would differ
        by a fraction of about K/n for K models.

        *Counters.* ``num_batches_tracked`` becomes the largest, an integer. The sum would count
        what the models have in common K times, and grow K-fold with each round.

        *Instance norms* that track statistics hold the mean variance within an example, to which
        nothing is added: for modules, σ² = Σ p_k σ²_k. A ``state_dict`` does not tell them apart
        from batch norms, unless ``into`` is a module.

        Merged are statistics of the models' own activations. If their weights are averaged as
        well, those of the average differ: where there are data, `gammabeta.calibrate` is exact.

    Source:
        The law of total variance; Chan, Golub & LeVeque 1979, *Updating formulae and a pairwise
        algorithm for computing sample variances*. McMahan et al. 2017, arXiv:1602.05629, weigh by
        the number of examples.

    Example:
        >>> one, two = nn.BatchNorm1d(1), nn.BatchNorm1d(1)
        >>> _ = one.running_mean.fill_(-3), two.running_mean.fill_(1)
        >>> merged = merge_statistics([one, two], weights=[100, 300])
        >>> merged["running_mean"], merged["running_var"]  # 1 within, 3 between
        (tensor([0.]), tensor([4.]))
    """
    given = _listed(models)
    shares = _shares(weights, len(given))
    if into is not None and not isinstance(into, (nn.Module, MutableMapping)):
        raise TypeError(
            f"into is of type {type(into).__name__}; give a torch.nn.Module, a state_dict, or None"
        )
    keys = None
    if into is not None:
        keys = list(into.state_dict() if isinstance(into, nn.Module) else into)
    used = [index for index, share in enumerate(shares) if share]
    states = {index: collected(given[index], f"models[{index}]", keys) for index in used}
    _check_alike(states)
    first = states[used[0]]
    goal = first if into is None else collected(into, "into", keys, values=False)
    _check_goal(goal, first, used[0])
    instance = _instance_norms([into, *(given[index] for index in used)])
    merged = {
        name: _merge(
            [states[index][name] for index in used],
            [shares[index] for index in used],
            goal[name],
            f"layer {name!r}",
            between=name not in instance,
        )
        for name in first
    }
    if isinstance(into, nn.Module):
        _write(into, merged)
    elif into is not None:
        _replace(into, merged)
    return {
        join(name, what): value
        for name, its in merged.items()
        for what, value in ((MEAN, its.mean), (VAR, its.var), (TRACKED, its.tracked))
        if value is not None
    }


def _listed(models: Iterable[Any]) -> list[Any]:
    if isinstance(models, (nn.Module, Mapping, Tensor, str)) or not isinstance(models, Iterable):
        raise TypeError(
            f"models is of type {type(models).__name__}; give a list of models or state_dicts"
        )
    given = list(models)
    if not given:
        raise ValueError("models is empty; give one or more models or state_dicts")
    return given


def _shares(weights: Iterable[float] | None, number: int) -> list[float]:
    """The weights, divided by their sum."""
    if weights is None:
        return [1 / number] * number
    try:
        values = [float(weight) for weight in weights]
    except TypeError:
        raise TypeError(
            f"weights={weights!r} must be a list of numbers, one for each model, or None"
        ) from None
    if len(values) != number:
        raise ValueError(
            f"weights={values} does not fit {number} models; give one number for each of them"
        )
    for index, value in enumerate(values):
        if not math.isfinite(value) or value < 0:
            raise ValueError(f"weights[{index}]={value} must be 0 or more, and finite")
    largest = max(values)
    if not largest:
        raise ValueError("weights are all 0; give the number of examples behind each model")
    total = math.fsum(value / largest for value in values)  # the sum itself may overflow
    return [value / largest / total for value in values]


def _check_alike(states: Mapping[int, Mapping[str, LayerStatistics]]) -> None:
    (first, reference), *others = states.items()
    if not reference:
        raise ValueError(f"models[{first}] has no layer with running statistics")
    for index, state in others:
        for one, its, two, other in (
            (first, reference, index, state),
            (index, state, first, reference),
        ):
            for name in its:
                if name not in other:
                    raise ValueError(
                        f"models[{two}] has no running statistics for layer {name!r}, which "
                        f"models[{one}] has; give models of one architecture"
                    )
        for name, its_own in state.items():
            shape, expected = tuple(its_own.mean.shape), tuple(reference[name].mean.shape)
            if shape != expected:
                raise ValueError(
                    f"models[{index}]: layer {name!r} has statistics of shape {shape}, but "
                    f"models[{first}] of {expected}; give models of one architecture"
                )


def _check_goal(
    goal: Mapping[str, LayerStatistics], merged: Mapping[str, LayerStatistics], first: int
) -> None:
    for name in {**merged, **goal}:
        if name not in goal:
            raise ValueError(
                f"into has no running statistics for layer {name!r}, which models[{first}] has"
            )
        if name not in merged:
            raise ValueError(
                f"models[{first}] has no running statistics for layer {name!r}, which into has"
            )
        shape, expected = tuple(goal[name].mean.shape), tuple(merged[name].mean.shape)
        if shape != expected:
            raise ValueError(
                f"into: layer {name!r} has statistics of shape {shape}, but models[{first}] of "
                f"{expected}"
            )


def _instance_norms(sources: Sequence[object]) -> set[str]:
    """Names of the layers that are instance norms, as far as modules tell."""
    return {
        name
        for source in sources
        if isinstance(source, nn.Module)
        for name, module in source.named_modules(remove_duplicate=False)
        if (its := running(module)) is not None and its.of == "instance"
    }


def _merge(
    states: Sequence[LayerStatistics],
    shares: Sequence[float],
    goal: LayerStatistics,
    who: str,
    between: bool,
) -> LayerStatistics:
    """The statistics of one layer, from all models, in the dtypes of ``goal``."""
    means = torch.stack([_exact(state.mean) for state in states])
    variances = torch.stack([_exact(state.var) for state in states])
    share = torch.tensor(shares, dtype=torch.float64).view(-1, *[1] * (means.dim() - 1))
    mean = _average(means, share)
    var = _average(variances, share)
    if between:
        var = var + (share * (means - mean).square()).sum(0)
    for what, value, like in ((MEAN, mean, goal.mean), (VAR, var, goal.var)):
        if not torch.isfinite(value.to(like.dtype)).all():
            raise NonFiniteBatchError(
                f"{what} of {who} would not be finite in {like.dtype} (its largest value is "
                f"{value.abs().max().item():.3g})"
            )
    return LayerStatistics(
        mean.to(goal.mean.dtype), var.to(goal.var.dtype), _most(states, goal.tracked)
    )


def _average(values: Tensor, share: Tensor) -> Tensor:
    """Σ p_k v_k; within the values, whose rounded shares may not add up to 1."""
    return (share * values).sum(0).clamp(values.amin(0), values.amax(0))


def _most(states: Sequence[LayerStatistics], goal: Tensor | None) -> Tensor | None:
    """The largest count; whole, also of counts that were averaged into fractions."""
    counts = [state.tracked for state in states if state.tracked is not None]
    if not counts:
        return None
    most = torch.stack([_exact(count) for count in counts]).amax(0).round()
    whole = goal is not None and not goal.is_floating_point()
    return most.to(goal.dtype if goal is not None and whole else torch.long)


def _exact(tensor: Tensor) -> Tensor:
    return where_float64_is(tensor).cpu().double()


def _replace(into: MutableMapping[str, Any], merged: Mapping[str, LayerStatistics]) -> None:
    new: dict[str, Any] = {}
    for name, its in merged.items():
        for what, value in ((MEAN, its.mean), (VAR, its.var), (TRACKED, its.tracked)):
            key = join(name, what)
            if value is None or key not in into:
                continue
            new[key] = (
                value.to(into[key].device) if isinstance(into[key], Tensor) else value.numpy()
            )
    into.update(new)


def _write(into: nn.Module, merged: Mapping[str, LayerStatistics]) -> None:
    """Write all or nothing."""
    pairs = list(_buffers(into, merged))
    before = [Contents(buffer) for buffer, _ in pairs]
    try:
        for buffer, value in pairs:
            with torch.inference_mode(buffer.is_inference()):
                buffer.copy_(value)
    except BaseException:  # an interrupt between two layers
        undo_all(contents.restore for contents in before)
        raise


def _buffers(
    into: nn.Module, merged: Mapping[str, LayerStatistics]
) -> Iterator[tuple[Tensor, Tensor]]:
    """Each buffer of ``into`` with its new value."""
    for name, module in into.named_modules(remove_duplicate=False):
        its = running(module)
        if its is None or name not in merged or is_frozen(module):
            continue
        new = merged[name]
        for what, buffer, value in (
            (MEAN, its.mean, new.mean),
            (VAR, its.var, new.var),
            (TRACKED, its.tracked, new.tracked),
        ):
            if buffer is None or value is None:
                continue
            if buffer.is_meta:
                raise ValueError(
                    f"into: layer {name!r} has {what} on the meta device, which stores no values; "
                    "move the model with to_empty() first"
                )
            if overlaps(buffer):
                raise ValueError(
                    f"into: layer {name!r} has an expanded {what}, whose elements share memory; "
                    f"replace it by a copy: layer.{what} = layer.{what}.clone()"
                )
            yield buffer, value
