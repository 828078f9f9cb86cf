"""Measure the signal in every layer of a model while it trains, and record it."""

from gammabeta.signal.cadence import Cadence
from gammabeta.signal.paths import RecordError
from gammabeta.signal.record import Record
from gammabeta.signal.run import Run
from gammabeta.signal.watch import Watch, watch

__all__ = ["Cadence", "Record", "RecordError", "Run", "Watch", "watch"]
