"""Models as strangers write them, which the static rules once judged wrongly."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import gammabeta as gb
from tests.doctor.static_models import Held, Net, of, pretrained, severities


def test_a_compiled_model_is_examined_as_it_is_written() -> None:
    x, y = torch.randn(32, 4), torch.randn(32, 2)
    net = Net()
    net.backbone[1].momentum = 0.99
    model = torch.compile(net, backend="eager")
    report = gb.examine(model, [(x, y)] * 2, F.mse_loss)
    assert not report.notes
    assert report.passes
    (found,) = (f for f in report.findings if f.severity != "info")
    assert (found.code, found.layers) == ("GB103", ("_orig_mod.backbone.1",))


def test_norms_of_a_frozen_detector_and_a_new_head_need_no_finding() -> None:
    detector = nn.Sequential(pretrained().backbone.eval().requires_grad_(False), nn.Linear(8, 3))
    assert gb.examine(detector).healthy


# Settings and statistics under other names, in other types


class MovingNorm(nn.Module):
    """A batch norm as a textbook has it, with TensorFlow's names."""

    def __init__(self, c: int, momentum: float = 0.1) -> None:
        super().__init__()
        self.gamma, self.beta = nn.Parameter(torch.ones(c)), nn.Parameter(torch.zeros(c))
        self.momentum = momentum
        self.register_buffer("moving_mean", torch.zeros(c))
        self.register_buffer("moving_var", torch.ones(c))

    def forward(self, x: Tensor) -> Tensor:
        mean, var = self.moving_mean, self.moving_var
        if self.training:
            mean, var = x.mean(0), x.var(0, correction=0)
            with torch.no_grad():
                self.moving_mean.lerp_(mean, self.momentum)
                self.moving_var.lerp_(var, self.momentum)
        return self.gamma * (x - mean) * (var + 1e-5).rsqrt() + self.beta


def test_a_norm_with_the_names_of_tensorflow() -> None:
    model = nn.Sequential(nn.Linear(4, 8), MovingNorm(8))
    assert gb.examine(model).healthy
    model[1].moving_var[2] = math.nan
    assert severities("GB107", model) == ["error"]
    assert severities("GB103", nn.Sequential(MovingNorm(8, 0.99))) == ["warning"]
    assert severities("GB105", nn.Sequential(MovingNorm(8)).half()) == ["warning"]


@pytest.mark.parametrize("number", [np.float32, torch.tensor])
def test_settings_that_are_numbers_of_other_kinds(number: Any) -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8, momentum=number(0.99)))
    (found,) = of("GB103", model)
    assert found.repair is not None
    assert found.repair(model).endswith("→ 0.01")
    half = nn.Sequential(nn.Linear(4, 8), nn.LayerNorm(8, eps=number(1e-12))).half()
    assert severities("GB104", half) == ["warning"]


def test_initial_statistics_beside_trained_biases() -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8, affine=False))
    assert not of("GB106", model)
    nn.init.normal_(model[0].bias, std=3)
    assert severities("GB106", model) == ["warning"]


# Norms that the model does not contain


class Slots:
    __slots__ = ("norm",)

    def __init__(self, norm: nn.Module) -> None:
        self.norm = norm

    def __call__(self, x: Tensor) -> Any:
        return self.norm(x)


class Filled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cache: dict[int, nn.Module] = {}

    def forward(self, x: Tensor) -> Any:
        if x.shape[1] not in self.cache:
            self.cache[x.shape[1]] = nn.BatchNorm1d(x.shape[1])
        return self.cache[x.shape[1]](x)


class FilledRightly(Filled):
    def __init__(self) -> None:
        super().__init__()
        self.cache = nn.ModuleDict()  # type: ignore[assignment]


def test_norms_that_the_model_does_not_contain() -> None:
    replaced, norm = nn.Sequential(nn.Linear(8, 8)), nn.BatchNorm1d(8)
    replaced.forward = lambda x: norm(x)  # type: ignore[method-assign]
    for model in (Held(Slots(nn.BatchNorm1d(8))), Filled(), replaced):
        assert severities("GB108", model) == ["error"]
    assert not of("GB108", FilledRightly())


NORMS = {"batch": nn.BatchNorm1d, "layer": nn.LayerNorm}


class FromTable(nn.Module):
    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind

    def forward(self, x: Tensor) -> Any:
        return NORMS[self.kind](8)(x)


def test_a_table_of_norms_in_forward() -> None:
    assert severities("GB109", FromTable("batch")) == ["error"]
    assert severities("GB109", FromTable("layer")) == ["warning"]


# Functional batch norms


class Functional(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(8))
        self.register_buffer("var", torch.ones(8))
        self.frozen = False
        self.batch = True

    def normalized(self, x: Tensor) -> Tensor:
        return F.batch_norm(x, self.mean, self.var, training=True)


def normalized(x: Tensor, mean: Tensor, var: Tensor, training: bool = True) -> Tensor:
    return F.batch_norm(x, mean, var, training=training)


class ByDefault(Functional):
    def forward(self, x: Tensor) -> Tensor:
        return normalized(x, self.mean, self.var)


class ByAttribute(Functional):
    def forward(self, x: Tensor) -> Tensor:
        return F.batch_norm(x, self.mean, self.var, training=not self.frozen)


class ByVariable(Functional):
    def forward(self, x: Tensor) -> Tensor:
        by_batch = self.training or True
        return F.batch_norm(x, self.mean, self.var, training=by_batch)


class InCheckpoint(Functional):
    def forward(self, x: Tensor) -> Any:
        return checkpoint(self.normalized, x, use_reentrant=False)


class Passed(Functional):
    def forward(self, x: Tensor) -> Tensor:
        return normalized(x, self.mean, self.var, self.training)


class Switched(Functional):
    def train(self, mode: bool = True) -> Switched:
        self.batch = mode
        return super().train(mode)

    def forward(self, x: Tensor) -> Tensor:
        return F.batch_norm(x, self.mean, self.var, training=self.batch)


class Deployed(Functional):
    def __init__(self) -> None:
        super().__init__()
        self.live = True

    def forward(self, x: Tensor) -> Tensor:
        return F.batch_norm(x, self.mean, self.var, training=self.live)


def deploy(model: nn.Module) -> None:
    for module in model.modules():
        if hasattr(module, "live"):
            module.live = False  # type: ignore[assignment]


class Both(Functional):
    def forward(self, x: Tensor) -> Tensor:
        by_batch = self.training and not self.frozen
        return F.batch_norm(x, self.mean, self.var, training=by_batch)


class ThroughMethods(Functional):
    def by_mode(this, x: Tensor, training: bool = True) -> Tensor:
        return F.batch_norm(x, this.mean, this.var, training=training)

    @staticmethod
    def static(x: Tensor, mean: Tensor, var: Tensor, training: bool = True) -> Tensor:
        return F.batch_norm(x, mean, var, training=training)

    def forward(self, x: Tensor) -> Tensor:
        x = self.by_mode(x, self.training)
        return self.static(x, self.mean, self.var, self.training)


class FromOutside(Functional):
    def forward(self, x: Tensor, training: bool = True) -> Tensor:
        return F.batch_norm(x, self.mean, self.var, training=training)


@pytest.mark.parametrize("cls", [ByDefault, ByAttribute, ByVariable, InCheckpoint])
def test_training_that_is_true_in_other_words(cls: type[nn.Module]) -> None:
    assert severities("GB110", cls()) == ["error"]


@pytest.mark.parametrize("cls", [Passed, Switched, Deployed, Both, ThroughMethods, FromOutside])
def test_training_that_may_be_false(cls: type[nn.Module]) -> None:
    assert not of("GB110", cls())
