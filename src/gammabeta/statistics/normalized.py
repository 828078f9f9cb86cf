"""Find out what a layer with a forward of its own normalizes, while it runs.

A subclass of a batch norm may transpose, cut or cast its input before it calls batch norm, or
compute something else. So its input is not measured on trust: the operator that normalizes is
watched, and where none is seen, the layer's own running statistics must confirm the measurement.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from gammabeta.layers.traits import lineage
from gammabeta.statistics.moments import Moments

_BATCH_NORMS = frozenset(
    getattr(torch.ops.aten, name).default
    for name in (
        *("batch_norm", "native_batch_norm", "cudnn_batch_norm", "miopen_batch_norm"),
        *("_batch_norm_impl_index", "_native_batch_norm_legit"),
    )
    if hasattr(torch.ops.aten, name)
)
"""Called with input, weight, bias, running_mean, running_var, training, and more."""

_SAFETY = 32
"""Roundings by which a layer's own arithmetic may differ from float64."""


class Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Calls ``take`` with the input of each batch norm operator that belongs to ``layer``.

    An operator belongs to the layer if it is given the layer's running statistics; or, without
    any, the layer's γ. gammabeta's native kernels leave the work to torch's operators meanwhile.

    Args:
        layer: the batch norm that runs.
        take: called with the operator's input and whether it normalizes by the mini-batch.
    """

    def __init__(self, layer: Any, take: Callable[[Tensor, bool], None]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._layer, self._take = layer, take

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func in _BATCH_NORMS and len(args) > 5 and self._is_its_own(args):
            # Without statistics, the operator has only those of the batch.
            self._take(args[0], bool(args[5]) or args[3] is None)
        return func(*args, **(kwargs or {}))

    def _is_its_own(self, args: tuple[Any, ...]) -> bool:
        weight, mean = args[1], args[3]
        if mean is not None:
            return _same_memory(mean, self._layer.running_mean)
        return "batch-renorm" in lineage(self._layer) or _same_memory(weight, self._layer.weight)


def _same_memory(one: object, other: object) -> bool:
    if not isinstance(one, Tensor) or not isinstance(other, Tensor):
        return False
    return one is other or (one.data_ptr() == other.data_ptr() and one.shape == other.shape)


class Recorded:
    """The running statistics of ``layer`` before a call, to be compared with those after it."""

    def __init__(self, layer: Any) -> None:
        self._layer = layer
        self._mean, self._var = self._now()

    def confirms(self, measured: Moments) -> bool:
        """Whether the call moved the running statistics as a mini-batch of these moments does.

        The mini-batch's statistics are solved for: new = (1 − α) old + α batch. The variance may
        be the unbiased or the biased one.
        """
        share = self._layer.momentum
        if share is None:
            seen = self._layer.num_batches_tracked
            share = 1 / max(1, 0 if seen is None else int(seen))
        mean, var = self._now()
        if not share or self._mean.shape != measured.mean.shape:
            return False
        if torch.equal(mean, self._mean) and torch.equal(var, self._var):
            return False  # not updated
        device = mean.device
        batch_mean, batch_var = measured.mean.to(device), measured.var.to(device)
        buffer = self._layer.running_mean
        eps = torch.finfo(torch.float32 if buffer is None else buffer.dtype).eps
        slack = _SAFETY * eps / share
        its_mean = self._mean + (mean - self._mean) / share
        its_var = self._var + (var - self._var) / share
        mean_slack = slack * (batch_mean.abs() + batch_var.sqrt() + self._mean.abs())
        var_slack = slack * (batch_var + batch_mean.square() + self._var.abs())
        unbiased = batch_var * (measured.count / max(1, measured.count - 1))
        off = torch.minimum((its_var - batch_var).abs(), (its_var - unbiased).abs())
        close = ((its_mean - batch_mean).abs() <= mean_slack).all() & (off <= var_slack).all()
        return bool(close)

    def _now(self) -> tuple[Tensor, Tensor]:
        mean, var = self._layer.running_mean, self._layer.running_var
        assert mean is not None  # noqa: S101 (a target keeps both)
        assert var is not None  # noqa: S101
        return _exact(mean), _exact(var)


def _exact(tensor: Tensor) -> Tensor:
    moved = tensor.detach().cpu() if tensor.device.type == "mps" else tensor.detach()
    return moved.to(torch.float64, copy=True)
