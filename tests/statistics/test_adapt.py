"""`gammabeta.adapt`: what a batch is normalized by, what is left alone, what is given back."""

import copy
import io
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

import gammabeta as gb
from tests.statistics.test_calibrate import Residual, everything, same

NORMS = [nn.BatchNorm2d, gb.BatchNorm2d, nn.SyncBatchNorm, gb.MaskedBatchNorm1d]


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def seeded(make, seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return make()


def batches(*sizes, shape=(3, 4, 4), seed=0):
    g = generator(seed)
    return [5 + 2 * torch.randn(n, *shape, generator=g) for n in sizes]


def layer_of(norm, channels=3, **settings):
    """A layer with running statistics, γ and β that are all different from each other."""
    layer = norm(channels, **settings).eval()
    g = generator(7)
    with torch.no_grad():
        layer.running_mean.copy_(torch.randn(channels, generator=g))
        layer.running_var.copy_(0.5 + torch.rand(channels, generator=g))
        layer.weight.copy_(torch.randn(channels, generator=g))
        layer.bias.copy_(torch.randn(channels, generator=g))
    return layer


def numpy_norm(layer, x, mean, var):
    """Float64: γ (x − μ) / √(σ² + ε) + β."""
    shape = (1, -1, *[1] * (x.dim() - 2))
    weight, bias = (p.detach().double().numpy().reshape(shape) for p in (layer.weight, layer.bias))
    scaled = (x.double().numpy() - mean.reshape(shape)) / np.sqrt(var.reshape(shape) + layer.eps)
    return scaled * weight + bias


def numpy_moments(x, correction=1):
    values = np.moveaxis(x.double().numpy(), 1, 0).reshape(x.shape[1], -1)
    return values.mean(1), values.var(1, ddof=correction)


def close(y, expected):
    # Float32 arithmetic on values of order 10: a few ulps of 1e-6.
    np.testing.assert_allclose(y.detach().double().numpy(), expected, rtol=2e-5, atol=2e-5)


# What a batch is normalized by


@pytest.mark.parametrize("norm", NORMS)
def test_the_batch_alone_is_training_bit_for_bit(norm):
    layer = layer_of(norm)
    (x,) = batches(6, shape=(3, 4) if norm is gb.MaskedBatchNorm1d else (3, 4, 4))
    expected = copy.deepcopy(layer).train()(x)
    with gb.adapt(layer):
        y = layer(x)
    assert torch.equal(y, expected)
    close(y, numpy_norm(layer, x, *numpy_moments(x, correction=0)))


@pytest.mark.parametrize("norm", [*NORMS, gb.GhostBatchNorm2d, gb.BatchRenorm2d])
@pytest.mark.parametrize("prior", [1, 16.5, 1e9])
def test_a_mixture_is_schneiders(norm, prior):
    layer = layer_of(norm)
    (x,) = batches(40, shape=(3, 2) if norm is gb.MaskedBatchNorm1d else (3, 2, 2))
    with gb.adapt(layer, prior=prior):
        y = layer(x)
    mean, var = numpy_moments(x)
    share = prior / (prior + 40)
    mean = share * layer.running_mean.double().numpy() + (1 - share) * mean
    var = share * layer.running_var.double().numpy() + (1 - share) * var
    close(y, numpy_norm(layer, x, mean, var))


@pytest.mark.parametrize("prior", [0, 8])
def test_a_running_mixture_is_of_all_batches_so_far(prior):
    layer = layer_of(nn.BatchNorm2d)
    given = batches(2, 5, 1, 3)
    with gb.adapt(layer, prior=prior, running=True):
        outputs = [layer(x) for x in given]
    for number, y in enumerate(outputs, 1):
        so_far = torch.cat(given[:number])
        share = prior / (prior + len(so_far))
        mean, var = numpy_moments(so_far)
        mean = share * layer.running_mean.double().numpy() + (1 - share) * mean
        var = share * layer.running_var.double().numpy() + (1 - share) * var
        close(y, numpy_norm(layer, given[number - 1], mean, var))


def test_each_block_starts_anew():
    layer = layer_of(nn.BatchNorm2d)
    first, second = batches(3, 3)
    with gb.adapt(layer, running=True):
        layer(first)
    with gb.adapt(layer, running=True):
        y = layer(second)
    close(y, numpy_norm(layer, second, *numpy_moments(second)))


def test_the_layers_of_a_net_normalize_what_adapted_layers_below_give_them():
    model = seeded(lambda: Residual(gb.BatchNorm2d)).eval()
    (x,) = batches(6, shape=(3, 5, 5))
    twin = copy.deepcopy(model)
    for layer in (twin.bn1, twin.bn2):
        layer.train()
    with gb.adapt(model) as adaptation:
        y = model(x)
    assert adaptation.layers == ("bn1", "bn2")
    assert torch.equal(y, twin(x))


def test_ghost_batch_norm_keeps_its_virtual_batches_with_the_batch_alone():
    layer = layer_of(gb.GhostBatchNorm2d, virtual_batch_size=4)
    (x,) = batches(8)
    with gb.adapt(layer):
        y = layer(x)
    for half in (slice(0, 4), slice(4, 8)):
        close(y[half], numpy_norm(layer, x[half], *numpy_moments(x[half], correction=0)))


def test_batch_renorm_is_not_pulled_to_its_running_statistics():
    layer = layer_of(gb.BatchRenorm2d, warmup_steps=0, r_steps=0, d_steps=0)
    (x,) = batches(8)
    with gb.adapt(layer):
        y = layer(x)
    close(y, numpy_norm(layer, x, *numpy_moments(x, correction=0)))
    assert (layer.r_max, layer.d_max) == (3.0, 5.0)


def test_masked_values_are_not_measured():
    layer = layer_of(gb.MaskedBatchNorm1d)
    (x,) = batches(4, shape=(3, 5))
    mask = torch.arange(5) < torch.tensor([[5], [2], [3], [1]])
    real = x.movedim(1, -1)[mask]
    with gb.adapt(layer, prior=4):
        y = layer(torch.where(mask[:, None], x, 1e3), mask)
    mean, var = numpy_moments(real)
    mean = (layer.running_mean.double().numpy() + mean) / 2  # N = n = 4 examples
    var = (layer.running_var.double().numpy() + var) / 2
    close(y.movedim(1, -1)[mask], numpy_norm(layer, real, mean, var))


def test_a_residual_and_an_activation_are_applied():
    layer = layer_of(gb.BatchNorm2d, activation="relu")
    (x,) = batches(8)
    skip = torch.randn(x.shape, generator=generator(3))
    with gb.adapt(layer):
        y = layer(x, residual=skip)
    normalized = numpy_norm(layer, x, *numpy_moments(x, correction=0))
    close(y, np.maximum(normalized + skip.double().numpy(), 0))


def channels_last(base):
    class Last(base):
        def forward(self, x):
            return super().forward(x.transpose(1, 2)).transpose(1, 2)

    return Last


@pytest.mark.parametrize("arguments", [{}, {"prior": 4}, {"prior": 4, "running": True}])
@pytest.mark.parametrize("base", [nn.BatchNorm1d, gb.BatchNorm1d])
def test_a_layer_with_a_forward_of_its_own(base, arguments):
    layer, plain = layer_of(channels_last(base)), layer_of(base)
    (x,) = batches(4, shape=(5, 3))
    with gb.adapt(layer, **arguments), gb.adapt(plain, **arguments):
        y = layer(x)
        expected = plain(x.transpose(1, 2)).transpose(1, 2)
    torch.testing.assert_close(y, expected, rtol=1e-6, atol=1e-6)  # another memory layout
    assert "forward" not in layer.__dict__


def test_a_forward_that_was_replaced_on_the_object_comes_back():
    layer = layer_of(nn.BatchNorm1d)
    own = layer.forward
    replaced = layer.forward = lambda x: own(x.transpose(1, 2)).transpose(1, 2)
    (x,) = batches(4, shape=(5, 3))
    with gb.adapt(layer):
        y = layer(x).transpose(1, 2)
    close(y, numpy_norm(layer, x.transpose(1, 2), *numpy_moments(x.transpose(1, 2), 0)))
    assert layer.forward is replaced


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_other_dtypes(dtype):
    layer = layer_of(nn.BatchNorm2d).to(dtype)
    x = batches(8)[0].to(dtype)
    with gb.adapt(layer, prior=8):
        y = layer(x)
    mean, var = numpy_moments(x)
    mean = (layer.running_mean.double().numpy() + mean) / 2
    var = (layer.running_var.double().numpy() + var) / 2
    expected = numpy_norm(layer, x, mean, var)
    rtol = 1e-12 if dtype is torch.float64 else 2e-2  # three digits, of values of order 5
    np.testing.assert_allclose(y.detach().double().numpy(), expected, rtol=rtol, atol=5 * rtol)


def test_an_input_given_by_keyword():
    layer = layer_of(gb.BatchNorm2d)
    (x,) = batches(8)
    with gb.adapt(layer, prior=8):
        assert torch.equal(layer(input=x), layer(x))


@pytest.mark.parametrize("arguments", [{"prior": 4}, {"running": True, "prior": 2}])
def test_empty_batches_change_nothing(arguments):
    layer = layer_of(nn.BatchNorm2d)
    (x,) = batches(4)
    with gb.adapt(layer, **arguments):
        assert layer(x[:0]).shape == (0, 3, 4, 4)
        first = layer(x)
    with gb.adapt(layer, **arguments):
        assert torch.equal(layer(x), first)


def test_a_batch_that_is_not_finite_is_not_added():
    layer = layer_of(nn.BatchNorm2d)
    one, two = batches(4, 4)
    with gb.adapt(layer, running=True):
        layer(one)
        layer(torch.full_like(one, torch.nan))
        y = layer(two)
    close(y, numpy_norm(layer, two, *numpy_moments(torch.cat([one, two]))))


def test_the_guard_neither_warns_nor_counts():
    layer = layer_of(gb.BatchNorm2d)
    with gb.adapt(layer):
        layer(torch.full((4, 3, 2, 2), torch.nan))
    assert layer.refused_batches == 0
    assert layer.on_nonfinite == "refuse"


# One value


def test_one_example_has_no_variance_for_a_layer_on_features():
    model = nn.Sequential(nn.Linear(3, 3), layer_of(nn.BatchNorm1d)).eval()
    x = torch.randn(1, 3, generator=generator())
    before = everything(model)
    with gb.adapt(model), pytest.raises(ValueError, match=r"layer '1' .* one value per channel"):
        model(x)
    with (
        gb.adapt(model, running=True),
        pytest.raises(ValueError, match=r"layer '1' .*give a larger batch, or prior=16"),
    ):
        model(x)
    assert same(everything(model), before)


@pytest.mark.parametrize("base", [gb.BatchNorm1d, gb.GhostBatchNorm1d, gb.BatchRenorm1d])
def test_so_it_is_for_gammabetas_layers(base):
    with (
        gb.adapt(layer := layer_of(base)),
        pytest.raises(ValueError, match=r"one value per channel, which has no variance; give"),
    ):
        layer(torch.ones(1, 3))


def test_one_value_moves_the_mean_of_a_mixture_only():
    layer = layer_of(nn.BatchNorm1d)
    x = torch.randn(1, 3, generator=generator())
    with gb.adapt(layer, prior=3):
        y = layer(x)
    mean = 0.75 * layer.running_mean.double().numpy() + 0.25 * x[0].double().numpy()
    close(y, numpy_norm(layer, x, mean, layer.running_var.double().numpy()))


def test_one_image_is_normalized_by_its_positions():
    layer = layer_of(gb.BatchNorm2d)
    (x,) = batches(1)
    with gb.adapt(layer):
        y = layer(x)
    shape = (1, 3, 1, 1)
    expected = F.instance_norm(x) * layer.weight.view(shape) + layer.bias.view(shape)
    torch.testing.assert_close(y, expected, rtol=1e-5, atol=1e-5)


def test_a_running_mixture_goes_on_with_single_examples():
    layer = layer_of(nn.BatchNorm1d)
    given = batches(3, 1, shape=(3,))
    with gb.adapt(layer, running=True):
        layer(given[0])
        y = layer(given[1])
    close(y, numpy_norm(layer, given[1], *numpy_moments(torch.cat(given))))


# What is left alone


def test_frozen_layers_and_other_kinds_are_left_alone():
    model = nn.Sequential(
        gb.freeze(layer_of(nn.BatchNorm2d)),
        gb.FrozenBatchNorm2d(3),
        nn.InstanceNorm2d(3, track_running_stats=True),
        nn.BatchNorm2d(3, track_running_stats=False),
        layer_of(gb.BatchNorm2d),
    ).eval()
    (x,) = batches(8)
    with gb.adapt(model) as adaptation:
        lower = model[:3](x)
    assert torch.equal(lower, model[:3](x))
    assert adaptation.layers == ("4",)
    assert set(adaptation.kept) == {"0", "1", "2"}
    assert adaptation.untracked == ("3",)
    assert str(adaptation) == (
        "adapted: 4\nleft alone: 0 (frozen), 1 (FrozenBatchNorm2d: fixed statistics), "
        "2 (InstanceNorm2d: not batch statistics)\nwithout running statistics: 3"
    )


def test_a_layer_frozen_inside_the_block_is_left_alone_from_then_on():
    model = nn.Sequential(layer_of(nn.BatchNorm2d))
    (x,) = batches(8)
    expected = model(x)
    with gb.adapt(model):
        gb.freeze(model)
        assert torch.equal(model(x), expected)


def test_dropout_is_off_in_a_model_in_training():
    model = nn.Sequential(nn.Dropout(0.5), nn.BatchNorm1d(3), nn.Dropout(0.5)).train()
    x = torch.randn(16, 3, generator=generator())
    with gb.adapt(model):
        y = model(x)
    torch.testing.assert_close(y, F.batch_norm(x, None, None, training=True))
    assert all(module.training for module in model.modules())


def test_layers_in_evaluation_by_hand_are_left_alone():
    model = nn.Sequential(nn.BatchNorm1d(3), nn.BatchNorm1d(3)).train()
    model[0].eval()
    with gb.adapt(model) as adaptation:
        assert adaptation.layers == ("1",)
        assert adaptation.kept == {"0": "in eval()"}


# What is given back


@pytest.mark.parametrize("norm", [nn.BatchNorm2d, gb.BatchNorm2d, channels_last(gb.BatchNorm2d)])
@pytest.mark.parametrize("arguments", [{}, {"prior": 4}, {"prior": 4, "running": True}])
@pytest.mark.parametrize("training", [True, False])
def test_everything_is_as_before(norm, arguments, training):
    model = seeded(lambda: Residual(norm)).train(training)
    model.bn1.register_forward_hook(lambda *_: None)
    (x,) = batches(4, shape=(3, 8, 8))
    before = everything(model)
    with gb.adapt(model, **arguments):
        model(x)
        buffers = {k: (id(b), b) for k, b in model.named_buffers()}
        assert same(buffers, before["buffers"])  # inside, too, between calls
    assert same(everything(model), before)
    assert "forward" not in model.bn1.__dict__


@pytest.mark.parametrize("arguments", [{}, {"prior": 4}])
@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_so_it_is_after_an_error_inside_a_layer(arguments, error):
    class Breaks(nn.BatchNorm2d):
        armed = True

        def forward(self, x):
            y = super().forward(x)
            if self.armed:
                raise error
            return y

    model = nn.Sequential(nn.BatchNorm2d(3), Breaks(3), nn.Dropout()).train()
    before = everything(model)
    with pytest.raises(error), gb.adapt(model, **arguments):
        model(batches(4)[0])
    assert same(everything(model), before)


def test_modes_set_inside_the_block_neither_end_the_adaptation_nor_stay():
    model = nn.Sequential(layer_of(gb.BatchNorm2d)).train()
    (x,) = batches(8)
    expected = numpy_norm(model[0], x, *numpy_moments(x, correction=0))
    with gb.adapt(model):
        for mode in (True, False, True, False):  # as functions that evaluate do
            model.train(mode)
            close(model(x), expected)
            assert model[0].num_batches_tracked == 0
    assert model.training
    assert model[0].training


def test_a_block_in_a_block_goes_first_and_gives_way():
    model = nn.Sequential(layer_of(nn.BatchNorm2d))
    (x,) = batches(8)
    evaluated = model(x)
    with gb.adapt(model, prior=8):
        mixed = model(x)
        with gb.adapt(model):
            batch = model(x)
        assert torch.equal(model(x), mixed)
    assert torch.equal(model(x), evaluated)
    with gb.adapt(model):
        assert torch.equal(model(x), batch)
    assert not torch.equal(mixed, batch)
    assert not torch.equal(mixed, evaluated)


def test_a_block_for_a_part_inside_a_block_for_the_whole():
    model = nn.Sequential(nn.Sequential(layer_of(nn.BatchNorm2d)), layer_of(nn.BatchNorm2d))
    x, other = batches(8, 8)
    with gb.adapt(model[0], prior=1), gb.adapt(model, running=True):
        first = model(x)
        model(other)  # two layers, one of them called "0" in both blocks' models
        with pytest.raises(ValueError, match="'1'"), gb.adapt(model):
            model[1](torch.ones(1, 3, 1, 1))
    with gb.adapt(model, running=True):
        assert torch.equal(model(x), first)


def test_blocks_that_overlap_give_everything_back_after_the_last():
    model = nn.Sequential(layer_of(nn.BatchNorm2d), nn.Dropout()).train()
    before = everything(model)
    one, two = gb.adapt(model), gb.adapt(model, prior=3)
    one.__enter__()
    two.__enter__()
    one.__exit__(None, None, None)
    assert "forward" in model[0].__dict__
    assert not model[1].training
    two.__exit__(None, None, None)
    assert same(everything(model), before)


def test_copies_and_pickles_made_inside_are_not_adapted():
    model = nn.Sequential(layer_of(nn.BatchNorm2d))
    (x,) = batches(8)
    evaluated = model(x)
    with gb.adapt(model):
        copied = copy.deepcopy(model)
        file = io.BytesIO()
        torch.save(model, file)
    file.seek(0)
    loaded = torch.load(file, weights_only=False)
    assert torch.equal(copied(x), evaluated)
    assert torch.equal(loaded(x), evaluated)
    copied[0].weight.data.fill_(0)
    assert torch.equal(copied(x), torch.zeros_like(x) + copied[0].bias.view(1, 3, 1, 1))


def test_it_may_be_a_decorator():
    model = nn.Sequential(layer_of(nn.BatchNorm2d))
    (x,) = batches(8)

    @gb.adapt(model)
    def predict(x):
        return model(x)

    close(predict(x), numpy_norm(model[0], x, *numpy_moments(x, correction=0)))
    assert torch.equal(predict(x), predict(x))


# Threads


def test_threads_that_share_a_model_each_go_by_their_own_block():
    model = nn.Sequential(layer_of(gb.BatchNorm2d), nn.ReLU(), layer_of(nn.BatchNorm2d)).eval()
    before = everything(model)
    settings = [{}, {"prior": 4}, {"prior": 64}, {"prior": 2, "running": True}]
    inputs = batches(*[4] * len(settings), shape=(3, 16, 16))

    def work(index):
        with gb.adapt(model, **settings[index]):
            barrier.wait(60)
            outputs = [model(inputs[index]) for _ in range(20)]
            barrier.wait(60)
        return outputs

    barrier = threading.Barrier(1)
    expected = [work(index) for index in range(len(settings))]
    barrier = threading.Barrier(len(settings))
    with ThreadPoolExecutor(len(settings)) as pool:
        found = list(pool.map(work, range(len(settings))))
    for one, two in zip(expected, found, strict=True):
        assert all(map(torch.equal, one, two))
    assert same(everything(model), before)


def test_workers_without_a_block_go_by_the_callers():
    model = nn.Sequential(layer_of(nn.BatchNorm2d)).eval()
    (x,) = batches(4)
    with gb.adapt(model), ThreadPoolExecutor(1) as pool:
        assert torch.equal(pool.submit(model, x).result(), model(x))


# Converted models, whose norms may leave the work to the next operation


@pytest.mark.parametrize("arguments", [{}, {"prior": 4}, {"running": True}])
def test_a_converted_model_that_fuses(arguments):
    plain = seeded(
        lambda: nn.Sequential(
            nn.Conv2d(3, 16, 1), nn.BatchNorm2d(16), nn.ReLU(), nn.BatchNorm2d(16)
        )
    )
    converted = gb.convert(copy.deepcopy(plain)).eval()
    plain.eval()
    (x,) = batches(8, shape=(3, 32, 32))
    before = everything(converted)
    with gb.adapt(plain, **arguments), gb.adapt(converted, **arguments), torch.no_grad():
        torch.testing.assert_close(converted(x), plain(x), rtol=1e-4, atol=1e-4)
    assert same(everything(converted), before)


# Gradients


def test_gradients_flow_through_the_statistics_of_the_batch():
    layer = layer_of(gb.BatchNorm2d)
    (x,) = batches(6)
    one, two = (x.clone().requires_grad_() for _ in range(2))
    twin = copy.deepcopy(layer).train()
    twin(two).square().sum().backward()
    with gb.adapt(layer):
        y = layer(one)
    y.square().sum().backward()  # outside of the block
    assert torch.equal(one.grad, two.grad)
    assert torch.equal(layer.weight.grad, twin.weight.grad)


def test_the_statistics_of_a_mixture_are_constants_of_the_backward_pass():
    layer = layer_of(nn.BatchNorm2d)
    x = batches(6)[0].requires_grad_()
    with gb.adapt(layer, prior=6):
        layer(x).sum().backward()
    _, var = numpy_moments(x.detach())
    var = (layer.running_var.double().numpy() + var) / 2
    scale = layer.weight.detach().double().numpy() / np.sqrt(var + layer.eps)
    np.testing.assert_allclose(x.grad[0, :, 0, 0], scale, rtol=1e-5)


def test_what_checkpointing_computes_again_is_not_added_again():
    layer = layer_of(nn.BatchNorm2d)
    x, other = batches(6, 6)
    with gb.adapt(layer, running=True):
        checkpoint(layer, x.requires_grad_(), use_reentrant=False).sum().backward()
        y = layer(other)
    close(y, numpy_norm(layer, other, *numpy_moments(torch.cat([x.detach(), other]))))


def test_a_running_mixture_begun_in_inference_mode_goes_on_outside():
    layer = layer_of(gb.BatchNorm2d)
    one, two = batches(6, 3)
    with gb.adapt(layer, running=True):
        with torch.inference_mode():
            layer(one)
        y = layer(two.requires_grad_())
        y.sum().backward()
    close(y, numpy_norm(layer, two.detach(), *numpy_moments(torch.cat([one, two.detach()]))))


@pytest.mark.parametrize("arguments", [{}, {"prior": 4}, {"running": True}])
def test_inference_mode(arguments):
    layer = layer_of(gb.BatchNorm2d)
    (x,) = batches(6)
    with gb.adapt(layer, **arguments), torch.inference_mode():
        inside = layer(x)
    with gb.adapt(layer, **arguments):
        assert torch.equal(layer(x), inside)


def test_a_compiled_model_is_adapted():
    model = nn.Sequential(layer_of(nn.BatchNorm2d), nn.ReLU()).eval()
    compiled = torch.compile(model, backend="eager")
    (x,) = batches(6)
    evaluated = compiled(x)
    frames = dict(torch._dynamo.utils.counters["frames"])
    for arguments in ({}, {"prior": 4}):
        with gb.adapt(compiled, **arguments):
            adapted = compiled(x)
        with gb.adapt(model, **arguments):
            assert torch.equal(adapted, model(x))
        assert not torch.equal(adapted, evaluated)
        assert torch.equal(compiled(x), evaluated)
    assert torch._dynamo.utils.counters["frames"] == frames  # nothing was compiled anew


# Arguments


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"prior": -1}, ValueError, "prior=-1 must be 0 or more"),
        ({"prior": float("nan")}, ValueError, "prior=nan must be 0 or more"),
        ({"prior": float("inf")}, ValueError, "prior=inf must be 0 or more, and finite"),
        ({"prior": "16"}, TypeError, "prior='16' is of type str; give a number"),
        ({"prior": True}, TypeError, "prior=True is of type bool"),
        ({"running": 1}, TypeError, "running=1 is of type int"),
    ],
)
def test_arguments_that_will_not_do(arguments, error, message):
    model = nn.Sequential(nn.BatchNorm1d(3))
    with pytest.raises(error, match=message), gb.adapt(model, **arguments):
        pass
    assert "forward" not in model[0].__dict__


@pytest.mark.parametrize(
    ("model", "error", "message"),
    [
        (nn.Linear(3, 3), ValueError, "no batch norm with running statistics"),
        (gb.freeze(nn.Sequential(nn.BatchNorm1d(3))), ValueError, r"left alone: 0 \(frozen\)"),
        (nn.LazyBatchNorm1d(), ValueError, "lazy module"),
        (5, TypeError, "model is of type int"),
    ],
)
def test_models_that_will_not_do(model, error, message):
    with pytest.raises(error, match=message), gb.adapt(model):
        pass


def test_calibrating_inside_a_block_is_refused():
    model = nn.Sequential(nn.BatchNorm1d(3))
    with gb.adapt(model), pytest.raises(ValueError, match=r"layer '0' is inside .*gb.adapt\(\)"):
        gb.calibrate(model, [torch.ones(4, 3)])


def test_a_wrong_input_gets_the_layers_own_error():
    layer = layer_of(nn.BatchNorm2d)
    with gb.adapt(layer, prior=4), pytest.raises(ValueError, match="expected 4D input"):
        layer(torch.ones(4, 3))
    with gb.adapt(layer, prior=4), pytest.raises(RuntimeError, match="running_mean"):
        layer(torch.ones(4, 5, 2, 2))
