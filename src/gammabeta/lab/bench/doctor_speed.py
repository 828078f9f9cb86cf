"""How long the doctor takes to read a model of a thousand modules."""

from __future__ import annotations

import time

from torch import Tensor, nn

import gammabeta
from gammabeta.lab.bench.doctor_case import SPEED, Case
from gammabeta.lab.bench.doctor_tools import OURS, quiet

MODULES = 1000
"""Modules of the model."""
SECONDS = 1.0
"""Most seconds that the rules that only read a model may take for it."""

NAME = f"read {MODULES:,} modules"

_ROUNDS = 3


class Residual(nn.Module):
    """Three convolutions with batch norm and ReLU, and a skip: 10 modules."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            *(nn.Conv2d(width, width, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU()),
            *(nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()),
            *(nn.Conv2d(width, width, 1), nn.GroupNorm(2, width)),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's output."""
        y: Tensor = x + self.body(x)
        return y


def large(modules: int = MODULES) -> nn.Module:
    """Return a residual network with at least this many modules.

    Example:
        >>> len(list(large(100).modules())) >= 100
        True
    """
    return nn.Sequential(*(Residual(8) for _ in range(-(-modules // 10))))


def measure_speed() -> Case:
    """Time the static rules, in seconds of processor time: the median of a few rounds."""
    taken, alarms = [], 0
    for _ in range(_ROUNDS):
        model = large()
        began = time.process_time()
        with quiet():
            report = gammabeta.examine(model, progress=False)
        taken.append(time.process_time() - began)
        alarms = len(report.at_least("warning"))
    case = Case(SPEED, NAME, OURS, alarms=alarms, seconds=sorted(taken)[_ROUNDS // 2])
    case.note = f"{len(report.checked)} rules"
    return case
