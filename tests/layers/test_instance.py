"""Instance norm against its formula in float64, and our additions to torch's layer."""

import pytest
import torch
from torch import nn
from torch.testing import assert_close

import gammabeta as gb
from gammabeta.ops.reference import torch_norms as reference

CASES = [
    (gb.InstanceNorm1d, nn.InstanceNorm1d, (4, 3, 15)),
    (gb.InstanceNorm2d, nn.InstanceNorm2d, (4, 3, 5, 7)),
    (gb.InstanceNorm3d, nn.InstanceNorm3d, (4, 3, 4, 2, 5)),
]


def layer_and_input(ours, shape, **kwargs):
    torch.manual_seed(0)
    layer = ours(3, affine=True, dtype=torch.float64, **kwargs)
    nn.init.uniform_(layer.weight, 0.5, 2.0)
    nn.init.uniform_(layer.bias, -1.0, 1.0)
    return layer, 3 + 2 * torch.randn(shape, dtype=torch.float64)


@pytest.mark.parametrize(("ours", "theirs", "shape"), CASES)
def test_formula(ours, theirs, shape):
    layer, x = layer_and_input(ours, shape)
    expected = reference.instance_norm(x, layer.weight, layer.bias)
    # float64: a few hundred roundings of 1e-16.
    assert_close(layer(x), expected, rtol=1e-12, atol=1e-12)
    assert isinstance(layer, theirs)


@pytest.mark.parametrize(("ours", "theirs", "shape"), CASES)
def test_residual_and_activation(ours, theirs, shape):
    layer, x = layer_and_input(ours, shape, activation="relu")
    residual = torch.randn(shape, dtype=torch.float64)
    plain = reference.instance_norm(x, layer.weight, layer.bias)
    assert_close(layer(x), plain.clamp(min=0), rtol=1e-12, atol=1e-12)
    assert_close(layer(x, residual), (plain + residual).clamp(min=0), rtol=1e-12, atol=1e-12)
    # One example without its batch dim is the same example.
    assert_close(layer(x[1], residual[1]), layer(x, residual)[1], rtol=1e-12, atol=1e-12)
    with pytest.raises(ValueError, match="residual has shape"):
        layer(x[1], residual[:1])


@pytest.mark.parametrize(("ours", "theirs", "shape"), CASES)
@pytest.mark.parametrize("momentum", [0.1, 1.0, None])
def test_running_statistics(ours, theirs, shape, momentum):
    layer, x = layer_and_input(ours, shape, track_running_stats=True, momentum=momentum)
    layer(x)
    space = tuple(range(2, x.dim()))
    mean = x.mean(space).mean(0)
    var = x.var(space, correction=1).mean(0)  # the mean over N of the unbiased ones
    weight = momentum or 0.0
    assert_close(layer.running_mean, weight * mean, rtol=1e-12, atol=1e-12)
    assert_close(layer.running_var, (1 - weight) + weight * var, rtol=1e-12, atol=1e-12)
    assert layer.num_batches_tracked.item() == 0  # torch's layer does not count
    layer.eval()
    fixed = reference.batch_norm_inference(
        x, layer.running_mean, layer.running_var, layer.weight, layer.bias
    )
    assert_close(layer(x), fixed, rtol=1e-12, atol=1e-12)
    layer.train()
    assert_close(layer(x), reference.instance_norm(x, layer.weight, layer.bias))


@pytest.mark.parametrize(("ours", "theirs", "shape"), CASES)
def test_group_norm_with_as_many_groups_is_the_same(ours, theirs, shape):
    layer, x = layer_and_input(ours, shape)
    group = gb.GroupNorm(3, 3, dtype=torch.float64)
    group.load_state_dict(layer.state_dict())
    assert_close(layer(x), group(x), rtol=1e-12, atol=1e-12)
    # Batch norm of a batch of one is the same again.
    batch = reference.batch_norm(x[:1], layer.weight, layer.bias)[0]
    assert_close(layer(x[:1]), batch, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("ours", "theirs", "shape"), CASES)
@pytest.mark.parametrize("tracked", [True, False], ids=["tracked", "untracked"])
@pytest.mark.parametrize("affine", [True, False], ids=["affine", "plain"])
def test_empty_batch(ours, theirs, shape, tracked, affine):
    # As batch norm's: zero gradients, statistics untouched. torch's instance norm raises an
    # IndexError where it is affine, and averages NaN into the statistics where it tracks them.
    layer = ours(3, affine=affine, track_running_stats=tracked, activation="relu")
    before = {k: v.clone() for k, v in layer.state_dict().items()}
    x = torch.randn((0, *shape[1:]), requires_grad=True)
    y = layer(x, residual=x)
    y.sum().backward()
    assert y.shape == x.grad.shape == x.shape
    assert [p.grad.tolist() for p in layer.parameters()] == [[0.0] * 3] * (2 * affine)
    assert_close(layer.state_dict(), before, rtol=0, atol=0)
    layer.eval()
    if tracked:
        assert layer(x).shape == x.shape


def test_repr_tells_what_differs_from_torchs():
    plain = repr(nn.InstanceNorm2d(3))
    assert repr(gb.InstanceNorm2d(3)) == plain
    assert repr(gb.InstanceNorm2d(3, activation="relu")) == plain[:-1] + ", activation='relu')"
