"""Population statistics: how they are estimated, measured, and held still."""

from gammabeta.statistics.calibrate import calibrate
from gammabeta.statistics.estimators import Algorithm2, MovingAverage, Pooled
from gammabeta.statistics.freeze import freeze, is_frozen, unfreeze
from gammabeta.statistics.moments import Moments

__all__ = [
    "Algorithm2",
    "Moments",
    "MovingAverage",
    "Pooled",
    "calibrate",
    "freeze",
    "is_frozen",
    "unfreeze",
]
