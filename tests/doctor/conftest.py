"""Set aside what is in memory before the tests: the doctor searches it for copies of a model."""

from __future__ import annotations

import gc

import pytest


@pytest.fixture(scope="package", autouse=True)
def _small_heap() -> None:
    """Also what was imported since the tests were collected."""
    gc.collect()
    gc.freeze()
