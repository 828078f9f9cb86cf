"""Normalization layers: torch's own, with a fused residual and activation."""

from gammabeta.layers.batch import BatchNorm1d, BatchNorm2d, BatchNorm3d
from gammabeta.layers.group import GroupNorm
from gammabeta.layers.layer import LayerNorm
from gammabeta.layers.rms import RMSNorm

__all__ = ["BatchNorm1d", "BatchNorm2d", "BatchNorm3d", "GroupNorm", "LayerNorm", "RMSNorm"]
