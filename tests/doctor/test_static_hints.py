"""Decay, useless biases and groups of one value: GB115, GB116, GB117."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import gammabeta as gb
from tests.doctor.static_models import (
    net,
    of,
    severities,
)

# GB115, GB116


def test_decay_of_norms_is_information() -> None:
    model = net()
    adam = torch.optim.AdamW(model.parameters())
    (found,) = of("GB115", model, optimizer=adam)
    assert (found.severity, found.layers) == ("info", ("1",))
    assert not of("GB115", model, optimizer=torch.optim.Adam(model.parameters()))
    assert not of("GB115", model, optimizer=torch.optim.AdamW(model[0].parameters()))
    assert not of("GB115", model)


def biased(norm: nn.Module) -> nn.Sequential:
    return nn.Sequential(nn.Conv1d(3, 8, 1), nn.Identity(), norm, nn.ReLU(), nn.Conv1d(8, 3, 1))


def test_a_bias_before_a_training_batch_norm_is_information() -> None:
    (found,) = of("GB116", biased(nn.BatchNorm1d(8)))
    assert (found.severity, found.layers) == ("info", ("0",))


@pytest.mark.parametrize(
    "model",
    [
        biased(nn.LayerNorm(8)),
        biased(nn.GroupNorm(2, 8)),
        biased(nn.InstanceNorm1d(8)),
        gb.freeze(biased(nn.BatchNorm1d(8))),
        biased(nn.BatchNorm1d(8)).eval(),
        nn.Sequential(nn.Conv1d(3, 8, 1), nn.ReLU(), nn.BatchNorm1d(8)),
        nn.Sequential(nn.Conv1d(3, 8, 1, bias=False), nn.BatchNorm1d(8)),
    ],
)
def test_a_bias_that_has_an_effect_is_fine(model: nn.Module) -> None:
    assert not of("GB116", model)


def test_a_bias_that_goes_elsewhere_too_is_fine() -> None:
    class Residual(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm = nn.Conv1d(3, 8, 1), nn.BatchNorm1d(8)

        def forward(self, x: Tensor) -> Any:
            y = self.conv(x)
            return y + self.norm(y)

    assert not of("GB116", Residual())


# GB117


@pytest.mark.parametrize(
    ("model", "shape", "severity"),
    [
        (nn.LayerNorm(1), (4, 1), "error"),
        (nn.LayerNorm(2), (4, 2), "warning"),
        (nn.RMSNorm(1), (4, 1), "error"),
        (nn.Sequential(nn.Linear(8, 8), nn.GroupNorm(8, 8)), (4, 8), "error"),
        (nn.Sequential(nn.Linear(8, 8), nn.GroupNorm(4, 8)), (4, 8), "warning"),
        (nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.GroupNorm(8, 8)), (4, 8, 3, 3), "error"),
        (nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.LayerNorm([1, 1])), (4, 8, 3, 3), "error"),
    ],
)
def test_statistics_over_one_value_are_found(
    model: nn.Module, shape: tuple[int, ...], severity: str
) -> None:
    assert severities("GB117", model) == [severity]
    assert severities("GB117", model, batches=[torch.randn(shape)]) == [severity]


@pytest.mark.parametrize(
    ("model", "shape"),
    [
        (nn.LayerNorm(8), (4, 8)),
        (nn.RMSNorm(2), (4, 2)),
        (nn.Sequential(nn.Linear(8, 8), nn.GroupNorm(1, 8)), (4, 8)),
        (nn.GroupNorm(8, 8), (1, 8, 3, 3)),
        (nn.InstanceNorm2d(8), (1, 8, 3, 3)),
        (nn.InstanceNorm1d(8), (8, 5)),
        (nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.GroupNorm(8, 8)), (4, 8, 3, 3)),
        (nn.BatchNorm1d(1), (4, 1)),
    ],
)
def test_statistics_over_several_values_are_fine(model: nn.Module, shape: tuple[int, ...]) -> None:
    assert not of("GB117", model)
    assert not of("GB117", model, batches=[torch.randn(shape)])


def test_a_norm_that_refuses_the_first_batch_is_found() -> None:
    model = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(3, 8, 1), nn.InstanceNorm2d(8))
    for training in (True, False):
        report = gb.examine(model.train(training), [torch.randn(4, 3, 8, 8)])
        assert [(f.code, f.layer) for f in report.findings] == [("GB117", "2")]
        assert report.notes[0].startswith("rules on batches not run: ValueError: Expected more")
    with pytest.raises(ValueError, match="the model does not accept the first batch"):
        gb.examine(model, [torch.randn(4, 3, 8, 8)], ignore=["GB117"])
