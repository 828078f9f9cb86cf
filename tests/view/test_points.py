"""Curves of millions of points: all of them kept, and some of them shown."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from gammabeta.signal import Record
from gammabeta.view import payload, reading
from gammabeta.view.points import Points, thinned
from tests.view.shown import told


def test_points_by_curve() -> None:
    points = Points()
    rows = [(i * 7 % 3, i, i / 8) for i in range(50)]
    for start in range(0, 50, 7):
        points.add(*zip(*rows[start : start + 7], strict=True))
    assert len(points) == 50
    assert list(zip(*points.rows(10, 20), strict=True)) == rows[10:20]
    for first, last in ((0, 50), (3, 17), (49, 50), (20, 20)):
        given = {
            curve: list(zip(steps.tolist(), values.tolist(), strict=True))
            for curve, (steps, values) in points.curves(first, last).items()
        }
        part = rows[first:last]
        assert given == {c: [row[1:] for row in part if row[0] == c] for c, _, _ in part}
        assert list(given) == sorted(given)


def test_a_short_curve_is_whole() -> None:
    steps, values = thinned((np.arange(100), np.arange(100.0)), 100)
    assert steps.tolist() == values.tolist() == list(range(100))


@pytest.mark.parametrize("count", [1001, 4999, 12_345, 100_000])
def test_a_long_curve_keeps_its_outline(count: int) -> None:
    noise = np.random.default_rng(0)
    values = noise.normal(size=count).cumsum()
    peaks = noise.choice(count, 5, replace=False)
    values[peaks] = [1e6, -1e6, np.nan, np.inf, -np.inf]
    steps, kept = thinned((np.arange(count) * 3, values), 1000)
    assert 200 < len(steps) <= 1005
    assert (np.diff(steps) > 0).all()
    np.testing.assert_array_equal(kept, values[steps // 3])
    assert {0, 3 * (count - 1)} <= set(steps.tolist())
    assert set((3 * peaks).tolist()) <= set(steps.tolist())
    # Near each point there are one that is as large and one that is as small.
    near = 3 * math.ceil(5 * count / 1000)
    for i in [*range(0, count, 37), *peaks[:2]]:
        shown = kept[(np.abs(steps - 3 * i) < near) & np.isfinite(kept)]
        assert not math.isfinite(values[i]) or shown.min() <= values[i] <= shown.max()


def test_a_run_of_many_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "_SCALARS", 64)
    monkeypatch.setattr(payload, "_MOST_POINTS", 100)
    with Record(tmp_path / "run") as record:
        arm = record.arm("a")
        for step in range(1, 1000):
            record.write(arm, step, {"loss": math.sin(step), "lr": 0.1} if step % 3 else {})
    curves = {each["name"]: each for each in told(record.path)["scalars"]}
    assert list(curves) == ["loss", "lr"]
    assert 50 < len(curves["loss"]["steps"]) <= 105
    assert curves["loss"]["steps"][0] == 1
    assert curves["loss"]["steps"][-1] == 998
    for step, value in zip(*(curves["loss"][key] for key in ("steps", "values")), strict=True):
        assert value == pytest.approx(math.sin(step), rel=1e-6)
