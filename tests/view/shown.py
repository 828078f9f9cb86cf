"""What the view says of records, and what the records say themselves."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gammabeta.signal import Run, axis
from gammabeta.view.payload import encoded, snapshot
from gammabeta.view.runs import Runs

HALF = axis.BINS // 2


def strict(value: Any) -> Any:
    """Return ``value`` as a page would read it: through JSON that has no NaN and no infinity."""

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    return json.loads(encoded(value), parse_constant=refuse)


def told(*paths: Path) -> Any:
    """``run.json`` of some records."""
    return strict(snapshot(Runs(paths).now()))


def column(path: Path, field: str) -> NDArray[Any]:
    """A field of every frame × probe of one record, by its summaries; NaN where not measured."""
    with Run(path) as run:
        places = {probe.id: i for i, probe in enumerate(run.probes())}
        frames = list(run.frames())
        table = np.full((len(frames), len(places)), np.nan)
        for i, frame in enumerate(frames):
            for probe, summary in frame.signals.items():
                if field == "rms":
                    value: Any = math.sqrt(summary.mean**2 + summary.std**2)
                else:
                    value = getattr(summary, field)
                table[i, places[probe]] = math.nan if value is None else value
    return table


def counts(path: Path) -> NDArray[Any]:
    """The histograms without exact zeros, frames × probes × bins; 0 where not measured."""
    with Run(path) as run:
        places = {probe.id: i for i, probe in enumerate(run.probes())}
        frames = list(run.frames())
        table = np.zeros((len(frames), len(places), axis.BINS), dtype=np.int64)
        for i, frame in enumerate(frames):
            for probe, summary in frame.signals.items():
                row = np.asarray(summary.histogram).copy()
                row[HALF] -= summary.zeros
                table[i, places[probe]] = row
    return table


def as_heights(table: NDArray[Any]) -> NDArray[Any]:
    """``counts`` as the page gets them, one bin at a time."""
    heights = np.zeros(table.shape, dtype=np.uint8)
    for place in np.ndindex(*table.shape[:2]):
        most = max(table[place].max(), 1)
        for bin_, count in enumerate(table[place]):
            heights[(*place, bin_)] = max(round(255 * count / most), 1 if count else 0)
    return heights
