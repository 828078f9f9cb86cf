"""A batch that gives a batch norm one value per channel: named, or left out for all layers."""

import copy

import pytest
import torch
from torch import nn

import gammabeta as gb

METHODS = ("algorithm2", "pooled", "moving_average")


class OwnForward(nn.BatchNorm2d):
    def forward(self, x):
        return super().forward(x.clone())


def untracked(norm):
    return lambda channels: norm(channels, track_running_stats=False)


class Deep(nn.Module):
    """Only its last norm sees one value of a batch of one."""

    def __init__(self, norm=nn.BatchNorm2d):
        super().__init__()
        self.first, self.pool = nn.BatchNorm2d(4), nn.AdaptiveAvgPool2d(1)
        self.part = nn.Sequential(norm(4))

    def forward(self, x):
        return self.part(self.pool(self.first(x)))


class Swallowing(Deep):
    def forward(self, x):
        try:
            return super().forward(x)
        except ValueError:
            return x


class Replacing(Deep):
    def forward(self, x):
        try:
            return super().forward(x)
        except ValueError as error:
            raise RuntimeError("something went wrong") from error


MODELS = {
    "torch": Deep,
    "synchronized": lambda: Deep(nn.SyncBatchNorm),
    "gammabeta": lambda: Deep(gb.BatchNorm2d),
    "ghost": lambda: Deep(gb.GhostBatchNorm2d),
    "renorm": lambda: Deep(gb.BatchRenorm2d),
    "own forward": lambda: Deep(OwnForward),
    "untracked": lambda: Deep(untracked(nn.BatchNorm2d)),
    "untracked, gammabeta": lambda: Deep(untracked(gb.BatchNorm2d)),
    "untracked, own forward": lambda: Deep(untracked(OwnForward)),
    "error swallowed": Swallowing,
    "error replaced": Replacing,
}


def images():
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(n, 4, 3, 3, generator=generator) for n in (4, 4, 1)]


def state(model):
    return {key: value.clone() for key, value in model.state_dict().items()}


def equal(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", MODELS)
def test_batch_and_layer_are_named_with_what_helps(name, training):
    model = MODELS[name]().train(training)
    before = state(model)
    with pytest.raises(
        ValueError, match=r"^batch 3: layer 'part.0' \(\w+\) got one.*drop_last=True.*small='skip'"
    ):
        gb.calibrate(model, images())
    assert equal(state(model), before)
    assert all(module.training is training for module in model.modules())


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", MODELS)
def test_such_a_batch_is_left_out_for_all_layers_and_counted(name, method):
    model = MODELS[name]()
    plain = copy.deepcopy(model)
    report = gb.calibrate(model, images(), method, small="skip")
    gb.calibrate(plain, images()[:2], method)
    assert equal(state(model), state(plain))
    assert (report.batches, report.skipped, report.small) == (2, (2,), (2,))
    assert report.layers["first"].batches == 2
    assert str(report).endswith("skipped, one value per channel: batch 3")


@pytest.mark.parametrize("shape", [(1, 4), (1, 4, 1)])
def test_vectors_and_maps_of_one_position(shape):
    batches = [torch.randn(6, *shape[1:]), torch.randn(shape)]
    with pytest.raises(ValueError, match=r"batch 2: layer '0' \(BatchNorm1d\)"):
        gb.calibrate(nn.Sequential(nn.BatchNorm1d(4)), batches)


def test_a_virtual_batch_of_one():
    layer = gb.GhostBatchNorm1d(4, virtual_batch_size=1)
    with pytest.raises(ValueError, match=r"batch 1: layer '' \(GhostBatchNorm1d\) got one value"):
        gb.calibrate(layer, [torch.randn(6, 4)])


def test_batches_left_out_for_either_reason_are_told_apart():
    batches = [torch.randn(6, 4), torch.full((6, 4), float("nan")), torch.randn(1, 4)]
    report = gb.calibrate(nn.BatchNorm1d(4), batches, small="skip", nonfinite="skip")
    assert (report.batches, report.skipped, report.small) == (1, (1, 2), (2,))
    assert str(report).splitlines()[-2:] == [
        "skipped, not finite: batch 2",
        "skipped, one value per channel: batch 3",
    ]
    with pytest.raises(ValueError, match=r"1 of 2 batches give some layer one value.* other 1 a N"):
        gb.calibrate(nn.BatchNorm1d(4), batches[1:], small="skip", nonfinite="skip")


def test_a_frozen_layer_may_get_one_value():
    model = nn.Sequential(gb.freeze(nn.BatchNorm2d(4)), nn.Flatten(), nn.BatchNorm1d(4))
    with pytest.raises(ValueError, match=r"batch 1: layer '2'"):
        gb.calibrate(model, [torch.randn(1, 4, 1, 1)])
