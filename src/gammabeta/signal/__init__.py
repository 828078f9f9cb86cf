"""The signal: what is measured, where it is kept, how a model is watched."""

from gammabeta.signal.cadence import Cadence
from gammabeta.signal.record import Record, RecordError
from gammabeta.signal.run import Run
from gammabeta.signal.watch import Watch, watch

__all__ = ["Cadence", "Record", "RecordError", "Run", "Watch", "watch"]
