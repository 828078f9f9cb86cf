"""The container, read back as its docstring says, one value at a time."""

from __future__ import annotations

import base64
import json
import math
import re
import struct
import zlib
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from gammabeta.signal import Record, RecordError, axis
from gammabeta.signal.columns import Columns
from gammabeta.signal.record import Measured
from gammabeta.view import packing
from gammabeta.view.packing import pack
from gammabeta.view.page import exported_page
from gammabeta.view.runs import Runs
from tests.signal import version_1
from tests.signal.recorded import fill, summary
from tests.view import big_record
from tests.view.shown import column, counts, told


class Container:
    """A container, read by loops over its bytes."""

    def __init__(self, data: bytes) -> None:
        assert data[:8] == b"gammabt3"
        (length,) = struct.unpack_from("<I", data, 8)
        self.index = json.loads(zlib.decompress(data[12 : 12 + length]))
        self.packed = self.index.pop("packed")
        self._blocks = data[12 + length :]
        self.frames = len(self.index["frames"]["step"])
        self.probes = len(self.index["probes"])
        rows = self.block(self.packed["measured"])
        wide = math.ceil(self.probes / 8)
        assert len(rows) == self.frames * wide
        self.signals = [
            (i, p)
            for i in range(self.frames)
            for p in range(self.probes)
            if rows[i * wide + (p >> 3)] >> p % 8 & 1
        ]

    def block(self, where: dict[str, Any]) -> bytes:
        offset, length = where["at"]
        return zlib.decompress(self._blocks[offset : offset + length])

    def column(self, field: str) -> NDArray[Any]:
        table = np.full((self.frames, self.probes), np.nan)
        stored = self.packed["columns"].get(field)
        if stored is None:
            return table
        planes = self.block(stored)
        assert len(planes) == stored["size"] * len(self.signals)
        last: dict[int, int] = defaultdict(int)
        for s, (frame, probe) in enumerate(self.signals):
            z = sum(planes[k * len(self.signals) + s] << 8 * k for k in range(stored["size"]))
            last[probe] += (z >> 1) ^ -(z & 1)
            code = last[probe]
            assert abs(code) < 2**31
            pattern = (0x80000000 if code < 0 else 0) | abs(code) << (23 - stored["bits"])
            (table[frame, probe],) = struct.unpack("<f", struct.pack("<I", pattern))
        return table

    def levels(self) -> NDArray[Any]:
        groups = axis.BINS // self.packed["shapes"]["group"]
        table = np.zeros((self.frames, self.probes, groups), dtype=np.int64)
        covered = []
        for chunk in self.packed["shapes"]["chunks"]:
            data = iter(self.block(chunk))
            span = range(chunk["from"], chunk["to"])
            covered += span
            for probe in range(self.probes):
                frames = [i for i, p in self.signals if p == probe and i in span]
                level: dict[tuple[int, int], int] = {}
                for g in range(groups):
                    for k, frame in enumerate(frames):
                        left = level[g - 1, k] if g else 0
                        guess = (left + level[g, k - 1]) >> 1 if k else left
                        level[g, k] = (next(data) + guess) & 255
                        table[frame, probe, g] = level[g, k]
            assert next(data, None) is None
        assert covered == list(range(self.frames))
        return table

    def channels(self) -> Any:
        return json.loads(self.block(self.packed["channels"]))


def packed(*paths: Path) -> Container:
    return Container(pack(Runs(paths).now()))


def expected_levels(table: NDArray[Any], group: int, most: int) -> NDArray[Any]:
    sums = table.reshape(*table.shape[:2], -1, group).sum(-1)
    largest = np.maximum(sums.max(-1, keepdims=True), 1)
    return np.where(sums > 0, np.maximum(np.rint(most * np.sqrt(sums / largest)), 1), 0)


@pytest.fixture
def recorded(tmp_path: Path) -> Path:
    """2 arms × 6 frames × 8 probes."""
    with Record(tmp_path / "run", "A title", {"lr": 0.1}) as record:
        fill(record, 6)
    return record.path


def assert_near(given: NDArray[Any], expected: NDArray[Any], bits: int) -> None:
    """Compare values whose significand was rounded to ``bits`` bits."""
    # Half a unit of the last bit kept; 1e-44 is some units of the smallest float32.
    np.testing.assert_allclose(given, expected, rtol=2.0 ** -(bits + 1) * 1.0001, atol=1e-36)


def test_the_index(recorded: Path) -> None:
    assert packed(recorded).index == told(recorded)


def test_every_column(recorded: Path) -> None:
    container = packed(recorded)
    assert set(container.packed["columns"]) >= {"count", "mean", "std", "zeros", "saturated"}
    assert "update" not in container.packed["columns"]  # not measured anywhere
    for field, stored in container.packed["columns"].items():
        assert_near(container.column(field), column(recorded, field), stored["bits"])
    assert container.packed["columns"]["mean"]["bits"] == 10  # three digits


def test_shapes(recorded: Path) -> None:
    container = packed(recorded)
    shapes = container.packed["shapes"]
    assert (shapes["group"], shapes["levels"]) == (1, 255)  # a small run loses nothing
    assert container.levels().tolist() == expected_levels(counts(recorded), 1, 255).tolist()


@pytest.mark.parametrize("limit", [12_000, 8_000, 1])
def test_a_tight_container_has_coarser_shapes(
    recorded: Path, monkeypatch: pytest.MonkeyPatch, limit: int
) -> None:
    monkeypatch.setattr(packing, "_LIMIT", limit)
    monkeypatch.setattr(packing, "_CHUNK_SIGNALS", 40)  # several chunks
    container = packed(recorded)
    shapes = container.packed["shapes"]
    group, most = shapes["group"], shapes["levels"]
    assert (group, most) != (1, 255)
    assert ((group, most) == (4, 16)) == (limit == 1)
    assert len(shapes["chunks"]) > 1
    assert container.levels().tolist() == expected_levels(counts(recorded), group, most).tolist()


def test_two_runs(recorded: Path, tmp_path: Path) -> None:
    with Record(tmp_path / "other") as record:
        fill(record, 4, ("model",))
    container = packed(recorded, record.path)
    assert container.probes == 24
    given = container.column("std")
    first = given[~np.isnan(given[:, :16]).all(1)][:, :16]
    assert_near(first, column(recorded, "std"), 10)
    second = given[~np.isnan(given[:, 16:]).all(1)][:, 16:]
    assert_near(second, column(record.path, "std"), 10)


@pytest.mark.parametrize(
    "value",
    [
        *(0.0, -0.0, 1.0, -1.0, 1e-30, -3.3e38, 3.4028234e38, math.inf, -math.inf, math.nan, 1e-45),
        *(2.0**127, 1e39, -1e300, 0.1, 1 / 3, -123456.789),
    ],
)
def test_numbers_of_any_size(tmp_path: Path, value: float) -> None:
    values = [value, 1.0, -value, value, 0.25]
    with Record(tmp_path / "run") as record:
        arm = record.arm("a")
        probe = record.probe(arm, 1, "fc", "z", None)
        for step, each in enumerate(values, 1):
            record.write(arm, step, {}, {probe: summary(1, mean=each)})
    given = packed(record.path).column("mean")[:, 0]
    with np.errstate(over="ignore"):
        expected = np.array(values).astype(np.float32).astype(float)
    largest = float(np.finfo(np.float32).max) * (1 - 2.0**-11)  # the largest code that is finite
    expected = np.where(np.isfinite(expected), np.clip(expected, -largest, largest), expected)
    assert_near(given, expected, 10)


def test_no_signal_at_all(tmp_path: Path) -> None:
    with Record(tmp_path / "empty") as record:
        record.write(record.arm("a"), 1, {"loss": 1.0})
    container = packed(record.path)
    assert (container.frames, container.probes, container.signals) == (0, 0, [])
    assert container.packed["columns"] == {}
    assert container.packed["shapes"]["chunks"] == []
    with Record(tmp_path / "frame") as record:
        record.write(record.arm("a"), 1, {"loss": 1.0}, {})
    assert packed(record.path).frames == 1


def test_a_file_of_version_1(tmp_path: Path) -> None:
    container = packed(version_1.write(tmp_path / "old.sqlite"))
    assert_near(container.column("mean"), np.array([[0.25, np.nan]]), 10)


def test_channels_at_some_steps(tmp_path: Path) -> None:
    """25 frames of γ: what is kept are steps from first to last, each with its values."""
    one = summary(1)
    with Record(tmp_path / "run") as record:
        arm = record.arm("a")
        probe = record.probe(arm, 1, "bn", "gamma", None)
        for step in range(1, 26):
            values = np.array([step, 0.123456 * step, -1 / 3], dtype=np.float32)
            columns = Columns.of({probe: one})
            record.write(arm, step, {}, lambda c=columns, v=values: Measured(c, {probe: v}, {}))
            record.flush()
    found = packed(record.path).channels()
    steps = [each["step"] for each in found]
    assert steps == sorted(set(steps))
    assert len(steps) == 12
    assert steps[-1] == 25
    for each in found:
        expected = [each["step"], 0.123456 * each["step"], -1 / 3]
        assert each["probe"] == 0
        assert each["values"] == pytest.approx(expected, rel=5e-3)  # three digits


def test_it_can_be_given_up(recorded: Path) -> None:
    def stop() -> None:
        raise RecordError("stopped")

    with pytest.raises(RecordError, match="stopped"):
        pack(Runs([recorded]).now(), stop)


def test_a_run_that_goes_on_becomes_a_snapshot(tmp_path: Path) -> None:
    """The file will never hear of more, so it must not wait for it."""
    with Record(tmp_path / "run") as record:
        fill(record, 2)
        record.flush()
        index = packed(record.path).index
        assert (index["status"], index["runs"][0]["status"]) == ("snapshot", "snapshot")


def test_a_residual_network_of_300_frames(tmp_path: Path) -> None:
    """53 layers with their parameters: 494 probes. The page with them has at most 6 MB."""
    stages = (*big_record.LAYER_STAGES, "weight", "gamma", "beta", "mean_shift", "var_ratio")
    path = big_record.record(tmp_path / "run", layers=53, frames=300, stages=stages)
    document = exported_page(Runs([path]).now())
    assert 4e6 < len(document.encode()) <= 6e6
    (text,) = re.findall(r'id="run">([^<]*)<', document)
    data = base64.b64decode(text)
    (length,) = struct.unpack_from("<I", data, 8)
    index = json.loads(zlib.decompress(data[12 : 12 + length]))
    assert (len(index["frames"]["step"]), len(index["probes"])) == (300, 494)
    assert index["packed"]["shapes"]["group"] <= 2  # a group of two cannot be seen
