"""An assertion for test suites: a model has no normalization bug."""

from __future__ import annotations

from typing import Any

from gammabeta.doctor.examine import examine
from gammabeta.doctor.report import Report


def assert_healthy(model: Any, *args: Any, severity: str = "warning", **kwargs: Any) -> Report:
    """Raise an AssertionError with the report if ``model`` has a finding.

    Args:
        model: any module.
        args, kwargs: as for `gammabeta.examine`.
        severity: the mildest severity that fails: ``"info"``, ``"warning"`` or ``"error"``.

    Returns:
        The report.

    Raises:
        AssertionError: there is a finding of this severity or above.

    Example:
        >>> from torch import nn
        >>> assert_healthy(nn.Sequential(nn.Linear(4, 4, bias=False), nn.BatchNorm1d(4))).healthy
        True
    """
    return examine(model, *args, **kwargs).raise_on(severity)
