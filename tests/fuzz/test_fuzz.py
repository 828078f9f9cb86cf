"""Some seconds of the fuzzer, or most of a minute in the sweep; and the faults it has to find.

The seed was run to 10,000 calls.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import gammabeta as gb
from gammabeta.ops.cpu import library
from tests.fuzz.comparison import Wrong, compare

ROOT = Path(__file__).parents[2]


@pytest.mark.timeout(200)
@pytest.mark.parametrize(
    ("what", "seconds"),
    [
        pytest.param("layers", 8, marks=pytest.mark.brief),
        pytest.param("commands", 6, marks=pytest.mark.brief),
        pytest.param("layers", 28, marks=pytest.mark.sweep),
        pytest.param("commands", 14, marks=pytest.mark.sweep),
    ],
)
def test_random_calls(what: str, seconds: int) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.fuzz", what, "--seed", "0", "--seconds", str(seconds)],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    names = library.available() if what == "layers" else ["commands"]
    assert all(f"{name}: " in done.stdout for name in names), done.stdout
    assert ": 0 " not in done.stdout, "no call in that time"


class Off(gb.BatchNorm1d):
    """A layer with a fault."""

    fault = ""

    def forward(self, input: torch.Tensor, residual: torch.Tensor | None = None) -> torch.Tensor:
        if self.fault == "internal":
            raise KeyError("x")
        if self.fault == "error":
            raise ValueError("no")
        y = super().forward(input, residual)
        if self.fault == "value":
            y = y * (1 + 1e-4)
        if self.fault == "buffer":
            with torch.no_grad():
                self.running_mean.data.add_(1e-3)
        if self.fault == "dtype":
            y = y.double()
        if self.fault == "nan":
            y = y + torch.tensor([[float("nan")]] + [[0.0]] * 7)
        return y


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("internal", "internal error KeyError"),
        ("error", "torch has a value, ours ValueError"),
        ("value", "output: off by"),
        ("buffer", "running_mean: off by"),
        ("dtype", "output: torch.float64"),
        ("nan", "output: 3 values are not finite"),
        ("", ""),
    ],
)
def test_a_fault_is_found(fault: str, said: str) -> None:
    ours, torchs = Off(3), nn.BatchNorm1d(3)
    ours.fault = fault
    x = torch.randn(8, 3)
    if not fault:
        compare(ours, torchs, x, None, grad=True)
        return
    with pytest.raises(Wrong, match=said):
        compare(ours, torchs, x, None, grad=True)


def test_a_value_where_torch_has_an_error_is_found() -> None:
    class Accepts(gb.BatchNorm1d):
        def forward(self, input: torch.Tensor, residual: object = None) -> torch.Tensor:
            return input

    with pytest.raises(Wrong, match="torch raises ValueError"):
        compare(Accepts(3), nn.BatchNorm1d(3), torch.randn(1, 3), None, grad=False)
    with pytest.raises(Wrong, match="no error"):
        compare(Accepts(3), nn.BatchNorm1d(3), torch.randn(8, 3), None, grad=False, sane=False)
