"""A finished run, and a server of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from gammabeta.signal import Record
from gammabeta.view import Server
from tests.signal.recorded import fill


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run, with something beside it that is nobody's business."""
    folder = tmp_path_factory.mktemp("served")
    (folder / "secret.js").write_text("secret")
    with Record(folder / "run", "A title") as record:
        fill(record, 40)
    return record.path


@pytest.fixture(scope="module")
def site(recorded: Path) -> Iterator[str]:
    with Server(recorded, 0) as running:
        yield running.url
