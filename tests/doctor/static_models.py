"""Models of the tests on static rules, and what the rules find in them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
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


torchs_own_warnings = pytest.mark.filterwarnings("ignore")


def of(code: str, model: Any, **kwargs: Any) -> list[Finding]:
    """Return the findings of one rule, which must not have failed."""
    report: Report = gb.examine(model, select=[code], **kwargs)
    assert not report.notes
    return report.findings


def severities(code: str, model: Any, **kwargs: Any) -> list[str]:
    return [each.severity for each in of(code, model, **kwargs)]


class Held(nn.Module):
    """A linear layer and a norm that is held in some way."""

    def __init__(self, norm: Any, features: int = 8) -> None:
        super().__init__()
        self.linear = nn.Linear(features, features, bias=False)
        self.held = norm

    def forward(self, x: Tensor) -> Tensor:
        held = self.held
        if isinstance(held, dict):
            held = held["a"]
        if isinstance(held, (list, tuple, nn.ModuleList)):
            held = held[0]
        y: Tensor = held(self.linear(x))
        return y


BATCHES = [torch.randn(6, 8, generator=torch.Generator().manual_seed(0)) for _ in range(2)]


def net(norm: nn.Module | None = None) -> nn.Sequential:
    return nn.Sequential(nn.Linear(8, 8, bias=False), norm or nn.BatchNorm1d(8))


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


class Functional(nn.Module):
    """Holds statistics; subclasses call the function."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(8))
        self.register_buffer("var", torch.ones(8))
        self.plain_mean, self.plain_var = torch.zeros(8), torch.ones(8)
        self.weight = nn.Parameter(torch.ones(8))
        self.conv_weight = nn.Parameter(torch.randn(8, 8))
