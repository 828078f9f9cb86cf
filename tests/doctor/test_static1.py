"""Static rules about a norm's own settings and buffers: GB101 to GB107."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import gammabeta as gb
from gammabeta.doctor import Finding, Report

RULES = [f"GB10{n}" for n in range(1, 8)]


def examined(model: nn.Module, *args: Any, **kwargs: Any) -> Report:
    report = gb.examine(model, *args, select=RULES, progress=False, **kwargs)
    assert not report.notes
    return report


def the(code: str, model: nn.Module, *args: Any, **kwargs: Any) -> Finding:
    """The only finding, which has this code."""
    (finding,) = examined(model, *args, **kwargs).findings
    assert finding.code == code, finding
    return finding


def nothing(model: nn.Module, *args: Any, **kwargs: Any) -> bool:
    return not examined(model, *args, **kwargs).findings


def harmless(model: nn.Module, *args: Any, **kwargs: Any) -> bool:
    return examined(model, *args, **kwargs).healthy


class Net(nn.Module):
    def __init__(self, make: Any = nn.BatchNorm1d) -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.Linear(4, 8), make(8), nn.ReLU(), nn.Linear(8, 8), make(8))
        self.head = nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.backbone(x))


def pretrained(make: Any = nn.BatchNorm1d) -> Net:
    torch.manual_seed(0)
    net = Net(make)
    with torch.no_grad():
        for _ in range(3):
            net(torch.randn(16, 4) + 1)
        for module in net.modules():
            if isinstance(module, nn.BatchNorm1d) and module.affine:
                module.weight.add_(0.1 * torch.randn(8))
                module.bias.add_(0.1 * torch.randn(8))
    return net


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


def test_new_norms_frozen_at_one_and_zero_are_without_parameters_in_other_words() -> None:
    net = Net()
    net.backbone[1].requires_grad_(False)
    assert the("GB101", net).severity == "info"


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


# GB103


@pytest.mark.parametrize("momentum", [0.1, 0.01, 0.0003, 0.5, None])
def test_usual_momentum(momentum: float | None) -> None:
    assert nothing(nn.BatchNorm2d(4, momentum=momentum))
    assert nothing(gb.BatchNorm2d(4, momentum=momentum))


@pytest.mark.parametrize(
    ("momentum", "severity", "better"),
    [(0.99, "warning", 0.01), (0.9, "warning", 0.1), (1.0, "warning", 0.1), (0.0, "error", 0.1),
     (-0.1, "error", 0.1), (1.5, "error", 0.1)],
)  # fmt: skip
def test_unusual_momentum(momentum: float, severity: str, better: float) -> None:
    for norm in (nn.BatchNorm2d(4, momentum=momentum), gb.GhostBatchNorm2d(4, momentum=momentum)):
        finding = the("GB103", norm)
        assert (finding.severity, finding.layer) == (severity, "")
        assert finding.repair is not None
        finding.repair(norm)
        assert norm.momentum == pytest.approx(better)


def test_momentum_zero_with_trained_statistics(net: Net) -> None:
    net.backbone[1].momentum = 0.0
    assert the("GB103", net).severity == "warning"
    assert harmless(net.eval())


def test_the_momentum_of_a_model_in_evaluation_counts_unless_it_is_frozen() -> None:
    net = Net(lambda c: nn.BatchNorm1d(c, momentum=0.99)).eval()
    assert the("GB103", net).layers == ("backbone.1", "backbone.4")
    assert nothing(gb.freeze(net))


def test_the_momentum_of_layers_in_evaluation_beside_others_is_of_no_matter(net: Net) -> None:
    net.backbone[1].momentum = 0.99
    net.backbone[1].eval()
    assert nothing(net)


class Handmade(nn.Module):
    """A batch norm whose momentum is the share of the old value, as in Keras."""

    def __init__(self, c: int, momentum: float) -> None:
        super().__init__()
        self.momentum = momentum
        self.weight, self.bias = nn.Parameter(torch.ones(c)), nn.Parameter(torch.zeros(c))
        self.register_buffer("running_mean", torch.zeros(c))
        self.register_buffer("running_var", torch.ones(c))

    def forward(self, x: Tensor) -> Tensor:
        mean, var = self.running_mean, self.running_var
        if self.training:
            mean, var = x.mean((0, 2, 3)), x.var((0, 2, 3))
            keep = self.momentum
            self.running_mean.mul_(keep).add_((1 - keep) * mean.detach())
            self.running_var.mul_(keep).add_((1 - keep) * var.detach())
        c = (None, slice(None), None, None)
        return (x - mean[c]) * (var[c] + 1e-5).rsqrt() * self.weight[c] + self.bias[c]


class HandmadeBatchNorm(Handmade):
    pass


def test_a_norm_written_by_hand_is_asked_what_its_momentum_means() -> None:
    assert nothing(nn.Sequential(nn.Conv2d(3, 4, 1), HandmadeBatchNorm(4, 0.99)))
    model = nn.Sequential(nn.Conv2d(3, 4, 1), HandmadeBatchNorm(4, 0.1))
    finding = the("GB103", model)
    assert finding.numbers["measured share of the new batch"] == pytest.approx(0.9)
    assert finding.fix.startswith("model[1].momentum = 0.9")


class PublishedBlock(nn.Module):
    """A block as transformers publishes some, with TensorFlow's momentum."""

    __module__ = "transformers.models.efficientnet.modeling_efficientnet"

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(4, momentum=0.99)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x)


def test_the_momentum_of_a_published_architecture_is_information() -> None:
    assert the("GB103", nn.Sequential(PublishedBlock())).severity == "info"


def test_the_momentum_of_instance_norms_that_track() -> None:
    assert nothing(nn.InstanceNorm1d(4, momentum=0.99))
    norm = nn.InstanceNorm1d(4, momentum=0.99, track_running_stats=True)
    assert the("GB103", norm).severity == "warning"


def test_the_momentum_of_a_recurrent_layer() -> None:
    layer = gb.RecurrentBatchNormLSTM(4, 8, momentum=0.9, max_length=3)
    assert the("GB103", layer).layers == ("norm_ih_l0", "norm_hh_l0", "norm_c_l0")


# GB104


@pytest.mark.parametrize("eps", [1e-12, 1e-8, 1e-6, 1e-5, 1e-3])
def test_usual_eps(eps: float) -> None:
    norms = nn.BatchNorm1d(8, eps=eps), nn.LayerNorm(8, eps=eps), nn.GroupNorm(2, 8, eps=eps)
    assert nothing(nn.Sequential(*norms, nn.RMSNorm(8, eps=eps), nn.RMSNorm(8)))


def test_eps_that_float16_loses() -> None:
    model = nn.Sequential(nn.Linear(8, 8), nn.LayerNorm(8, eps=1e-12))
    assert nothing(model)
    assert harmless(copy.deepcopy(model).bfloat16())
    finding = the("GB104", model.half())
    assert (finding.severity, finding.layer) == ("warning", "1")
    assert finding.repair is not None
    finding.repair(model)
    assert nothing(model)


def test_eps_that_makes_nan_of_constant_input() -> None:
    class Rounded(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight, self.eps = nn.Parameter(torch.ones(8)), 1e-12

        def forward(self, x: Tensor) -> Tensor:
            x = x - x.mean(-1, keepdim=True)
            return self.weight * x / (x.square().mean(-1, keepdim=True) + self.eps).sqrt()

    class RoundedLayerNorm(Rounded):
        pass

    assert nothing(nn.Sequential(RoundedLayerNorm()))
    assert the("GB104", nn.Sequential(RoundedLayerNorm().half())).severity == "error"


def test_eps_of_a_half_precision_batch_norm_in_evaluation_divides_by_the_running_variance() -> None:
    assert nothing(nn.BatchNorm1d(8, eps=1e-12).half().eval())


@pytest.mark.parametrize(
    ("eps", "severity"), [(0.0, "warning"), (-1e-5, "error"), (math.nan, "error"), (1.0, "warning")]
)
def test_unusual_eps(eps: float, severity: str) -> None:
    for norm in (nn.LayerNorm(8, eps=eps), nn.BatchNorm2d(8, eps=eps)):
        assert the("GB104", norm).severity == severity


def test_eps_zero_and_a_running_variance_of_zero() -> None:
    norm = nn.BatchNorm2d(2, eps=0.0)
    norm.running_var[0] = 0
    assert the("GB104", norm).severity == "error"


@pytest.mark.parametrize("norm", [nn.BatchNorm1d(8), nn.LayerNorm(8), nn.RMSNorm(8, eps=1e-5)])
def test_eps_against_the_variance_of_batches(norm: nn.Module) -> None:
    batches = [torch.randn(32, 8) for _ in range(3)]
    assert nothing(norm, batches)
    assert nothing(norm, [0.02 * x for x in batches])
    assert "hardly normalizes" in the("GB104", norm, [1e-4 * x for x in batches]).cause


def test_a_large_eps_is_right_where_variances_are_larger() -> None:
    batches = [30 * torch.randn(32, 8) for _ in range(3)]
    assert nothing(nn.LayerNorm(8, eps=1.0), batches)


def test_small_random_weights_before_a_norm_are_information() -> None:
    model = nn.Sequential(nn.Linear(8, 8), nn.LayerNorm(8))
    nn.init.normal_(model[0].weight, std=1e-4)
    nn.init.zeros_(model[0].bias)
    batches = [torch.randn(32, 8) for _ in range(3)]
    assert the("GB104", model, batches).severity == "info"
    nn.init.normal_(model[1].bias)
    assert the("GB104", model, batches).severity == "warning"


def test_dead_channels_are_no_matter_of_eps() -> None:
    alive = torch.tensor([1.0, 1, 1, 0, 0, 0, 0, 0])
    assert nothing(nn.BatchNorm1d(8), [torch.randn(32, 8) * alive for _ in range(3)])


# GB105


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_statistics_in_half_precision(dtype: torch.dtype) -> None:
    net = Net().to(dtype)
    finding = the("GB105", net)
    assert (finding.severity, finding.layers) == ("warning", ("backbone.1", "backbone.4"))
    assert finding.repair is not None
    assert nothing(copy.deepcopy(net).eval())
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
