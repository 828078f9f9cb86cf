"""No conversion makes a layer that normalizes single values, whose output would be β."""

import warnings

import pytest
import torch
from torch import nn

import gammabeta as gb


def converted(model, **arguments):
    reports = []
    gb.convert(model, report=reports.append, **arguments)
    return reports[0]


@pytest.mark.parametrize(
    ("channels", "groups", "exact", "expected"),
    [
        (32, 32, True, 16),
        (32, 32, False, 16),
        (8, 8, True, 4),
        (2, 2, True, 1),
        (9, 9, True, 3),
        (7, 7, True, 1),
        (16, 32, False, 8),
        (7, 32, False, 1),
        (32, 16, True, 16),
    ],
)
@pytest.mark.parametrize("norm", [nn.BatchNorm1d, gb.BatchNorm2d, nn.SyncBatchNorm])
def test_a_group_has_two_channels_at_least(norm, channels, groups, exact, expected):
    model = nn.Sequential(norm(channels))
    converted(model, to="group", groups=groups, exact=exact)
    assert model[0].num_groups == expected
    shape = (4, channels, 1, 1) if norm is gb.BatchNorm2d else (4, channels)
    assert model(torch.randn(shape)).abs().max() > 0.1


def test_the_number_of_groups_that_is_not_as_asked_is_said():
    model = nn.Sequential(nn.BatchNorm1d(32))
    with pytest.warns(
        UserWarning, match=r"16 groups, because 32 would leave one channel each \(1 of 1"
    ):
        gb.convert(model, to="group")
    report = converted(nn.Sequential(nn.BatchNorm1d(32)), to="group")
    assert report.changes[0].adjusted == ("16 groups, because 32 would leave one channel each",)
    assert "16 groups, because 32 would" in str(report)


@pytest.mark.parametrize("to", ["group", "layer"])
@pytest.mark.parametrize("norm", [nn.BatchNorm1d, nn.BatchNorm2d, nn.InstanceNorm2d])
def test_a_layer_of_one_channel_is_left_and_named(norm, to):
    model = nn.Sequential(norm(1), norm(4))
    family = "instance" if norm is nn.InstanceNorm2d else "batch"
    report = converted(model, to=to, of=family, groups=2)
    assert type(model[0]) is norm
    assert type(model[1]) is gb.GroupNorm
    assert [left.names for left in report.left] == [("0",)]
    assert "it has 1 channel" in report.left[0].reason
    with pytest.raises(ValueError, match=r"can be swapped.*; 0 left as it is: it has 1 channel"):
        gb.convert(nn.Sequential(norm(1)), to=to, of=family)


@pytest.mark.parametrize(("norm", "to"), [(nn.LayerNorm, "rms"), (nn.RMSNorm, "layer")])
def test_a_layer_over_a_single_value_is_left_and_named(norm, to):
    model = nn.Sequential(norm(1), norm([1, 1]), norm(4))
    report = converted(model, to=to, of="layer" if to == "rms" else "rms")
    assert [type(layer) for layer in model[:2]] == [norm, norm]
    assert type(model[2]).__module__.startswith("gammabeta")
    assert "it normalizes [1], a single value" in report.left[0].reason


@pytest.mark.parametrize("norm", [nn.BatchNorm1d, gb.BatchNorm1d])
def test_instance_norm_of_vectors_needs_to_be_told_that_there_are_positions(norm):
    model = nn.Sequential(norm(4), nn.BatchNorm2d(4))
    report = converted(model, to="instance")
    assert type(model[0]) is norm
    assert isinstance(model[1], nn.InstanceNorm2d)
    assert "pass dims=1 if its input is always (N, C, L)" in report.left[0].reason
    converted(model, to="instance", dims=1)
    assert isinstance(model[0], nn.InstanceNorm1d)


def test_what_is_left_for_it_is_warned_of():
    with pytest.warns(UserWarning, match="0 left as it is: it has 1 channel"):
        gb.convert(nn.Sequential(nn.BatchNorm2d(1), nn.BatchNorm2d(4)), to="group", groups=2)


def test_a_plain_swap_says_nothing_of_groups():
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        gb.convert(nn.Sequential(nn.BatchNorm2d(64)), to="group")
    assert ["groups" in str(one.message) for one in said] == [False]
