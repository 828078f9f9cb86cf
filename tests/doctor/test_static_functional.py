"""Functional batch norms: GB110."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.doctor.static_models import (
    BATCHES,
    Functional,
    of,
)

# GB110


class AlwaysTraining(Functional):
    def forward(self, x: Tensor) -> Tensor:
        y = F.linear(x, self.weight * self.conv_weight)
        return F.batch_norm(y, self.mean, self.var, training=True)


class Positional(Functional):
    def forward(self, x: Tensor) -> Tensor:
        return torch.batch_norm(x, None, None, self.mean, self.var, True, 0.1, 1e-5, False)


class OnTheSpot(Functional):
    def forward(self, x: Tensor) -> Tensor:
        zeros, mode = torch.zeros, self.training
        return F.batch_norm(x, zeros(8), torch.ones(8), self.weight, None, mode)


class NoBuffers(Functional):
    def forward(self, x: Tensor) -> Tensor:
        return F.batch_norm(x, self.plain_mean, self.plain_var, training=self.training)


class ByMode(Functional):
    def forward(self, x: Tensor) -> Tensor:
        return F.batch_norm(x, self.mean, self.var, training=self.training)


class Branched(Functional):
    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return F.batch_norm(x, self.mean, self.var, training=False)
        return F.batch_norm(x, self.mean, self.var, training=True)


class Standardized(Functional):
    """Weight standardization, as timm writes it."""

    def forward(self, x: Tensor) -> Tensor:
        weight = F.batch_norm(self.conv_weight.reshape(1, 8, -1), None, None, training=True)
        again = F.batch_norm(self.weight.view(2, 4), None, None, training=True)
        return F.linear(x, weight.reshape_as(self.conv_weight)) + again.sum()


class Adaptive(Functional):
    """Adaptive instance normalization, as MUNIT writes it."""

    def forward(self, x: Tensor) -> Tensor:
        n, c = x.shape
        rows = x.contiguous().view(1, n * c // 4, 4)
        return F.batch_norm(rows, None, None, None, None, True).view(n, c)


@pytest.mark.parametrize("cls", [AlwaysTraining, Positional, NoBuffers])
def test_functional_norms_by_the_batch_are_found_in_source(cls: type[nn.Module]) -> None:
    (found,) = of("GB110", nn.Sequential(nn.Linear(8, 8), cls()).eval())
    assert (found.severity, found.layer) == ("error", "1")


@pytest.mark.parametrize("cls", [AlwaysTraining, Positional, NoBuffers, OnTheSpot])
def test_functional_norms_by_the_batch_are_found_on_batches(cls: type[nn.Module]) -> None:
    (found,) = of("GB110", nn.Sequential(nn.Linear(8, 8), cls()), batches=BATCHES)
    assert (found.severity, found.layer) == ("error", "1")


@pytest.mark.parametrize("cls", [ByMode, Branched, Standardized, Adaptive])
def test_functional_norms_that_follow_the_mode_or_the_example_are_fine(cls: Any) -> None:
    assert not of("GB110", nn.Sequential(nn.Linear(8, 8), cls()))
    assert not of("GB110", nn.Sequential(nn.Linear(8, 8), cls()), batches=BATCHES)
