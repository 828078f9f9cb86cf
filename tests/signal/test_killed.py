"""kill −9 at any moment: what had been committed can be read, whole frames without a gap."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from gammabeta.signal import RecordError, Run

MOMENTS = 20
STAGES = ("z", "normalized", "affine", "activation")
BY_CHANNEL = [(n, s) for n in (1, 2) for s in ("gamma", "beta", "mean_shift", "var_ratio")]
SIZES = {
    **{(n, stage): 16 * 8 for n in (1, 2) for stage in STAGES},
    (3, "z"): 16 * 2,
    (1, "weight"): 8 * 4,
    (2, "weight"): 8 * 8,
    (3, "weight"): 2 * 8,
    **dict.fromkeys(BY_CHANNEL, 8),
}
"""(number of the row, stage) → number of values."""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork and SIGKILL")
def test_killed_at_twenty_random_moments(tmp_path: Path) -> None:
    rng = random.Random(0)
    program = subprocess.Popen(
        [sys.executable, str(Path(__file__).with_name("killed_run.py"))],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert program.stdin is not None
    assert program.stdout is not None
    recorded = []
    with program:
        for moment in range(MOMENTS):
            path = tmp_path / f"{moment}.sqlite"
            # A third of the runs report after each step, the others leave the writer work to do.
            every = rng.choice([1, 5, 25])
            program.stdin.write(f"{path}\t{rng.uniform(0.0, 0.6)}\t{every}\n")
            program.stdin.flush()
            answer = program.stdout.readline()
            assert answer, "the program ended early"
            recorded.append(examine(path, committed=int(answer)))
        program.stdin.close()
        assert program.wait() == 0
    # The moments were spread: most fell in the midst of training, and not all in one place.
    assert sum(steps > 0 for steps in recorded) >= MOMENTS // 2
    assert len(set(recorded)) >= MOMENTS // 3


def examine(path: Path, committed: int) -> int:
    """Return how many frames the record holds, having checked all of them."""
    if committed == 0:
        # Killed before the first report: there may be no record yet, but what there is is either
        # refused cleanly or read like any other.
        try:
            Run(path).close()
        except RecordError:
            return 0
    with Run(path) as run:
        assert run.status() == "killed"
        frames = list(run.frames())
        steps = [frame.step for frame in frames]
        assert steps == list(range(1, len(steps) + 1))
        assert len(steps) >= committed
        probes = {probe.id: (probe.layer, probe.stage) for probe in run.probes()}
        if steps:
            assert sorted(probes.values()) == sorted(SIZES)
        for frame in frames:
            # Values by channel are measured in some frames, everything else in all.
            assert {probes[i] for i in frame.signals} >= set(SIZES) - set(BY_CHANNEL)
            for number, signal in frame.signals.items():
                assert signal.count == SIZES[probes[number]]
                assert int(signal.histogram.sum()) + signal.under + signal.over == signal.count
                assert (signal.gradient is None) == (probes[number] in BY_CHANNEL)
        # A step's scalars are committed with its frame: neither without the other.
        assert [s.step for s in run.scalars() if s.name == "loss"] == steps
    # Reading it twice gives the same, log replayed or not.
    with Run(path) as run:
        assert len(list(run.frames())) == len(steps)
    return len(steps)
