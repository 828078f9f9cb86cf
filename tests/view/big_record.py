"""Record a large run without training: a residual network's signal, made from a formula.

    python -m tests.view.big_record OUT.sqlite --layers 53 --frames 300

A layer has the stages z, x̂, γx̂ + β and activation, and every third layer ends a residual block.
``--stages`` leaves stages out or adds those of parameters (weight, gamma, beta, mean_shift,
var_ratio); ``--fault`` plants one fault in the middle layer of the first arm.
"""

from __future__ import annotations

import argparse
import functools
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from gammabeta.signal import Record, Run, axis
from gammabeta.signal.columns import Columns
from gammabeta.signal.record import Measured
from gammabeta.signal.stages import LAYER_STAGES, PER_CHANNEL

FAULTS = ("none", "scale", "dead", "vanish", "nan")
SAMPLE = 8192
CHANNELS = 256

_EDGES = np.asarray(axis.edges())
_HALF = axis.BINS // 2


@dataclass(frozen=True)
class Place:
    """A probe to be: row, name, stage, and the mean and spread of its values."""

    layer: int
    name: str
    stage: str
    mean: float
    std: float
    depth: float


def places(
    layers: int, stages: Sequence[str] = LAYER_STAGES, residual: bool = True
) -> Iterator[Place]:
    """Yield the probes of a network, in call order."""
    row = 0
    for i in range(layers):
        row += 1
        block, part = divmod(i, 3)
        group = f"layer{1 + min(3, 4 * i // max(layers, 1))}"
        name = f"{group}.{block}.conv{part + 1}"
        for stage in stages:
            mean, std = 0.3 * math.sin(i), 1.0
            if stage == "z":
                mean, std = 3 * mean, 0.4 + (i % 7) * 0.3
            elif stage == "weight":
                mean, std = 0.0, 0.02 + 0.01 * (i % 5)
            elif stage in PER_CHANNEL:
                mean, std = (1.0 if stage == "gamma" else 0.0), 0.1
            yield Place(row, name, stage, mean, std, i / max(layers, 1))
        if residual and part == 2:
            row += 1
            yield Place(row, f"{group}.{block}", "residual", 0.2, 1 + 0.15 * block, i / layers)


class Network:
    """The numbers of one arm, frame by frame.

    Args:
        where: its probes.
        ids: their ids.
        noise: where sampling noise comes from.
        fault: one of `FAULTS`.
    """

    def __init__(
        self,
        where: Sequence[Place],
        ids: Sequence[int],
        noise: np.random.Generator,
        fault: str = "none",
    ) -> None:
        self.where, self.noise, self.fault = where, noise, fault
        self.ids = np.array(ids, dtype=np.int32)
        self.mean = np.array([p.mean for p in where])
        self.std = np.array([p.std for p in where])
        self.depth = np.array([p.depth for p in where])
        self.stage = np.array([p.stage for p in where])
        row = np.array([p.layer for p in where])
        self.at_fault = row == where[len(where) // 2].layer
        self.below = row < where[len(where) // 2].layer
        self.relu = np.isin(self.stage, ("activation", "residual"))
        self.parameter = np.isin(self.stage, ("weight", *PER_CHANNEL))

    def measured(self, progress: float) -> Measured:
        """Return a frame; ``progress`` is 0 at the first and 1 at the last."""
        noise, relu, count = self.noise, self.relu, len(self.where)
        std = self.std * (1 + 0.5 * progress)
        mean = self.mean * (1 - 0.5 * progress)
        if self.fault == "scale":
            std[self.at_fault] *= 30
        if self.fault == "dead":
            mean[self.at_fault & relu] = -6 * std[self.at_fault & relu]
        at = torch.from_numpy((_EDGES - mean[:, None]) / std[:, None])
        cumulative = torch.special.ndtr(at).numpy()
        counts = noise.poisson(np.diff(cumulative) * SAMPLE)
        under = noise.poisson(cumulative[:, 0] * SAMPLE)
        over = noise.poisson((1 - cumulative[:, -1]) * SAMPLE)
        zeros = np.where(relu, counts[:, :_HALF].sum(1) + under, 0)
        counts[relu, :_HALF] = 0
        counts[relu, _HALF] += zeros[relu]
        under[relu] = 0
        gradient = 1e-2 * (1 + self.depth) * noise.lognormal(0, 0.1, count)
        if self.fault == "vanish":
            gradient[self.below] *= 1e-7
        broken = self.at_fault & (self.fault == "nan" and progress > 0.5)
        wobble = 1 + noise.normal(0, 0.01, (7, count))
        low = np.where(relu, 0.0, mean - 3.8 * std)
        weight = self.stage == "weight"
        values: dict[str, Any] = {
            "count": np.full(count, 802_816, dtype=np.int64),
            "sampled": np.full(count, float(SAMPLE)),
            "mean": mean + std * noise.normal(0, 0.01, count),
            "stderr": std / math.sqrt(SAMPLE),
            "std": std * wobble[1],
            "p15": np.maximum(low, mean - 1.036 * std * wobble[2]),
            "p50": np.maximum(low, mean + 0.01 * std * wobble[3]),
            "p85": np.maximum(low, mean + 1.036 * std * wobble[4]),
            "minimum": low * wobble[5],
            "maximum": np.maximum(low, mean + 3.8 * std * wobble[6]),
            "under": under,
            "over": over,
            "nonfinite": np.where(broken, 3, 0),
            "zeros": zeros,
            "saturated": np.where(relu, zeros / SAMPLE, np.nan),
            "dead": np.where(relu, self.at_fault & (self.fault == "dead"), np.nan),
            "gradient": gradient,
            "norm": np.where(self.parameter, std * 100, np.nan),
            "update": np.where(weight, 1e-3 * noise.lognormal(0, 0.1, count), np.nan),
        }
        channels = {
            int(self.ids[i]): (mean[i] + std[i] * noise.normal(size=CHANNELS)).astype(np.float32)
            for i in np.flatnonzero(np.isin(self.stage, PER_CHANNEL))
        }
        return Measured(Columns(self.ids, values, _as_counts(counts)), channels, {})


def _as_counts(counts: NDArray[Any]) -> NDArray[Any]:
    return counts.astype(np.int64)


def record(
    path: Path,
    layers: int = 53,
    frames: int = 300,
    arms: Sequence[str] = ("model",),
    stages: Sequence[str] = LAYER_STAGES,
    residual: bool = True,
    fault: str = "none",
    seed: int = 0,
    every: int = 1,
) -> Path:
    """Record a run and return the path of its file.

    Args:
        path: the file to create.
        layers: number of layers.
        frames: number of frames of each arm.
        arms: names of the arms.
        stages: the stages of each layer.
        residual: whether every third layer is followed by a residual sum.
        fault: one of `FAULTS`, planted in the first arm.
        seed: of the noise.
        every: number of steps from one frame to the next.
    """
    where = list(places(layers, stages, residual))
    noise = np.random.default_rng(seed)
    settings = {"layers": layers, "frames": frames, "note": "Made from a formula."}
    with Record(path, f"{layers} layers × {frames} frames", settings) as made:
        networks = {}
        for arm in map(made.arm, arms):
            ids = [
                made.probe(arm, p.layer, p.name, p.stage, None if p.stage == "residual" else "relu")
                for p in where
            ]
            networks[arm] = Network(where, ids, noise, fault if arm == 0 else "none")
        for i in range(frames):
            progress = i / max(frames - 1, 1)
            for arm, network in networks.items():
                scalars = {
                    "loss": 2.3 * math.exp(-3 * progress) * noise.lognormal(0, 0.05),
                    "lr": 0.1 * (0.5 + 0.5 * math.cos(math.pi * progress)),
                }
                frame = functools.partial(Network.measured, network, progress)
                made.write(arm, (i + 1) * every, scalars, frame, seconds=float(i))
                made.flush()  # the frames are made by the writing thread, one at a time
    with Run(made.path) as run:
        if len(run.index()) != frames * len(arms):
            raise RuntimeError(f"{made.path} lacks frames: {made.error or made.lost}")
    return made.path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--layers", type=int, default=53)
    parser.add_argument("--frames", type=int, default=300)
    parser.add_argument("--arms", default="model", help="names, separated by commas")
    parser.add_argument("--stages", default=",".join(LAYER_STAGES), help="separated by commas")
    parser.add_argument("--no-residual", dest="residual", action="store_false")
    parser.add_argument("--fault", choices=FAULTS, default="none")
    parser.add_argument("--every", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    given = vars(parser.parse_args())
    began = time.perf_counter()
    lists = {name: given.pop(name).split(",") for name in ("arms", "stages")}
    path = record(given.pop("out"), **lists, **given)
    print(f"{path}  {path.stat().st_size / 1e6:.1f} MB  {time.perf_counter() - began:.1f} s")


if __name__ == "__main__":
    main()
