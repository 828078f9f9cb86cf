"""Population statistics: how they are estimated, measured, and held still."""

from gammabeta.statistics.adapt import Adaptation, adapt
from gammabeta.statistics.calibrate import calibrate
from gammabeta.statistics.estimators import Algorithm2, MovingAverage, Pooled
from gammabeta.statistics.freeze import freeze, is_frozen, unfreeze
from gammabeta.statistics.merging import merge_statistics
from gammabeta.statistics.moments import Moments

__all__ = [
    "Adaptation",
    "Algorithm2",
    "Moments",
    "MovingAverage",
    "Pooled",
    "adapt",
    "calibrate",
    "freeze",
    "is_frozen",
    "merge_statistics",
    "unfreeze",
]
