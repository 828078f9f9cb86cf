from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from gammabeta.signal import Record
from tests.cli.command import Shell
from tests.signal.recorded import fill


@pytest.fixture(scope="session")
def shell() -> Iterator[Shell]:
    """A warm command line, see `Shell`."""
    with Shell() as it:
        yield it


@pytest.fixture
def crowded(tmp_path: Path) -> Path:
    """A folder with a run, a page without its run, a file and a folder."""
    with Record(tmp_path / "taken") as record:
        fill(record, 1)
    (tmp_path / "page.html").write_text("mine")
    (tmp_path / "file").write_text("mine")
    (tmp_path / "folder.sqlite").mkdir()
    (tmp_path / "gone.sqlite").symlink_to("nowhere")
    os.mkfifo(tmp_path / "pipe")
    return tmp_path
