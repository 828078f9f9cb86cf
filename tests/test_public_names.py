"""The public names are a contract: adding one is a decision, renaming one breaks somebody."""

from __future__ import annotations

import subprocess
import sys

import gammabeta

PUBLIC = [
    "TLU",
    "BatchNorm1d",
    "BatchNorm2d",
    "BatchNorm3d",
    "BatchRenorm1d",
    "BatchRenorm2d",
    "BatchRenorm3d",
    "Cadence",
    "DynamicTanh",
    "FilterResponseNorm2d",
    "FrozenBatchNorm1d",
    "FrozenBatchNorm2d",
    "FrozenBatchNorm3d",
    "GhostBatchNorm1d",
    "GhostBatchNorm2d",
    "GhostBatchNorm3d",
    "GroupNorm",
    "InstanceNorm1d",
    "InstanceNorm2d",
    "InstanceNorm3d",
    "LayerNorm",
    "LayerNormLSTM",
    "LazyBatchNorm1d",
    "LazyBatchNorm2d",
    "LazyBatchNorm3d",
    "LazyInstanceNorm1d",
    "LazyInstanceNorm2d",
    "LazyInstanceNorm3d",
    "MaskedBatchNorm1d",
    "NonFiniteBatchError",
    "NonFiniteBatchWarning",
    "RMSNorm",
    "Record",
    "RecordError",
    "RecurrentBatchNormLSTM",
    "Run",
    "Watch",
    "adapt",
    "assert_healthy",
    "calibrate",
    "convert",
    "examine",
    "export",
    "fold",
    "freeze",
    "guard_statistics",
    "intended",
    "merge_statistics",
    "revert",
    "unfreeze",
    "watch",
]


def test_public_names_are_frozen() -> None:
    assert sorted(gammabeta.__all__) == sorted(PUBLIC)
    assert len(set(gammabeta.__all__)) == len(gammabeta.__all__)


def test_every_public_name_is_there_and_documented() -> None:
    for name in PUBLIC:
        assert getattr(gammabeta, name).__doc__, name


def test_importing_it_loads_torch_and_numpy_alone() -> None:
    """What the command line and the page need is loaded when they are used."""
    code = """
import sys, torch, numpy
before = set(sys.modules)
import gammabeta
print(*sorted({name.split(".")[0] for name in set(sys.modules) - before}))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split()) - set(sys.stdlib_module_names)
    assert loaded - {"torch", "numpy"} == {"gammabeta"}  # more of their own parts is no burden
