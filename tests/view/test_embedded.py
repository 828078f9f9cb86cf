"""The page's own reader of the container, run in Node, against the store it was packed from."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

import gammabeta.view
from gammabeta.signal import Record
from gammabeta.view import packing
from gammabeta.view.runs import Runs
from tests.signal.recorded import fill

READER = Path(gammabeta.view.__file__).parent / "static/embedded.js"
SCRIPT = """
import {{ Embedded }} from {reader};
import fs from "node:fs";
const run = new Embedded(fs.readFileSync("container", "utf8"));
const index = await run.index();
fs.writeFileSync("index.json", JSON.stringify(index.frames));
for (const field of {fields})
  fs.writeFileSync(field, Buffer.from((await run.column(field, {first})).values.buffer));
fs.writeFileSync("shapes", Buffer.from(await run.shapes({frames}, {probes})));
"""


@pytest.mark.types
@pytest.mark.parametrize("limit", [4_000_000, 1])
def test_the_page_reads_what_was_packed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: int
) -> None:
    if shutil.which("node") is None:
        pytest.skip("Node is not installed")
    monkeypatch.setattr(packing, "_LIMIT", limit)
    monkeypatch.setattr(packing, "_CHUNK_SIGNALS", 40)  # several chunks
    with Record(tmp_path / "run") as record:
        fill(record, 7)
    shown = Runs([record.path]).now()
    size = shown.size
    fields = ["mean", "std", "rms", "gradient", "zeros", "saturated", "update"]
    frames, probes = [0, 5, 6, 13], [0, 3, 8, 15]
    (tmp_path / "container").write_text(base64.b64encode(packing.pack(shown)).decode())
    script = SCRIPT.format(
        reader=json.dumps(READER.as_uri()), fields=fields, first=2, frames=frames, probes=probes
    )
    (tmp_path / "read.mjs").write_text(script)
    subprocess.run(["node", "read.mjs"], cwd=tmp_path, check=True, timeout=60)
    assert json.loads((tmp_path / "index.json").read_text())["step"] == shown.index.step
    for field in fields:
        given = np.frombuffer((tmp_path / field).read_bytes(), "<f4").reshape(12, size.probes)
        data = b"".join(shown.store.column(field, 2, size.frames, size.probes))
        expected = np.frombuffer(data, "<f4").reshape(12, size.probes)
        # Ten bits: half a unit of the last. rms is made of two such numbers.
        np.testing.assert_allclose(given, expected, rtol=2.0**-11 * 1.001, err_msg=field)
    shapes = np.frombuffer((tmp_path / "shapes").read_bytes(), "u1").reshape(4, 4, 256)
    data = b"".join(shown.store.shapes(frames, probes))
    expected = np.frombuffer(data, "u1").reshape(4, 4, 256)
    if limit > 1:
        np.testing.assert_allclose(shapes.astype(int), expected.astype(int), atol=1)
    else:  # 16 levels for four bins
        pooled = shapes.reshape(4, 4, 64, 4)
        assert (pooled == pooled[..., :1]).all()
        assert ((pooled[..., 0] > 0) == (expected.reshape(4, 4, 64, 4) > 0).any(-1)).all()
