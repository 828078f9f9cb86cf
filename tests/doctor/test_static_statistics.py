"""The values in a norm's buffers: GB105, GB106, GB107."""

from __future__ import annotations

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import gammabeta as gb
from tests.doctor.static_models import (
    HandmadeBatchNorm,
    Net,
    examined,
    nothing,
    pretrained,
    the,
)


@pytest.fixture
def net() -> Net:
    return pretrained()


# GB105


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_statistics_in_half_precision(dtype: torch.dtype) -> None:
    net = Net().to(dtype)
    finding = the("GB105", net)
    assert (finding.severity, finding.layers) == ("warning", ("backbone.1", "backbone.4"))
    assert finding.repair is not None
    assert the("GB105", copy.deepcopy(net).eval()).severity == "info"
    finding.repair(net)
    assert nothing(net)
    assert net(torch.randn(4, 4, dtype=dtype)).dtype == dtype


def test_what_is_lost_depends_on_the_momentum() -> None:
    lost = [
        the("GB105", nn.BatchNorm1d(4, momentum=m).bfloat16()).numbers["stops at a distance of, %"]
        for m in (0.1, 0.01)
    ]
    assert lost == pytest.approx([1.95, 19.5], rel=0.01)


def test_half_precision_around_float_norms() -> None:
    net = Net().bfloat16()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm1d):
            module.float()
    assert nothing(net)


def test_norms_without_statistics_in_half_precision() -> None:
    assert nothing(nn.Sequential(nn.LayerNorm(4), nn.GroupNorm(2, 4), nn.InstanceNorm1d(4)).half())


def test_a_float16_overflow_is_one_error() -> None:
    norm = nn.BatchNorm1d(4).half()
    norm.running_var[1] = math.inf
    assert the("GB105", norm.eval()).severity == "error"


@pytest.mark.parametrize("dtype", [torch.int8, torch.float16])
def test_a_counter_that_is_too_narrow(dtype: torch.dtype) -> None:
    norm = nn.BatchNorm1d(4, momentum=None)
    norm.num_batches_tracked = norm.num_batches_tracked.to(dtype)
    finding = the("GB105", norm)
    assert finding.severity == "error"
    norm.momentum = 0.1
    assert the("GB105", norm).severity == "info"
    assert finding.repair is not None
    finding.repair(norm)
    assert norm.num_batches_tracked.dtype == torch.int64


def test_eps_and_statistics_in_half_precision_are_one_fault() -> None:
    report = examined(nn.BatchNorm1d(4, eps=1e-12).half())
    assert [(f.code, f.severity) for f in report.findings] == [
        ("GB104", "error"),
        ("GB105", "info"),
    ]


# GB106


def test_trained_weights_and_initial_statistics(net: Net) -> None:
    fresh = Net()
    fresh.load_state_dict(dict(net.named_parameters()), strict=False)
    finding = the("GB106", fresh)
    assert (finding.severity, finding.layers) == ("warning", ("backbone.1", "backbone.4"))
    assert nothing(net)


def fresh_models() -> dict[str, nn.Module]:
    models: dict[str, nn.Module] = {
        name: Net() for name in ("new", "zero", "dcgan", "all", "new β")
    }
    for name, model in models.items():
        for norm in (m for m in model.modules() if isinstance(m, nn.BatchNorm1d)):
            if name == "zero":
                nn.init.zeros_(norm.weight)
            elif name == "dcgan":
                nn.init.normal_(norm.weight, 1, 0.02)
            elif name == "new β":
                nn.init.constant_(norm.bias, 0.3)
    for parameter in models["all"].parameters():
        nn.init.uniform_(parameter, -0.1, 0.1)
    models["lazy"] = nn.Sequential(nn.LazyLinear(4), nn.LazyBatchNorm1d())
    models["instance"] = nn.InstanceNorm2d(4, affine=True, track_running_stats=True)
    models["converted"] = gb.convert(Net())
    models["one channel"] = nn.BatchNorm1d(1)
    return models


@pytest.mark.parametrize("name", fresh_models())
def test_a_new_model_is_healthy(name: str) -> None:
    torch.manual_seed(0)
    assert nothing(fresh_models()[name])


def test_a_counter_above_zero_and_initial_statistics() -> None:
    norm = nn.BatchNorm1d(4)
    norm.num_batches_tracked += 5
    assert "is 5" in str(the("GB106", norm).numbers["sign of training"])


def test_an_optimizer_that_has_made_steps() -> None:
    net = Net().eval()
    optimizer = torch.optim.Adam(net.parameters())
    assert nothing(net, optimizer=optimizer)
    net(torch.randn(8, 4)).square().mean().backward()
    optimizer.step()
    assert the("GB106", net, optimizer=optimizer).layers == ("backbone.1", "backbone.4")


def test_a_norm_without_parameters_is_judged_by_those_around_it() -> None:
    net = Net(lambda c: nn.BatchNorm1d(c, affine=False)).eval()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    net(torch.randn(8, 4)).square().mean().backward()
    optimizer.step()
    assert the("GB106", net, optimizer=optimizer).layers == ("backbone.1", "backbone.4")


def test_only_the_variance_is_initial(net: Net) -> None:
    net.backbone[1].running_var.fill_(1)
    assert "one of running mean and variance" in the("GB106", net).cause


def test_a_new_head_on_a_trained_backbone_is_healthy(net: Net) -> None:
    assert nothing(nn.Sequential(net, nn.Linear(2, 8), nn.BatchNorm1d(8), nn.Linear(8, 2)))


def test_initial_statistics_without_damage_are_information(net: Net) -> None:
    x = torch.randn(64, 4)
    for layer in (net.backbone[1], net.backbone[4]):
        layer.reset_running_stats()
    with torch.no_grad():
        y = net.eval()(x)
    net.train()
    batches = list(zip(x.split(16), y.split(16), strict=True))
    finding = the("GB106", net, batches, F.mse_loss)
    assert finding.severity == "info"
    shifted = [(x + 10, y) for x, y in batches]
    with torch.no_grad():
        calibrated = copy.deepcopy(net)
        gb.calibrate(calibrated, [x for x, _ in shifted])
        y = calibrated.eval()(x + 10)
    batches = list(zip((x + 10).split(16), y.split(16), strict=True))
    assert the("GB106", net, batches, F.mse_loss).severity == "error"


def test_a_folded_frozen_norm_has_initial_statistics() -> None:
    frozen = gb.FrozenBatchNorm2d(4)
    frozen.weight.add_(torch.randn(4))
    frozen.bias.add_(torch.randn(4))
    assert nothing(frozen)


# GB107


@pytest.mark.parametrize(
    ("buffer", "value", "word"),
    [("running_mean", math.nan, "NaN"), ("running_var", math.inf, "infinite"),
     ("running_var", -1e-3, "negative"), ("running_mean", -math.inf, "infinite")],
)  # fmt: skip
@pytest.mark.parametrize("convert", [False, True])
def test_bad_buffers(net: Net, buffer: str, value: float, word: str, convert: bool) -> None:
    getattr(net.backbone[4], buffer)[3] = value
    model = gb.convert(net) if convert else net
    finding = the("GB107", model.eval())
    assert (finding.severity, finding.layer) == ("error", "backbone.4")
    assert word in finding.cause
    assert finding.numbers["values"] == 1


def test_a_variance_of_zero_in_every_channel(net: Net) -> None:
    net.backbone[1].running_var[1:] = 0
    assert nothing(net)
    net.backbone[1].running_var.zero_()
    assert the("GB107", net).severity == "warning"


def test_a_negative_mean_is_right(net: Net) -> None:
    net.backbone[4].running_mean.fill_(-3)
    assert nothing(net)


def test_bad_buffers_of_norms_written_by_hand() -> None:
    norm = HandmadeBatchNorm(4, 0.99)
    norm.running_var[2] = -1
    assert the("GB107", nn.Sequential(norm)).severity == "error"


def test_the_cost_of_bad_buffers(net: Net) -> None:
    net.backbone[4].running_mean[0] = math.nan
    batches = [(torch.randn(16, 4), torch.randn(16, 2)) for _ in range(2)]
    assert "instead of" in the("GB107", net, batches, F.mse_loss).cost


@pytest.mark.parametrize("fault", ["GB106", "GB107"])
def test_statistics_that_hold_nothing_are_measured_on_batches(net: Net, fault: str) -> None:
    for _ in range(60):
        net(torch.randn(16, 4) + 1)
    batches = [(x, net.eval()(x).detach()) for x in torch.randn(8, 64, 4) + 1]
    norm, good = net.backbone[1], copy.deepcopy(net.state_dict())
    norm.reset_running_stats() if fault == "GB106" else norm.running_var[3:].fill_(math.nan)
    assert the(fault, net).repair is None  # without batches there is nothing to measure
    (found,) = (f for f in examined(net, batches, F.mse_loss).findings if f.code == fault)
    assert found.repair is not None
    assert found.repair(net) == "backbone.1: running statistics measured on 8 batches"
    assert torch.allclose(norm.running_var, good["backbone.1.running_var"], rtol=0.3)
    assert norm.running_mean.isfinite().all()
    assert examined(net, batches, F.mse_loss).healthy


# All


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")
def test_a_scripted_model(net: Net) -> None:
    net.backbone[1].momentum = 0.99
    net.backbone[4].running_var[0] = math.nan
    scripted = torch.jit.script(net)  # type: ignore[no-untyped-call]
    assert {f.code for f in examined(scripted).findings} == {"GB103", "GB107"}


def test_the_model_is_left_as_it_was(net: Net) -> None:
    net.backbone[1].momentum = 0.99
    before = {name: value.clone() for name, value in net.state_dict().items()}
    batches = [(torch.randn(16, 4), torch.randn(16, 2)) for _ in range(2)]
    examined(net, batches, F.mse_loss)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
