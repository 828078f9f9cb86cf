"""Normalization layers: torch's own, with a fused residual and activation, and what torch lacks."""

from gammabeta.layers.batch import BatchNorm1d, BatchNorm2d, BatchNorm3d
from gammabeta.layers.dyt import DynamicTanh
from gammabeta.layers.frn import TLU, FilterResponseNorm2d
from gammabeta.layers.frozen import FrozenBatchNorm1d, FrozenBatchNorm2d, FrozenBatchNorm3d
from gammabeta.layers.ghost import GhostBatchNorm1d, GhostBatchNorm2d, GhostBatchNorm3d
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
from gammabeta.layers.masked import MaskedBatchNorm1d
from gammabeta.layers.recurrent_batch import RecurrentBatchNormLSTM
from gammabeta.layers.recurrent_layer import LayerNormLSTM
from gammabeta.layers.renorm import BatchRenorm1d, BatchRenorm2d, BatchRenorm3d
from gammabeta.layers.rms import RMSNorm

__all__ = [
    "TLU",
    "BatchNorm1d",
    "BatchNorm2d",
    "BatchNorm3d",
    "BatchRenorm1d",
    "BatchRenorm2d",
    "BatchRenorm3d",
    "DynamicTanh",
    "FilterResponseNorm2d",
    "FrozenBatchNorm1d",
    "FrozenBatchNorm2d",
    "FrozenBatchNorm3d",
    "GhostBatchNorm1d",
    "GhostBatchNorm2d",
    "GhostBatchNorm3d",
    "GroupNorm",
    "InstanceNorm1d",
    "InstanceNorm2d",
    "InstanceNorm3d",
    "LayerNorm",
    "LayerNormLSTM",
    "LazyBatchNorm1d",
    "LazyBatchNorm2d",
    "LazyBatchNorm3d",
    "LazyInstanceNorm1d",
    "LazyInstanceNorm2d",
    "LazyInstanceNorm3d",
    "MaskedBatchNorm1d",
    "NonFiniteBatchError",
    "NonFiniteBatchWarning",
    "RMSNorm",
    "RecurrentBatchNormLSTM",
    "guard_statistics",
]
