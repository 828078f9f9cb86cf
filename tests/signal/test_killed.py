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
            stages = ("z", "normalized", "affine", "activation")
            assert sorted(probes.values()) == sorted((n, s) for n in (1, 2) for s in stages)
        for frame in frames:
            assert set(frame.signals) == set(probes)
            for signal in frame.signals.values():
                assert signal.count == 16 * 8
                assert int(signal.histogram.sum()) == 16 * 8
                assert signal.gradient is not None
        # A step's scalars are committed with its frame: neither without the other.
        assert [s.step for s in run.scalars() if s.name == "loss"] == steps
    # Reading it twice gives the same, log replayed or not.
    with Run(path) as run:
        assert len(list(run.frames())) == len(steps)
    return len(steps)
