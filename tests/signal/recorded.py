"""Small records for the tests: summaries with every field set, and a way to read all there is."""

from __future__ import annotations

import math
import sqlite3
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import torch

from gammabeta.signal import Record, Run
from gammabeta.signal.summary import Summary, summarize

STAGES = ("z", "normalized", "affine", "activation")


def summary(seed: int, **changes: Any) -> Summary:
    generator = torch.Generator().manual_seed(seed)
    measured = summarize(40 * torch.randn(200, generator=generator))
    return Summary(
        **{
            **{f.name: getattr(measured, f.name) for f in fields(Summary)},
            "saturated": seed / 7,
            "dead": 0.25,
            "gradient": seed * 1e-30,
            **changes,
        }
    )


def fill(record: Record, steps: int, arms: tuple[str, ...] = ("without", "with")) -> None:
    """``steps`` frames an arm, two layers of four stages each, with the loss and now and then
    the accuracy."""
    for step in range(1, steps + 1):
        for name in arms:
            arm = record.arm(name)
            probes = [
                record.probe(arm, layer, f"layers.{layer}", stage, "tanh")
                for layer in (1, 2)
                for stage in STAGES
            ]
            scalars = {"loss": 1 / step}
            if step % 5 == 0:
                scalars["accuracy"] = step / 100
            signals = {probe: summary(1000 * step + probe) for probe in probes}
            record.write(arm, step, scalars, signals, seconds=step / 4)


def same(a: Summary, b: Summary, rel: float = 1e-6) -> bool:
    """Whether each field is equal, but for the rounding of a file; NaN equals NaN.

    Args:
        a, b: two summaries.
        rel: how far apart two numbers may be, relative to the larger one: a file holds float32,
            whose rounding is 6e-8. Counts and the histogram must be equal.
    """
    for f in fields(Summary):
        x, y = getattr(a, f.name), getattr(b, f.name)
        if isinstance(x, torch.Tensor):
            if x.dtype != y.dtype or not torch.equal(x, y):
                return False
        elif isinstance(x, int) or x is None or y is None:
            if x != y or type(x) is not type(y):
                return False
        elif not (math.isclose(x, y, rel_tol=rel) or (math.isnan(x) and math.isnan(y))):
            return False
    return True


def everything(path: Path) -> tuple[Any, ...]:
    """All that can be asked of a run."""
    with Run(path) as run:
        return (
            run.title,
            run.settings,
            run.status(),
            run.arms(),
            run.probes(),
            run.scalars(),
            list(run.frames()),
        )


def fill_the_disk(monkeypatch: pytest.MonkeyPatch, pages: int) -> None:
    """Let SQLite's files grow to ``pages`` pages and no more: "database or disk is full"."""
    connect = sqlite3.connect

    def limited(*args: Any, **kwargs: Any) -> sqlite3.Connection:
        connection: sqlite3.Connection = connect(*args, **kwargs)
        connection.execute(f"PRAGMA max_page_count={pages}")
        return connection

    monkeypatch.setattr("gammabeta.signal.record.sqlite3.connect", limited)
