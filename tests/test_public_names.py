"""The public names are a contract: adding one is a decision, renaming one breaks somebody."""

from __future__ import annotations

import gammabeta

PUBLIC = [
    "BatchNorm1d",
    "BatchNorm2d",
    "BatchNorm3d",
    "Cadence",
    "GroupNorm",
    "LayerNorm",
    "RMSNorm",
    "Record",
    "RecordError",
    "Run",
    "Watch",
    "export",
    "watch",
]


def test_public_names_are_frozen() -> None:
    assert sorted(gammabeta.__all__) == sorted(PUBLIC)
    assert len(set(gammabeta.__all__)) == len(gammabeta.__all__)


def test_every_public_name_is_there_and_documented() -> None:
    for name in PUBLIC:
        assert getattr(gammabeta, name).__doc__, name
