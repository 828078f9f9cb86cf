"""What a watch takes that adds up over a long run: memory and disk."""

from __future__ import annotations

import math
import os
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from torch import nn

from gammabeta.lab.bench.results import Row, Setting
from gammabeta.lab.bench.rivals import Absent
from gammabeta.lab.bench.watch_loop import Loop
from gammabeta.lab.bench.watch_nets import Network
from gammabeta.lab.bench.watch_rows import network_row
from gammabeta.signal import Cadence, Run, watch


def measure_memory(setting: Setting, *, frames: int, samples: int = 100) -> list[Row]:
    """Return the growth of this process's memory a frame, over ``frames`` frames of a small model.

    The growth is the slope of a line through the samples after the first fifth.
    """
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 4))
    x = torch.randn(64, 16)
    network = Network("four small layers", model, lambda net: net(x).square().mean(), "64x16")
    loop = Loop(network)
    at, held = [], []
    with TemporaryDirectory() as made, watch(loop.model, Path(made) / "run", every=1) as signal:
        loop.signal = signal
        every = max(1, frames // samples)
        for frame in range(1, frames + 1):
            loop()
            if frame % every == 0:
                loop.write()
                at.append(frame)
                held.append(resident_bytes())
    late = slice(len(at) // 5, None)
    slope = float(np.polyfit(at[late], held[late], 1)[0]) if len(at) >= 3 else math.nan
    note = f"{frames} frames; {held[0] / 2**20:.1f} MiB at first, {held[-1] / 2**20:.1f} at last"
    return [
        network_row(
            setting, network, "memory", "watched", np.array([slope]), note, unit="bytes/frame"
        )
    ]


def measure_disk(setting: Setting, *, frames: int, layers: int = 250) -> list[Row]:
    """Return the size of a record of some 1,000 probes, scaled to 1,000 probes and 1,000 frames.

    The model is a chain of linear, layer norm and ReLU on 64 × 128 values, four stages a layer.
    """
    torch.manual_seed(0)
    blocks = [
        nn.Sequential(nn.Linear(128, 128), nn.LayerNorm(128), nn.ReLU()) for _ in range(layers)
    ]
    model = nn.Sequential(*blocks)
    x = torch.randn(64, 128)
    network = Network(f"{layers} layers", model, lambda net: net(x).square().mean(), "64x128")
    loop = Loop(network, lr=0.1)  # the histograms must change from frame to frame
    with TemporaryDirectory() as made:
        path = Path(made) / "run.sqlite"
        stages = ("z", "normalized", "affine", "activation")
        cadence = Cadence(early=frames)  # as `every=1`, with samples of the largest size
        with watch(loop.model, path, cadence=cadence, stages=stages) as signal:
            loop.signal = signal
            for _ in range(frames):
                loop()
        with Run(path) as run:
            probes = len(run.probes())
            frames = sum(1 for _ in run.frames())
        size = path.stat().st_size
    note = f"{size / 1e6:.1f} MB for {probes} probes × {frames} frames"
    scaled = np.array([size / max(1, probes * frames) * 1e6])
    return [network_row(setting, network, "record", "watched", scaled, note, unit="bytes")]


def resident_bytes() -> int:
    """Return how much of this process is in RAM.

    Raises:
        Absent: the system has no ``/proc``.

    Example:
        >>> resident_bytes() > 2**20
        True
    """
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    except OSError as e:
        raise Absent("this system has no /proc/self/statm") from e
    return pages * os.sysconf("SC_PAGE_SIZE")
