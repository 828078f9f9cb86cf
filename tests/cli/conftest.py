from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.cli.command import Shell


@pytest.fixture(scope="session")
def shell() -> Iterator[Shell]:
    """A warm command line, see `Shell`."""
    with Shell() as it:
        yield it
