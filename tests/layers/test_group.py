"""Group norm's own: its two limits, and the channels it refuses."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

import gammabeta as gb


def test_one_group_is_layer_norm_over_channels_and_positions() -> None:
    x = 3 + 2 * torch.randn(4, 6, 5, generator=torch.Generator().manual_seed(0))
    expected = F.layer_norm(x.double(), (6, 5))
    # float32 against float64; |x̂| <= ~4.
    torch.testing.assert_close(gb.GroupNorm(1, 6)(x).double(), expected, rtol=2e-6, atol=5e-6)


def test_as_many_groups_as_channels_is_instance_norm() -> None:
    x = 3 + 2 * torch.randn(4, 6, 5, generator=torch.Generator().manual_seed(0))
    expected = F.instance_norm(x.double())
    torch.testing.assert_close(gb.GroupNorm(6, 6)(x).double(), expected, rtol=2e-6, atol=5e-6)


def test_channels_must_be_a_multiple_of_groups() -> None:
    with pytest.raises(ValueError, match=r"num_channels \(6\) must be divisible by num_groups"):
        gb.GroupNorm(4, 6)


def test_wrong_number_of_channels_is_torchs_error() -> None:
    with pytest.raises(RuntimeError, match="Expected weight"):
        gb.GroupNorm(2, 6)(torch.zeros(3, 4, 2))
