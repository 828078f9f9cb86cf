"""A small network that is trained and watched, and what its record holds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import gammabeta as gb
from gammabeta.signal import Run, Watch
from gammabeta.signal.run import Frame, Scalar
from gammabeta.signal.schema import Summary
from gammabeta.signal.stages import LAYER_STAGES, PER_CHANNEL
from gammabeta.signal.summary import summarize


def watch(model: Any, record: Any, **options: Any) -> Watch:
    """Watch with each step as a frame, unless a test chooses the frames."""
    if not {"every", "cadence", "budget"} & set(options):
        options["every"] = 1
    return gb.watch(model, record, **options)


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def network(seed: int = 0) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(
            *(nn.Linear(5, 7), nn.BatchNorm1d(7), nn.ReLU(inplace=True), nn.Dropout(0.25)),
            *(nn.Linear(7, 6), gb.BatchNorm1d(6, activation="tanh")),
            nn.Linear(6, 3),
        )


def train(model: nn.Module, signal: Watch | None = None, steps: int = 3) -> list[float]:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    losses = []
    for step in range(steps):
        loss = model(drawn(16, 5, seed=step)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        if signal is not None:
            signal.step(loss=loss)
    return losses


PLACES = {
    *((row, stage) for row in ("0", "4") for stage in LAYER_STAGES),
    ("6", "z"),
    *((row, "weight") for row in ("0", "4", "6")),
    *((row, stage) for row in ("0", "4") for stage in PER_CHANNEL),
}
"""What is measured of `network`: names of rows, and stages."""


def hooks(model: nn.Module) -> list[int]:
    """How many hooks of any kind each module has."""
    return [
        sum(len(v) for k, v in vars(module).items() if "hooks" in k and isinstance(v, dict))
        for module in model.modules()
    ]


def frames_of(path: Path) -> list[Frame]:
    with Run(path.with_suffix(".sqlite")) as run:
        return list(run.frames())


def scalars_of(path: Path) -> list[Scalar]:
    with Run(path.with_suffix(".sqlite")) as run:
        return run.scalars()


def alike(summary: Summary, x: Tensor) -> None:
    """Whether ``summary`` is of ``x``, as far as a file keeps digits."""
    expected = summarize(x)
    assert summary.mean == pytest.approx(expected.mean, rel=1e-6, abs=1e-8)
    assert summary.std == pytest.approx(expected.std, rel=1e-6)
    assert torch.equal(summary.histogram, expected.histogram)


def places(path: Path) -> set[tuple[int, str, str]]:
    """Rows and stages of layers; not their parameters."""
    with Run(path.with_suffix(".sqlite")) as run:
        return {(p.layer, p.name, p.stage) for p in run.probes() if p.stage in LAYER_STAGES}


def measured(path: Path) -> list[dict[tuple[str, str], Summary]]:
    """What each frame holds: (row, stage) → summary."""
    with Run(path.with_suffix(".sqlite")) as run:
        probes = {p.id: (p.name, p.stage) for p in run.probes()}
        return [{probes[i]: s for i, s in frame.signals.items()} for frame in run.frames()]
