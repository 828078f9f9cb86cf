"""What all tests share: a needed tool that is missing is a skip at home, a failure in CI."""

from __future__ import annotations

import gc
import os
from collections.abc import Generator

import pytest
import torch

# The tests' tensors are small: a second thread only waits for the first, and on a busy machine, or
# beside a browser, that wait is most of a test's time.
torch.set_num_threads(1)

REQUIRED = set(filter(None, os.environ.get("GAMMABETA_REQUIRE", "").split(",")))
"""Kinds of test (markers) that may not be skipped."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the longest tests first, so that no process is left with one at the end."""
    items.sort(key=lambda item: item.get_closest_marker("sweep") is None)


def pytest_collection_finish() -> None:
    """Set aside what is in memory before the tests: twenty thousand of them, and what they import.

    Else each search for garbage or for referrers, of the doctor's, of a benchmark's or of the
    exporter's, goes through all of it: half a second.
    """
    gc.collect()
    gc.freeze()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    kinds = REQUIRED & {marker.name for marker in item.iter_markers()}
    if report.skipped and kinds:
        report.outcome = "failed"
        report.longrepr = f"skipped, but {', '.join(sorted(kinds))} is required: {report.longrepr}"
    return report
