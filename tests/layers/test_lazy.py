"""Lazy layers become ours, from the first call on."""

import pytest
import torch
from torch import nn
from torch.testing import assert_close

import gammabeta as gb

LAZY = [
    (gb.LazyBatchNorm1d, nn.LazyBatchNorm1d, gb.BatchNorm1d, (6, 4)),
    (gb.LazyBatchNorm2d, nn.LazyBatchNorm2d, gb.BatchNorm2d, (3, 4, 5, 6)),
    (gb.LazyBatchNorm3d, nn.LazyBatchNorm3d, gb.BatchNorm3d, (3, 4, 2, 3, 4)),
    (gb.LazyInstanceNorm1d, nn.LazyInstanceNorm1d, gb.InstanceNorm1d, (3, 4, 6)),
    (gb.LazyInstanceNorm2d, nn.LazyInstanceNorm2d, gb.InstanceNorm2d, (3, 4, 5, 6)),
    (gb.LazyInstanceNorm3d, nn.LazyInstanceNorm3d, gb.InstanceNorm3d, (3, 4, 2, 3, 4)),
]


@pytest.mark.parametrize(("lazy", "theirs", "becomes", "shape"), LAZY)
def test_lazy(lazy, theirs, becomes, shape):
    options = {"affine": True, "track_running_stats": True, "momentum": 0.3}
    x, residual = torch.randn(shape), torch.randn(shape)
    layer = lazy(**options, activation="tanh")
    assert isinstance(layer, theirs)
    expected = becomes(4, **options, activation="tanh")
    # The first call is the one that runs before torch has changed the class.
    assert_close(layer(x, residual=residual), expected(x, residual=residual), rtol=0, atol=0)
    assert type(layer) is becomes
    assert_close(layer.state_dict(), expected.state_dict(), rtol=0, atol=0)
    assert_close(layer(input=x), expected(x), rtol=0, atol=0)
    # A state of torch's layer fills a lazy one, and makes it as large.
    other = lazy(**options, activation="tanh").eval()
    other.load_state_dict(expected.state_dict())
    assert_close(other(x), expected.eval()(x), rtol=0, atol=0)
    assert repr(other) == repr(expected)
    # The first batch is guarded too.
    bad = x.clone()
    bad[0, 0] = float("nan")
    guarded = lazy(**options)
    with pytest.warns(gb.NonFiniteBatchWarning, match=f"{becomes.__name__}\\(4\\)"):
        guarded(bad)
    assert guarded.running_mean.tolist() == [0.0] * 4


@pytest.mark.parametrize(("lazy", "theirs", "becomes", "shape"), LAZY)
def test_lazy_without_anything_to_make(lazy, theirs, becomes, shape):
    layer = lazy(affine=False, track_running_stats=False)
    x = torch.randn(shape)
    assert_close(layer(x), becomes(4, affine=False, track_running_stats=False)(x), rtol=0, atol=0)
    assert layer.num_features == 4
    assert_close(layer(x), layer(x), rtol=0, atol=0)  # torch's warns here: 0 is not 4
