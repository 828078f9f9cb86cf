"""What torch refuses, ours refuses with the same type of error, and is unchanged by it."""

import warnings

import pytest
import torch
from torch import nn
from torch.testing import assert_close

import gammabeta as gb

BATCH = [(nn.BatchNorm1d, gb.BatchNorm1d), (nn.BatchNorm2d, gb.BatchNorm2d)]
BATCH += [(nn.BatchNorm3d, gb.BatchNorm3d)]
INSTANCE = [(nn.InstanceNorm1d, gb.InstanceNorm1d), (nn.InstanceNorm2d, gb.InstanceNorm2d)]
INSTANCE += [(nn.InstanceNorm3d, gb.InstanceNorm3d)]
TRACKED = {"affine": True, "track_running_stats": True}


def spatial(theirs):
    """The layer's spatial sizes: (3,), (3, 2) or (3, 2, 2)."""
    return (3, 2, 2)[: int(theirs.__name__[-2])]


def outcome(function, *args, **kwargs):
    """What a call comes to: the type of its error, or None."""
    try:
        function(*args, **kwargs)
    except Exception as error:  # whatever torch raises is what is compared
        return type(error)
    return None


def state(layer):
    return {k: v.clone() for k, v in layer.state_dict().items()}


@pytest.mark.parametrize(("theirs", "ours"), BATCH + INSTANCE)
@pytest.mark.parametrize("dims", range(7))
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_every_number_of_dims(theirs, ours, dims, training):
    x = torch.randn((4,) * dims)
    plain, layer = (c(4, **TRACKED).train(training) for c in (theirs, ours))
    expected = outcome(plain, x)
    before = state(layer)
    assert outcome(layer, x) is expected
    if expected is not None:
        assert_close(layer.state_dict(), before, rtol=0, atol=0)


@pytest.mark.parametrize(("theirs", "ours"), BATCH)
def test_one_value_per_channel(theirs, ours):
    layer = ours(3, momentum=None)
    layer(torch.randn(2, 3, *spatial(theirs)))
    before = state(layer)
    ones = (1,) * len(spatial(theirs))
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        layer(torch.randn(1, 3, *ones))
    # torch's layer has counted the batch by now; ours has not seen it.
    assert_close(layer.state_dict(), before, rtol=0, atol=0)
    # In evaluation one value is as good as many.
    y = layer.eval()(torch.zeros(1, 3, *ones))
    expected = -before["running_mean"] / (before["running_var"] + 1e-5).sqrt()
    assert_close(y.flatten(), expected)


@pytest.mark.parametrize(("theirs", "ours"), INSTANCE)
def test_one_value_per_instance(theirs, ours):
    layer = ours(3, **TRACKED)
    before = state(layer)
    x = torch.randn(2, 3, *(1,) * len(spatial(theirs)))
    assert outcome(theirs(3, **TRACKED), x) is ValueError
    with pytest.raises(ValueError, match="more than 1 spatial element"):
        layer(x)
    assert_close(layer.state_dict(), before, rtol=0, atol=0)
    assert layer.eval()(x).shape == x.shape


@pytest.mark.parametrize(("theirs", "ours"), BATCH + INSTANCE)
@pytest.mark.parametrize("wrong", ["running_mean", "running_var", "weight", "bias"])
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_mismatched_sizes(theirs, ours, wrong, training):
    x = torch.randn(2, 3, *spatial(theirs))
    layers = []
    for c in (theirs, ours):
        layer = c(3, **TRACKED).train(training)
        getattr(layer, wrong).data = torch.rand(4)
        layers.append(layer)
    expected = outcome(layers[0], x)
    before = state(layers[1])
    assert expected is not None
    assert outcome(layers[1], x) is expected
    assert_close(layers[1].state_dict(), before, rtol=0, atol=0)


@pytest.mark.parametrize(("theirs", "ours"), BATCH + INSTANCE)
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("affine", [True, False], ids=["affine", "plain"])
@pytest.mark.parametrize("tracked", [True, False], ids=["tracked", "untracked"])
def test_wrong_number_of_channels(theirs, ours, training, affine, tracked):
    x = torch.randn(2, 5, *spatial(theirs))
    results = []
    for c in (theirs, ours):
        layer = c(3, affine=affine, track_running_stats=tracked).train(training)
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            results.append((outcome(layer, x), [w.category for w in seen]))
    assert results[1] == results[0]


@pytest.mark.parametrize(("theirs", "ours"), BATCH)
def test_buffers_when_not_tracked(theirs, ours):
    x = torch.randn(4, 3, *spatial(theirs)) * 3 + 1
    plain, layer = theirs(3, track_running_stats=False), ours(3, track_running_stats=False)
    assert layer.running_mean is layer.running_var is layer.num_batches_tracked is None
    # Evaluation too uses the mini-batch.
    assert_close(layer.eval()(x), plain.train()(x))
    # Buffers that are there but switched off: read in evaluation, left alone in training.
    layer = ours(3)
    layer.track_running_stats = False
    before = state(layer)
    assert_close(layer(x), plain(x))
    assert_close(layer.state_dict(), before, rtol=0, atol=0)
    assert_close(layer.eval()(x), x / (1 + 1e-5) ** 0.5)
    # And taken away, as `torch.func.replace_all_batch_norm_modules_` does.
    layer = torch.func.replace_all_batch_norm_modules_(nn.Sequential(ours(3)))
    assert_close(layer(x), plain(x))


@pytest.mark.parametrize(("theirs", "ours"), BATCH + INSTANCE)
def test_state_dicts_of_old_versions(theirs, ours):
    old = theirs(3, **TRACKED).state_dict()
    old["running_mean"].fill_(7.0)
    old._metadata[""]["version"] = 1
    del old["num_batches_tracked"]  # as before torch 0.4.1
    layer = ours(3, **TRACKED)
    layer.num_batches_tracked.fill_(5)
    layer.load_state_dict(old)
    assert layer.running_mean.tolist() == [7.0] * 3
    assert layer.num_batches_tracked.item() == 5
    current = ours(3, **TRACKED).state_dict()
    del current["num_batches_tracked"]
    with pytest.raises(RuntimeError, match="num_batches_tracked"):
        layer.load_state_dict(current)


@pytest.mark.parametrize(("theirs", "ours"), INSTANCE)
def test_instance_norms_of_before_0_4(theirs, ours):
    old = theirs(3, track_running_stats=True).state_dict()
    del old["num_batches_tracked"]
    old._metadata[""].pop("version")
    errors = []
    for c in (theirs, ours):
        with pytest.raises(RuntimeError) as error:
            c(3).load_state_dict(old.copy())
        errors.append(str(error.value))
    assert "track_running_stats=False" in errors[1]
    assert errors[1] == errors[0]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=["float16", "bfloat16"])
def test_half_sums_do_not_overflow(dtype):
    # Each channel sums to 2048 · 24576 = 5e7, beyond float16; mean, σ and output are within it.
    x = torch.full((8, 2, 16, 16), 32768.0, dtype=dtype)
    x[:, :, ::2] = 16384.0
    layer = gb.BatchNorm2d(2)
    y = layer(x)
    assert y.dtype is dtype
    # Powers of two: mean 24576, deviations ±8192 = ±σ, all exact.
    assert_close(y, (x - 24576).sign(), rtol=0, atol=0)
    assert_close(layer.running_mean, torch.full((2,), 2457.6), rtol=1e-6, atol=0)
    # 2048 float32 additions of one rounding (6e-8) each, which partly cancel.
    expected = 8192.0**2 * 2048 / 2047 * 0.1 + 0.9
    assert_close(layer.running_var, torch.full((2,), expected), rtol=1e-5, atol=0)


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (gb.BatchNorm2d(3), (2, 3, 4, 4)),
        (gb.InstanceNorm2d(3), (2, 3, 4, 4)),
        (gb.LayerNorm(4), (2, 3, 4, 4)),
        (gb.GroupNorm(3, 3), (2, 3, 4, 4)),
        (gb.RMSNorm(4), (2, 3, 4, 4)),
    ],
    ids=lambda v: type(v).__name__,
)
def test_residual_of_another_shape(layer, shape):
    before = state(layer)
    for wrong in [(1, *shape[1:]), shape[1:], (*shape, 1)]:
        with pytest.raises(ValueError, match=r"residual has shape .* needs the input's shape"):
            layer(torch.randn(shape), residual=torch.randn(wrong))
    assert_close(layer.state_dict(), before, rtol=0, atol=0)


@pytest.mark.parametrize(
    "make",
    [
        lambda **k: gb.BatchNorm1d(3, **k),
        lambda **k: gb.InstanceNorm1d(3, **k),
        lambda **k: gb.LazyBatchNorm2d(**k),
        lambda **k: gb.LayerNorm(3, **k),
        lambda **k: gb.GroupNorm(1, 3, **k),
        lambda **k: gb.RMSNorm(3, **k),
    ],
)
def test_unknown_activation(make):
    with pytest.raises(ValueError, match="activation='rleu' is not known; did you mean 'relu'"):
        make(activation="rleu")


@pytest.mark.parametrize(
    ("ours", "args", "shape", "name"),
    [
        (gb.BatchNorm1d, (3,), (4, 3), "input"),
        (gb.InstanceNorm1d, (3,), (4, 3, 5), "input"),
        (gb.LayerNorm, (3,), (4, 3), "input"),
        (gb.GroupNorm, (3, 3), (4, 3, 5), "input"),
        (gb.RMSNorm, (3,), (4, 3), "x"),
    ],
)
def test_the_input_has_torchs_name(ours, args, shape, name):
    x = torch.randn(shape)
    layer = ours(*args)
    assert_close(layer(**{name: x}), layer(x), rtol=0, atol=0)
    with pytest.raises(TypeError, match="unexpected keyword"):
        layer(**{"x" if name == "input" else "input": x})


@pytest.mark.parametrize(
    ("theirs", "ours", "args", "shape"),
    [
        (nn.LayerNorm, gb.LayerNorm, ((2, 3),), (4, 3)),
        (nn.LayerNorm, gb.LayerNorm, (3,), (4, 5)),
        (nn.RMSNorm, gb.RMSNorm, ((2, 3),), (4, 3)),
        (nn.RMSNorm, gb.RMSNorm, (3,), ()),
        (nn.GroupNorm, gb.GroupNorm, (2, 4), (4,)),
        (nn.GroupNorm, gb.GroupNorm, (2, 4), (4, 6)),
        (nn.GroupNorm, gb.GroupNorm, (2, 4), (4, 5, 2)),
        (nn.GroupNorm, gb.GroupNorm, (2, 2), (1, 2)),
    ],
)
def test_wrong_shapes_of_the_stateless(theirs, ours, args, shape):
    expected = outcome(theirs(*args), torch.randn(shape))
    assert expected is not None
    assert outcome(ours(*args), torch.randn(shape)) is expected


def test_integers_are_refused_as_torch_refuses_them():
    x = torch.ones(4, 3, dtype=torch.long)
    for theirs, ours, args in [
        (nn.BatchNorm1d, gb.BatchNorm1d, (3,)),
        (nn.LayerNorm, gb.LayerNorm, (3,)),
        (nn.RMSNorm, gb.RMSNorm, (3,)),
    ]:
        expected = outcome(theirs(*args), x)
        layer = ours(*args)
        before = state(layer)
        assert expected is not None
        assert outcome(layer, x) is expected
        assert_close(layer.state_dict(), before, rtol=0, atol=0)
