"""Lazy layers: C is read off the first input, after which the layer is the plain one.

They exist because torch's lazy layers become *torch's* layers: a model that is built lazily would
otherwise end without activation, residual and guard. Each is torch's lazy layer of its name.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from gammabeta.layers import batch, instance
from gammabeta.layers.epilogue import Epilogue
from gammabeta.layers.guard import Guarded
from gammabeta.layers.lean import Lean


class _Lazy(Guarded, Epilogue):
    """Our keywords on torch's lazy construction; mixed in before torch's class."""

    num_features: int

    def __init__(
        self,
        *args: Any,
        activation: str | None = None,
        on_nonfinite: str = "refuse",
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self._set_activation(activation)
        self._set_on_nonfinite(on_nonfinite)

    def initialize_parameters(self, input: Tensor, residual: Tensor | None = None) -> None:
        """Make the parameters for ``input``'s dim 1; called before the first forward."""
        super().initialize_parameters(input)  # type: ignore[misc]
        if self.num_features == 0:
            # Filled by load_state_dict, or without anything to fill: torch leaves the 0, which
            # its instance norms then hold against every input.
            filled = [t for t in (self.running_mean, self._parameters["weight"]) if t is not None]
            self.num_features = filled[0].shape[0] if filled else input.shape[1]


class _LazyBatch(_Lazy, Lean):
    """The same, with the keyword that batch norms have and others have not."""

    def __init__(self, *args: Any, memory: str = "default", **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._set_memory(memory)


# The first forward runs before torch changes the class, so the lazy class has to have it too.
class LazyBatchNorm1d(_LazyBatch, batch._FusedForward, nn.LazyBatchNorm1d):
    r"""A `BatchNorm1d` whose ``num_features`` is the first input's size at dim 1.

    Args:
        *args: of `torch.nn.LazyBatchNorm1d`: eps, momentum, affine, track_running_stats, device,
            dtype.
        activation: a name as in `BatchNorm1d`, or None.
        on_nonfinite: as in `BatchNorm1d`.
        memory: as in `BatchNorm1d`.
        **kwargs: the same, by keyword; also ``bias``.

    Raises:
        ValueError: unknown ``activation``, ``on_nonfinite`` or ``memory``.

    Example:
        >>> import torch
        >>> layer = LazyBatchNorm1d(activation="relu")
        >>> _ = layer(torch.randn(8, 5))
        >>> type(layer).__name__, layer.num_features, layer.activation
        ('BatchNorm1d', 5, 'relu')
    """

    cls_to_become = batch.BatchNorm1d


class LazyBatchNorm2d(_LazyBatch, batch._FusedForward, nn.LazyBatchNorm2d):
    """A `BatchNorm2d` whose ``num_features`` is the first input's; see `LazyBatchNorm1d`."""

    cls_to_become = batch.BatchNorm2d


class LazyBatchNorm3d(_LazyBatch, batch._FusedForward, nn.LazyBatchNorm3d):
    """A `BatchNorm3d` whose ``num_features`` is the first input's; see `LazyBatchNorm1d`."""

    cls_to_become = batch.BatchNorm3d


class LazyInstanceNorm1d(_Lazy, instance._FusedForward, nn.LazyInstanceNorm1d):
    """An `InstanceNorm1d` whose ``num_features`` is the first input's; see `LazyBatchNorm1d`."""

    cls_to_become = instance.InstanceNorm1d


class LazyInstanceNorm2d(_Lazy, instance._FusedForward, nn.LazyInstanceNorm2d):
    """An `InstanceNorm2d` whose ``num_features`` is the first input's; see `LazyBatchNorm1d`."""

    cls_to_become = instance.InstanceNorm2d


class LazyInstanceNorm3d(_Lazy, instance._FusedForward, nn.LazyInstanceNorm3d):
    """An `InstanceNorm3d` whose ``num_features`` is the first input's; see `LazyBatchNorm1d`."""

    cls_to_become = instance.InstanceNorm3d
