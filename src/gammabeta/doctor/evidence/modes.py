"""Put a model into the mode of a pass."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor, fx, nn

from gammabeta.doctor.subject import Subject


def train_norms(subject: Subject, targets: Iterable[nn.Module], *, dropout: bool) -> None:
    """Make batch norms normalize by the batch, as training does; frozen ones stay as they are.

    Args:
        subject: what is examined.
        targets: batch norms that keep running statistics and are not frozen.
        dropout: whether everything else is put into training mode, too.
    """
    model = subject.model
    norms = [norm.module for norm in subject.batch_norms]
    flipped = [norm for norm in norms if _no_longer_tracks(norm, model)]  # before the switch
    switch(model, dropout)
    by_batch = [norm for norm in norms if _by_batch_always(norm) and not _is_held(norm)]
    for norm in {*targets, *flipped, *by_batch}:
        norm.train()


def write_statistics(
    targets: Mapping[str, Any], statistics: Mapping[str, tuple[Tensor, Tensor]]
) -> None:
    """Replace running statistics.

    Args:
        targets: path → batch norm.
        statistics: path → mean and variance.
    """
    for path, (mean, var) in statistics.items():
        targets[path].running_mean.copy_(mean)
        targets[path].running_var.copy_(var)


def switch(model: nn.Module, training: bool) -> None:
    """Set the mode of ``model``; modules of `torch.export` refuse ``train()``."""
    try:
        model.train(training)
    except NotImplementedError:
        for module in model.modules():
            if not _is_held(module) or isinstance(module, fx.GraphModule):
                module.training = training


def _is_held(norm: nn.Module) -> bool:
    return "train" in norm.__dict__  # `gammabeta.freeze` replaces it


def _no_longer_tracks(norm: Any, model: nn.Module) -> bool:
    """Whether training normalizes by the batch, though there are buffers: see GB102."""
    off = getattr(norm, "track_running_stats", True) is False
    return off and (bool(norm.training) or not model.training)


def _by_batch_always(norm: Any) -> bool:
    return getattr(norm, "running_mean", None) is None
