"""A norm's settings: momentum and ε, GB103 and GB104."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import Tensor, nn

import gammabeta as gb
from tests.doctor.static_models import (
    HandmadeBatchNorm,
    Net,
    harmless,
    nothing,
    pretrained,
    the,
)


@pytest.fixture
def net() -> Net:
    return pretrained()


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


def test_a_norm_written_by_hand_is_asked_what_its_momentum_means() -> None:
    assert nothing(nn.Sequential(nn.Conv2d(3, 4, 1), HandmadeBatchNorm(4, 0.99)))
    model = nn.Sequential(nn.Conv2d(3, 4, 1), HandmadeBatchNorm(4, 0.1))
    finding = the("GB103", model)
    assert finding.numbers["measured share of the new batch"] == pytest.approx(0.9)
    assert finding.fix.startswith("model[1].momentum = 0.9")


class FrozenBatchNorm2d(nn.Module):
    """As detectors have it: everything is a buffer, and nothing moves."""

    def __init__(self, c: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        for name, value in (("weight", 1.0), ("bias", 0.0), ("running_mean", 0.0)):
            self.register_buffer(name, torch.full((c,), value))
        self.register_buffer("running_var", torch.ones(c))

    def forward(self, x: Tensor) -> Tensor:
        scale = self.weight * (self.running_var + self.eps).rsqrt()
        bias = self.bias - self.running_mean * scale
        return x * scale[:, None, None] + bias[:, None, None]


def test_a_norm_whose_statistics_never_move_has_no_momentum() -> None:
    norm = FrozenBatchNorm2d(4)
    assert nothing(nn.Sequential(nn.Conv2d(3, 4, 1), norm))
    norm.momentum = 0.0  # type: ignore[assignment]
    assert the("GB103", nn.Sequential(nn.Conv2d(3, 4, 1), norm)).severity == "error"


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
    assert the("GB105", nn.BatchNorm1d(8, eps=1e-12).half().eval()).severity == "info"


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
