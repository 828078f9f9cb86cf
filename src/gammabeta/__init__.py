"""gammabeta steadies the signal in PyTorch networks."""

__version__ = "0.1.0"

from gammabeta.calibrate import calibrate
from gammabeta.convert import convert, revert
from gammabeta.freeze import freeze, unfreeze
from gammabeta.layers import (
    BatchNorm1d,
    BatchNorm2d,
    BatchNorm3d,
    GroupNorm,
    LayerNorm,
    RMSNorm,
)

__all__ = [
    "BatchNorm1d",
    "BatchNorm2d",
    "BatchNorm3d",
    "GroupNorm",
    "LayerNorm",
    "RMSNorm",
    "calibrate",
    "convert",
    "freeze",
    "revert",
    "unfreeze",
]
