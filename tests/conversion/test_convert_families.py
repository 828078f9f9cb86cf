"""One family of norms swapped for another: what goes along, what is lost, what cannot be."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrize

import gammabeta as gb
from gammabeta import convert as convert_function
from gammabeta import layers
from gammabeta.conversion.families import FAMILIES, family_of
from tests.conversion.nets import (
    Doubled,
    ThirdParty,
    batch_net,
    filled,
    generator,
    images,
    state,
)


@pytest.mark.parametrize("norm", [nn.BatchNorm2d, gb.BatchNorm2d, nn.SyncBatchNorm])
def test_batch_norms_become_group_norms(norm):
    model = batch_net(norm)
    weight, bias = model[1].weight, model[1].bias
    reports = []
    assert gb.convert(model, to="group", groups=4, report=reports.append) is model
    assert type(model[1]) is gb.GroupNorm
    assert model[1].weight is weight
    assert model[1].bias is bias
    assert (model[1].num_groups, model[1].eps, model[3].eps) == (4, 1e-3, 1e-5)
    assert not hasattr(model[1], "running_mean")
    assert not hasattr(model[1], "momentum")
    assert repr(model[1]) == "GroupNorm(4, 8, eps=0.001, affine=True, bias=True)"
    assert "1.running_mean" not in model.state_dict()
    x = torch.randn(1, 8, 3, 3, generator=generator())  # a batch of one
    torch.testing.assert_close(model[1](x), F.group_norm(x, 4, weight, bias, 1e-3))
    assert reports[0].lost == {"running statistics": 2}
    assert type(gb.revert(model)[1]) is nn.GroupNorm


def test_what_is_lost_is_warned_of_unless_a_report_is_asked_for():
    with pytest.warns(UserWarning, match=r"running statistics \(2 of 2 layers\) \(report=print"):
        gb.convert(batch_net(), to="group", groups=4)


def test_groups_that_do_not_divide():
    model = nn.Sequential(nn.BatchNorm2d(8), nn.BatchNorm2d(12), nn.BatchNorm2d(7))
    before = state(model)
    with pytest.raises(
        ValueError, match=r"layer '1' \(BatchNorm2d\) has 12 channels.*use groups=6"
    ):
        gb.convert(model, to="group", groups=8)
    assert state(model) == before
    reports = []
    gb.convert(model, to="group", groups=8, exact=False, report=reports.append)
    assert [m.num_groups for m in model] == [4, 6, 1]  # two channels a group, at least
    assert [change.notes for change in reports[0].changes] == [(), ("6 groups",), ("1 groups",)]


@pytest.mark.parametrize("shape", [(4, 8), (4, 8, 5)])
def test_a_batch_norm_becomes_layer_norm_over_channels_and_positions(shape):
    model = filled(nn.Sequential(nn.BatchNorm1d(8)))
    weight, bias = model[0].weight, model[0].bias
    gb.convert(model, to="layer", report=str)
    x = torch.randn(shape, generator=generator())
    columns = (8, *(1,) * (len(shape) - 2))
    expected = F.layer_norm(x, shape[1:]) * weight.view(columns) + bias.view(columns)
    torch.testing.assert_close(model(x), expected)


def test_a_batch_norm_becomes_instance_norm():
    model = batch_net()
    weight, bias = model[1].weight, model[1].bias
    gb.convert(model, to="instance", report=str)
    assert isinstance(model[1], nn.InstanceNorm2d)
    x = torch.randn(2, 8, 3, 3, generator=generator())
    expected = F.instance_norm(x, weight=weight, bias=bias, eps=1e-3)
    torch.testing.assert_close(model[1](x), expected)
    assert model[1].running_mean is None
    assert list(model[1].state_dict()) == ["weight", "bias"]


def test_group_and_instance_norms_become_batch_norms():
    model = filled(nn.Sequential(nn.GroupNorm(2, 4), nn.InstanceNorm2d(4)))
    weight = model[0].weight
    with pytest.raises(ValueError, match=r"layer '0' .*give dims=1, 2 or 3"):
        gb.convert(model, to="batch")
    reports = []
    gb.convert(model, to="batch", dims=2, report=reports.append)
    assert [type(m) for m in model] == [gb.BatchNorm2d] * 2
    assert model[0].weight is weight
    assert model[1].weight is None  # a parameter is never made
    assert model[0].running_var.tolist() == [1.0] * 4
    assert reports[0].changes[0].notes == ("running statistics start at 0 and 1",)
    x = torch.randn(6, 4, 3, 3, generator=generator())
    model.train()(x)
    expected = nn.BatchNorm2d(4)
    expected(x)
    torch.testing.assert_close(model[0].running_mean, expected.running_mean)


def test_layer_norms_become_rms_norms_and_back():
    model = filled(nn.Sequential(nn.LayerNorm(6), nn.LayerNorm([2, 6], elementwise_affine=False)))
    weight = model[0].weight
    reports = []
    gb.convert(model, to="rms", report=reports.append)
    assert [type(m) for m in model] == [gb.RMSNorm] * 2
    assert model[0].weight is weight
    assert reports[0].lost == {"β": 1}
    x = torch.randn(3, 2, 6, generator=generator())
    torch.testing.assert_close(model[0](x), F.rms_norm(x, [6], weight, 1e-5))
    assert "0.bias" not in model.state_dict()
    gb.convert(model, to="layer", of="rms", report=str)
    assert [type(m) for m in model] == [gb.LayerNorm] * 2
    torch.testing.assert_close(model[0](x), F.layer_norm(x, [6], weight, None, 1e-5))


def test_a_beta_that_was_nothing_is_said_to_have_been():
    reports = []
    gb.convert(nn.Sequential(nn.LayerNorm(6)), to="rms", report=reports.append)
    assert reports[0].lost == {"β, which was 0": 1}


def test_an_rms_norm_with_the_machine_epsilon_becomes_a_layer_norm_with_torchs_default():
    assert gb.convert(nn.RMSNorm(4), to="layer", of="rms", report=str).eps == 1e-5


@pytest.mark.parametrize(
    ("model", "arguments", "message"),
    [
        (nn.BatchNorm2d(4), {"to": "rms", "of": "batch"}, r"dim 1.*to='layer'.*to='group'"),
        (nn.LayerNorm(4), {"to": "group", "of": "layer"}, r"last dims, \[4\].*to='rms'"),
        (nn.BatchNorm2d(4), {"to": "grop"}, "did you mean 'group'"),
        (nn.BatchNorm2d(4), {"to": "group", "of": "bach"}, "did you mean 'batch'"),
        (nn.BatchNorm2d(4), {"to": "group", "groups": 0}, "groups=0 must be at least 1"),
        (nn.BatchNorm2d(4), {"to": "group", "groups": 2.0}, "groups=2.0 must be.*a whole number"),
        (nn.LayerNorm(4), {"to": "group"}, r"no layer of the family batch .*it has: layer"),
        (ThirdParty(4), {"to": "group"}, r"no layer of .*ThirdParty is a subclass"),
    ],
)
def test_swaps_that_cannot_be(model, arguments, message):
    model = nn.Sequential(model)
    before = state(model)
    with pytest.raises(ValueError, match=message):
        gb.convert(model, **arguments)
    assert state(model) == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"to": "group", "groups": 2, "colour": 1}, "'colour' is not an argument of GroupNorm"),
        ({"to": "group", "groups": 2, "affine": True}, "affine= cannot be given"),
        ({"colour": 1}, "colour= applies only to swaps between families"),
        ({"of": "batch"}, "of= applies only to swaps between families"),
        ({"groups": 4}, "groups= applies only to swaps between families"),
        ({"exact": False}, "exact= applies only to swaps between families"),
    ],
)
def test_options_that_will_not_do(arguments, message):
    with pytest.raises(TypeError, match=message):
        gb.convert(nn.Sequential(nn.BatchNorm1d(4)), **arguments)


def test_a_parametrized_bias_cannot_be_dropped():
    model = nn.Sequential(nn.LayerNorm(4))
    parametrize.register_parametrization(model[0], "bias", Doubled())
    with pytest.raises(ValueError, match="parametrized bias, and RMSNorm has none"):
        gb.convert(model, to="rms")


def test_options_are_the_new_layers_arguments():
    model = gb.convert(nn.BatchNorm2d(4), to="group", groups=2, eps=0.5, report=str)
    assert model.eps == 0.5


def test_a_fused_activation_goes_along():
    model = gb.convert(gb.BatchNorm2d(4, activation="relu"), to="group", groups=2, report=str)
    assert model.activation == "relu"
    assert model(torch.randn(2, 4, 3, 3)).min() == 0


def test_a_persons_attributes_buffers_and_parameters_go_along():
    layer = nn.BatchNorm2d(4)
    layer.role = "stem"
    layer.register_buffer("mine", torch.ones(2), persistent=False)
    layer.scale = nn.Parameter(torch.ones(1))
    scale = layer.scale
    gb.convert(layer, to="group", groups=2, report=str)
    assert layer.role == "stem"
    assert layer.scale is scale
    assert list(layer.state_dict()) == ["weight", "bias", "scale"]
    assert layer.mine.tolist() == [1, 1]


def test_dtype_mode_and_requires_grad_go_along():
    layer = nn.GroupNorm(2, 4, dtype=torch.float64).eval()
    layer.weight.requires_grad_(False)
    gb.convert(layer, to="batch", dims=2, report=str)
    assert layer.running_var.dtype == torch.float64
    assert not layer.training
    assert not layer.weight.requires_grad


def test_only_the_families_asked_for_are_swapped():
    model = nn.Sequential(nn.BatchNorm2d(4), nn.InstanceNorm2d(4), nn.LayerNorm(4), ThirdParty(4))
    reports = []
    gb.convert(model, to="group", groups=2, of=["batch", "instance"], report=reports.append)
    assert [type(m) for m in model] == [gb.GroupNorm, gb.GroupNorm, nn.LayerNorm, ThirdParty]
    assert [one.names for one in reports[0].left] == [("3",)]


def test_gammabetas_own_families_are_there_if_it_has_them():
    for family, stem in (("batch-renorm", "BatchRenorm"), ("ghost", "GhostBatchNorm")):
        assert (family in FAMILIES) == hasattr(layers, f"{stem}2d")
        if family in FAMILIES:
            model = batch_net()
            mean = model[1].running_mean
            gb.convert(model, to=family, report=str)
            assert type(model[1]) is getattr(layers, f"{stem}2d")
            assert model[1].running_mean is mean
            model(images())
            gb.convert(model, to="batch", of=family, report=str)
            assert type(model[1]) is gb.BatchNorm2d


def test_families_know_their_members():
    assert family_of(gb.BatchNorm3d(2)) == family_of(nn.SyncBatchNorm(2)) == "batch"
    assert family_of(ThirdParty(2)) is None
    norm = nn.BatchNorm1d(2)
    parametrize.register_parametrization(norm, "weight", Doubled())
    assert family_of(norm) == "batch"
    assert convert_function is gb.convert
