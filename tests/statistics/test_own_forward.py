"""Batch norms with a forward of their own: what they normalize is measured, not their input."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import gammabeta as gb
from gammabeta.statistics.measuring import measuring


def channels_last(base):
    class Last(base):
        """Takes (N, L, C)."""

        def forward(self, x):
            return super().forward(x.transpose(1, 2)).transpose(1, 2)

    return Last


def sequences(length):
    generator = torch.Generator().manual_seed(0)
    offset = 10 * torch.arange(4)
    return [offset + torch.randn(16, length, 4, generator=generator) for _ in range(3)]


def images(count=3):
    generator = torch.Generator().manual_seed(0)
    offset = torch.arange(4.0)[:, None, None]
    return [offset + torch.randn(6, 4, 4, 4, generator=generator) for _ in range(count)]


BASES = [
    *(nn.BatchNorm1d, nn.SyncBatchNorm, gb.BatchNorm1d),
    *(gb.GhostBatchNorm1d, gb.BatchRenorm1d, gb.MaskedBatchNorm1d),
]


@pytest.mark.parametrize("inference", [True, False])
@pytest.mark.parametrize("length", [1, 3, 4])
@pytest.mark.parametrize("base", BASES)
def test_channels_may_come_last(base, length, inference):
    model = nn.Sequential(channels_last(base)(4))
    batches = sequences(length)
    with torch.inference_mode(inference):
        report = gb.calibrate(model, batches, "pooled")
    x = torch.cat(batches).double().flatten(0, 1)
    # One rounding to float32 of a float64 result.
    torch.testing.assert_close(model[0].running_mean.double(), x.mean(0), rtol=1e-7, atol=1e-7)
    torch.testing.assert_close(model[0].running_var.double(), x.var(0), rtol=1e-7, atol=0)
    assert report.layers["0"].values == len(x)
    assert "forward" not in model[0].__dict__


def test_a_forward_that_was_replaced_on_the_object_is_watched_and_put_back():
    layer = nn.BatchNorm1d(4)
    own = layer.forward
    replaced = layer.forward = lambda x: own(x.transpose(1, 2)).transpose(1, 2)
    batches = sequences(4)
    gb.calibrate(layer, batches)
    torch.testing.assert_close(layer.running_mean, torch.cat(batches).mean((0, 1)))
    assert layer.__dict__["forward"] is replaced


def test_measuring_by_itself_puts_the_forward_back():
    plain, replaced = channels_last(nn.BatchNorm1d)(4), nn.BatchNorm1d(4)
    own = replaced.__dict__["forward"] = lambda x: x
    with measuring({"plain": plain, "replaced": replaced}) as measured:
        plain(sequences(3)[0])
    assert [name for name, _ in measured.batches] == ["plain"]
    assert "forward" not in plain.__dict__
    assert replaced.__dict__["forward"] is own


class NormAct(nn.BatchNorm2d):
    """Calls the function, not the layer above it."""

    def forward(self, x):
        mean, var = self.running_mean, self.running_var
        return F.relu(
            F.batch_norm(x, mean, var, self.weight, self.bias, self.training, 0.1, self.eps)
        )


class ByTheBatch(nn.BatchNorm2d):
    def forward(self, x):
        return F.batch_norm(x, None, None, self.weight, self.bias, True)


class Scaled(nn.BatchNorm2d):
    def forward(self, x):
        return super().forward(3 * x.double().float())


class ByHand(nn.BatchNorm2d):
    """Computes everything itself; its averages confirm what it normalizes."""

    def forward(self, x):
        var, mean = torch.var_mean(x, (0, 2, 3), correction=0)
        if self.training:
            self.num_batches_tracked += 1
            share = self.momentum or 1 / float(self.num_batches_tracked)
            self.running_mean.lerp_(mean, share)
            self.running_var.lerp_(var, share)
        return (x - mean[:, None, None]) / (var[:, None, None] + self.eps).sqrt()


@pytest.mark.parametrize(
    ("layer", "scale"),
    [
        (NormAct(4), 1),
        (ByTheBatch(4), 1),
        (Scaled(4), 3),
        (ByHand(4), 1),
        (ByHand(4, momentum=None), 1),
    ],
)
def test_what_is_normalized_is_measured_in_float64(layer, scale):
    gb.calibrate(nn.Sequential(layer), images(), "pooled")
    x = (scale * torch.cat(images())).double()
    mean, var = x.mean((0, 2, 3)), x.transpose(0, 1).flatten(1).var(1)
    torch.testing.assert_close(layer.running_mean.double(), mean, rtol=1e-7, atol=1e-7)
    torch.testing.assert_close(layer.running_var.double(), var, rtol=1e-7, atol=0)


def test_a_layer_that_normalizes_twice_has_two_mini_batches():
    class Halves(nn.BatchNorm2d):
        def forward(self, x):
            one, other = x.chunk(2)
            return torch.cat([super().forward(one), nn.BatchNorm2d.forward(self, other)])

    assert gb.calibrate(Halves(4), images()).layers[""].batches == 6


def test_another_batch_norm_inside_is_not_taken_for_the_layer():
    class Outer(nn.BatchNorm2d):
        def __init__(self, channels):
            super().__init__(channels)
            self.inner = nn.BatchNorm2d(channels)

        def forward(self, x):
            return super().forward(self.inner(x) + 3)

    model = Outer(4)
    report = gb.calibrate(model, images())
    assert {name: layer.batches for name, layer in report.layers.items()} == {"": 3, "inner": 3}
    torch.testing.assert_close(model.running_mean, torch.full((4,), 3.0))
    torch.testing.assert_close(model.inner.running_mean, torch.cat(images()).mean((0, 2, 3)))


class Transposed(ByHand):
    def forward(self, x):
        return super().forward(x.transpose(1, 2)).transpose(1, 2)


class Unrecorded(nn.BatchNorm2d):
    def forward(self, x):
        return x - x.mean((0, 2, 3), keepdim=True)


class AlwaysFixed(nn.BatchNorm2d):
    def forward(self, x):
        return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias)


class Mixed(gb.MaskedBatchNorm1d):
    def forward(self, x):
        return super().forward(x, x[:, 0] > 0)


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (Transposed(4), r"layer '1' \(Transposed\) has a forward of its own.*mini_batches"),
        (Unrecorded(4), r"layer '1' \(Unrecorded\) has a forward of its own.*mini_batches"),
        (AlwaysFixed(4), r"layer '1' \(AlwaysFixed\) uses its running.*freeze\(\)"),
    ],
)
def test_a_layer_of_which_it_is_not_known_is_named_and_nothing_changes(layer, message):
    model = nn.Sequential(nn.BatchNorm2d(4), layer)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(ValueError, match=message):
        gb.calibrate(model, images())
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert "forward" not in layer.__dict__
    gb.freeze(layer)
    assert gb.calibrate(model, images()).kept == ("1",)


@pytest.mark.parametrize("small", ["raise", "skip"])
def test_it_is_named_even_if_the_model_swallows_the_error(small):
    class Model(nn.Sequential):
        def forward(self, x):
            try:
                return super().forward(x)
            except ValueError:
                return x

    with pytest.raises(ValueError, match=r"^layer '0' \(Unrecorded\)"):
        gb.calibrate(Model(Unrecorded(4)), images(), small=small)


def test_mini_batches_that_a_subclass_inherits_are_not_trusted():
    layer = Mixed(4)
    x = torch.randn(8, 4, 5, generator=torch.Generator().manual_seed(0))
    with pytest.raises(ValueError, match=r"\(Mixed\) has a forward of its own"):
        gb.calibrate(layer, [x])
    Mixed.mini_batches = lambda self, x: [x.movedim(1, -1)[x[:, 0] > 0]]
    try:
        gb.calibrate(layer, [x])
    finally:
        del Mixed.mini_batches
    torch.testing.assert_close(layer.running_mean, x.movedim(1, -1)[x[:, 0] > 0].mean(0))


def test_mini_batches_of_other_channels_are_an_error_that_names_the_layer():
    class Wrong(nn.BatchNorm1d):
        def mini_batches(self, x):
            return [x[:, :2]]

    with pytest.raises(ValueError, match=r"layer '0' \(Wrong\) has 4 channels.*has 2 at dim 1"):
        gb.calibrate(nn.Sequential(Wrong(4)), [torch.randn(8, 4)])


def test_an_empty_batch_is_no_reason_to_raise():
    layer = NormAct(4)
    assert gb.calibrate(layer, [torch.zeros(0, 4, 2, 2), *images()]).layers[""].batches == 3


def test_statistics_made_in_inference_mode_are_measured_and_set():
    with torch.inference_mode():
        model = nn.Sequential(nn.BatchNorm2d(4), gb.BatchNorm2d(4))
    report = gb.calibrate(model, images())
    torch.testing.assert_close(model[0].running_mean, torch.cat(images()).mean((0, 2, 3)))
    assert report.batches == int(model[1].num_batches_tracked) == 3


def test_statistics_that_cannot_be_set_are_refused_by_name():
    model = nn.Sequential(nn.BatchNorm2d(4), nn.BatchNorm2d(4))
    model[1].running_var = torch.ones(1).expand(4)
    with pytest.raises(ValueError, match=r"layer '1' \(BatchNorm2d\) has an expanded running_var"):
        gb.calibrate(model, images())
    model = nn.Sequential(nn.BatchNorm2d(4, device="meta"))
    with pytest.raises(ValueError, match=r"layer '0' \(BatchNorm2d\).*meta device"):
        gb.calibrate(model, images())
