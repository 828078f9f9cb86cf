"""Frozen parameters with moving statistics, and statistics that stand still: GB101, GB102."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import gammabeta as gb
from tests.doctor.static_models import (
    Net,
    harmless,
    nothing,
    pretrained,
    the,
)


@pytest.fixture
def net() -> Net:
    return pretrained()


# GB101


def test_a_frozen_backbone_in_training_mode(net: Net) -> None:
    net.backbone.requires_grad_(False)
    finding = the("GB101", net)
    assert finding.severity == "warning"
    assert finding.layers == ("backbone.1", "backbone.4")
    assert finding.fix == "gb.freeze(model.backbone)"


def test_the_repair_freezes(net: Net) -> None:
    net.backbone.requires_grad_(False)
    finding = the("GB101", net)
    assert finding.repair is not None
    finding.repair(net)
    assert nothing(net.train())


def test_a_frozen_backbone_in_evaluation(net: Net) -> None:
    net.backbone.requires_grad_(False).eval()
    assert nothing(net)


def test_a_frozen_backbone_that_gammabeta_froze(net: Net) -> None:
    net.backbone.requires_grad_(False)
    gb.freeze(net.backbone)
    assert nothing(net.train())


def test_norms_without_parameters_in_a_frozen_backbone() -> None:
    net = pretrained(lambda c: nn.BatchNorm1d(c, affine=False))
    net.backbone.requires_grad_(False)
    assert nothing(net)


def test_only_beta_is_frozen_as_in_a_reidentification_neck(net: Net) -> None:
    net.backbone[4].bias.requires_grad_(False)
    assert nothing(net)


def test_only_trained_norms_are_frozen(net: Net) -> None:
    for layer in (net.backbone[1], net.backbone[4]):
        layer.requires_grad_(False)
    assert the("GB101", net).fix == "gb.freeze(model.backbone[1])\ngb.freeze(model.backbone[4])"


def test_new_norms_frozen_at_one_and_zero_have_no_safe_repair() -> None:
    net = Net()
    net.backbone[1].requires_grad_(False)
    finding = the("GB101", net)
    assert (finding.severity, finding.repair) == ("warning", None)


def test_a_momentum_encoder_follows_its_twin(net: Net) -> None:
    slow = copy.deepcopy(net.backbone).requires_grad_(False)
    assert nothing(nn.ModuleDict({"fast": net, "slow": slow}))


def test_a_teacher_of_another_kind_does_not_follow(net: Net) -> None:
    torch.manual_seed(1)
    teacher = Net()
    teacher(torch.randn(8, 4))
    teacher.requires_grad_(False)
    finding = the("GB101", nn.ModuleDict({"student": net, "teacher": teacher}))
    assert finding.severity == "warning"
    assert finding.fix == "gb.freeze(model.teacher)"


def test_a_model_that_trains_nothing_is_information(net: Net) -> None:
    assert the("GB101", net.requires_grad_(False)).severity == "info"


def test_a_discriminator_is_frozen_for_half_a_step(net: Net) -> None:
    gan = nn.ModuleDict({"generator": Net(), "discriminator": net.requires_grad_(False)})
    assert the("GB101", gan).severity == "info"


def test_a_linear_probe_leaves_the_backbone_to_no_optimizer(net: Net) -> None:
    optimizer = torch.optim.SGD(net.head.parameters(), lr=0.1)
    assert the("GB101", net, optimizer=optimizer).severity == "warning"
    assert nothing(net, optimizer=torch.optim.SGD(net.parameters(), lr=0.1))


def test_one_of_two_optimizers_is_no_probe(net: Net) -> None:
    gan = nn.ModuleDict({"generator": Net(), "discriminator": net})
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    assert nothing(gan, optimizer=optimizer)


def test_the_damage_of_moving_statistics_makes_an_error(net: Net) -> None:
    net.backbone.requires_grad_(False)
    x = torch.randn(64, 4) + 1
    with torch.no_grad():
        y = net.eval()(x)
    net.train()
    batches = list(zip((3 * x).split(16), y.split(16), strict=True))
    finding = the("GB101", net, batches, F.mse_loss)
    assert finding.severity == "error"
    assert finding.cost.startswith("loss ")


# GB102


def test_tracking_turned_off_after_construction() -> None:
    net = Net()
    net.backbone[1].track_running_stats = False
    finding = the("GB102", net)
    assert finding.severity == "error"
    assert finding.layers == ("backbone.1",)
    assert finding.repair is not None
    finding.repair(net)
    assert nothing(net)


def test_tracking_turned_off_with_trained_statistics(net: Net) -> None:
    net.backbone[1].track_running_stats = False
    assert the("GB102", net).severity == "warning"
    assert harmless(net.eval())


def test_a_frozen_layer_may_have_its_tracking_off(net: Net) -> None:
    net.backbone[1].track_running_stats = False
    net.backbone[1].eval()
    assert nothing(net)


def test_built_without_tracking() -> None:
    assert nothing(Net(lambda c: nn.BatchNorm1d(c, track_running_stats=False)))


def test_deleted_buffers(net: Net) -> None:
    norm = net.backbone[1]
    norm.running_mean = norm.running_var = None
    assert the("GB102", net).severity == "warning"
    norm.track_running_stats = False
    assert the("GB102", net).severity == "warning"


def test_test_time_adaptation_deletes_buffers_on_purpose(net: Net) -> None:
    net.requires_grad_(False)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm1d):
            module.requires_grad_(True)
            module.track_running_stats = False
            module.running_mean = module.running_var = None
    assert nothing(net)


def test_tracking_turned_on_without_buffers() -> None:
    net = Net(lambda c: nn.BatchNorm1d(c, track_running_stats=False))
    net.backbone[1].track_running_stats = True
    assert "turned on" in the("GB102", net).cause


def test_half_of_the_buffers(net: Net) -> None:
    net.backbone[1].running_mean = None
    assert the("GB102", net).severity == "error"


def test_an_instance_norm_that_tracks_without_buffers() -> None:
    norm = nn.InstanceNorm2d(4)
    norm.track_running_stats = True
    assert the("GB102", norm).severity == "error"
    tracked = nn.InstanceNorm2d(4, track_running_stats=True)
    tracked.track_running_stats = False
    assert nothing(tracked)
