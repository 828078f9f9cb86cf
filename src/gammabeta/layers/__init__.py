"""Normalization layers: torch's own, with a fused residual and activation."""

from gammabeta.layers.batch import BatchNorm1d, BatchNorm2d, BatchNorm3d
from gammabeta.layers.group import GroupNorm
from gammabeta.layers.guard import NonFiniteBatchError, NonFiniteBatchWarning, guard_statistics
from gammabeta.layers.instance import InstanceNorm1d, InstanceNorm2d, InstanceNorm3d
from gammabeta.layers.layer import LayerNorm
from gammabeta.layers.lazy import (
    LazyBatchNorm1d,
    LazyBatchNorm2d,
    LazyBatchNorm3d,
    LazyInstanceNorm1d,
    LazyInstanceNorm2d,
    LazyInstanceNorm3d,
)
from gammabeta.layers.rms import RMSNorm

__all__ = [
    "BatchNorm1d",
    "BatchNorm2d",
    "BatchNorm3d",
    "GroupNorm",
    "InstanceNorm1d",
    "InstanceNorm2d",
    "InstanceNorm3d",
    "LayerNorm",
    "LazyBatchNorm1d",
    "LazyBatchNorm2d",
    "LazyBatchNorm3d",
    "LazyInstanceNorm1d",
    "LazyInstanceNorm2d",
    "LazyInstanceNorm3d",
    "NonFiniteBatchError",
    "NonFiniteBatchWarning",
    "RMSNorm",
    "guard_statistics",
]
