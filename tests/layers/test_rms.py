"""RMS norm's own: no mean is taken, scale falls out, and which eps None stands for."""

from __future__ import annotations

import pytest
import torch

import gammabeta as gb


def test_no_mean_is_taken() -> None:
    layer = gb.RMSNorm(4, eps=0.0)
    x = torch.tensor([[3.0, 3.0, 3.0, 3.0]])
    assert layer(x).tolist() == [[1.0, 1.0, 1.0, 1.0]]  # layer norm would give zeros
    assert layer(-x).tolist() == [[-1.0, -1.0, -1.0, -1.0]]


def test_scale_falls_out() -> None:
    layer, x = gb.RMSNorm(8, eps=0.0), torch.randn(3, 8)
    # A power of two scales exactly in floating point.
    assert torch.equal(layer(1024 * x), layer(x))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_eps_none_is_the_machine_epsilon(dtype: torch.dtype) -> None:
    eps = torch.finfo(dtype).eps
    x = torch.full((1, 4), eps**0.5, dtype=dtype)  # mean(x²) = eps, so y = 1/√2
    layer = gb.RMSNorm(4, dtype=dtype)
    expected = torch.full((1, 4), 0.5**0.5, dtype=dtype)
    torch.testing.assert_close(layer(x), expected, rtol=8 * eps, atol=0)


def test_eps_none_of_a_half_is_that_of_float32() -> None:
    eps = torch.finfo(torch.float32).eps  # 2⁻²³: √eps is no bfloat16, so take mean(x²) = 2eps
    x = torch.full((1, 4), (2 * eps) ** 0.5, dtype=torch.bfloat16)
    y = gb.RMSNorm(4, dtype=torch.bfloat16)(x)
    torch.testing.assert_close(y.float(), torch.full((1, 4), (2 / 3) ** 0.5), rtol=2**-8, atol=0)
