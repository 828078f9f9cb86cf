"""What a copied or pickled record becomes."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import Any

from gammabeta.signal.paths import record_path
from gammabeta.signal.record import Record, Rows


class InertRecord(Record):
    """What a copied or pickled record becomes: it records nothing, and says so.

    Args:
        path: where the original recorded.
    """

    def __init__(self, path: str) -> None:
        self.path = record_path(path)
        self.error = self.lost = None
        self.busy = 0.0
        self._arms, self._probes, self._rows, self._steps = {}, {}, {}, {}
        self._frames = self._waiting = 0
        self._lock = threading.Lock()

    def _put(self, rows: Rows | Callable[[], Rows]) -> None:
        pass

    def write(self, *args: Any, **kwargs: Any) -> None:
        """Do nothing."""

    def flush(self) -> None:
        """Do nothing."""

    def close(self, status: str = "finished", meta: Mapping[str, Any] | None = None) -> None:
        """Do nothing."""

    def __repr__(self) -> str:
        return f"<a copy of the record {self.path}: it records nothing>"
