"""gammabeta steadies the signal in PyTorch networks.

Drop-in normalization layers, and a live picture of every layer's signal while it trains.
"""

__version__ = "0.1.0"

from gammabeta.layers import (
    BatchNorm1d,
    BatchNorm2d,
    BatchNorm3d,
    GroupNorm,
    LayerNorm,
    RMSNorm,
)
from gammabeta.signal import Cadence, Record, RecordError, Run, Watch, watch
from gammabeta.view import export

__all__ = [
    "BatchNorm1d",
    "BatchNorm2d",
    "BatchNorm3d",
    "Cadence",
    "GroupNorm",
    "LayerNorm",
    "RMSNorm",
    "Record",
    "RecordError",
    "Run",
    "Watch",
    "export",
    "watch",
]
