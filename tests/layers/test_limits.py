"""Where two layers of the family are one and the same."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import gammabeta as gb

# Float64 against float64: some hundred values a sum, 1e-14 relative to values of order 1.
EXACT = {"rtol": 1e-12, "atol": 1e-12}


@pytest.fixture(params=[(4, 6, 5), (4, 6, 3, 4), (2, 6, 2, 3, 4)], ids=str)
def x(request: pytest.FixtureRequest) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return 3 + 2 * torch.randn(request.param, generator=generator, dtype=torch.float64)


def test_group_norm_of_one_group_is_layer_norm_over_channels_and_space(x):
    layer = gb.LayerNorm(x.shape[1:], dtype=torch.float64)
    torch.testing.assert_close(gb.GroupNorm(1, 6, dtype=torch.float64)(x), layer(x), **EXACT)


def test_group_norm_of_one_channel_each_is_instance_norm(x):
    norm = {3: gb.InstanceNorm1d, 4: gb.InstanceNorm2d, 5: gb.InstanceNorm3d}[x.dim()]
    torch.testing.assert_close(gb.GroupNorm(6, 6, dtype=torch.float64)(x), norm(6)(x), **EXACT)


def test_ghost_batch_norm_of_one_example_each_is_instance_norm(x):
    norm = {3: gb.GhostBatchNorm1d, 4: gb.GhostBatchNorm2d, 5: gb.GhostBatchNorm3d}[x.dim()]
    layer = norm(6, virtual_batch_size=1, dtype=torch.float64)
    torch.testing.assert_close(layer(x), gb.GroupNorm(6, 6, dtype=torch.float64)(x), **EXACT)


def test_batch_norm_of_one_example_is_instance_norm(x):
    norm = {3: gb.BatchNorm1d, 4: gb.BatchNorm2d, 5: gb.BatchNorm3d}[x.dim()]
    layer = norm(6, dtype=torch.float64)
    expected = gb.GroupNorm(6, 6, dtype=torch.float64)(x[:1])
    torch.testing.assert_close(layer(x[:1]), expected, **EXACT)


def test_filter_response_norm_is_rms_norm_over_positions(x):
    maps = x.reshape(*x.shape[:2], -1, 1)
    layer = gb.FilterResponseNorm2d(6, dtype=torch.float64)
    rms = gb.RMSNorm(maps.shape[2:], eps=layer.eps, dtype=torch.float64)
    torch.testing.assert_close(layer(maps), rms(maps), **EXACT)


def test_filter_response_norm_of_centred_maps_is_instance_norm(x):
    maps = x.reshape(*x.shape[:2], -1, 1)
    maps = maps - maps.mean((2, 3), keepdim=True)  # then ν² is the variance
    layer = gb.FilterResponseNorm2d(6, eps=1e-5, dtype=torch.float64)
    torch.testing.assert_close(layer(maps), gb.InstanceNorm2d(6)(maps), **EXACT)


def test_a_frozen_norm_of_the_batchs_own_statistics_is_batch_norm(x):
    norm = {3: gb.BatchNorm1d, 4: gb.BatchNorm2d, 5: gb.BatchNorm3d}[x.dim()]
    cls = {3: gb.FrozenBatchNorm1d, 4: gb.FrozenBatchNorm2d, 5: gb.FrozenBatchNorm3d}[x.dim()]
    frozen = cls(6, dtype=torch.float64)
    dims = (0, *range(2, x.dim()))
    frozen.running_mean.copy_(x.mean(dims))
    frozen.running_var.copy_(x.var(dims, correction=0))
    torch.testing.assert_close(frozen(x), norm(6, dtype=torch.float64)(x), **EXACT)
