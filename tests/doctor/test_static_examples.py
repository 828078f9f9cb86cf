"""Gradients of single examples: GB114."""

from __future__ import annotations

import torch
from torch import Tensor, nn

import gammabeta as gb
from tests.doctor.static_models import (
    net,
    of,
    severities,
)

# GB114


class GradSampleModule(nn.Sequential):
    """Called as in Opacus."""


def test_gradients_of_single_examples_through_batch_norm_are_found() -> None:
    (found,) = of("GB114", GradSampleModule(net()))
    assert (found.severity, found.layer) == ("error", "0.1")
    model = net()
    model[0].weight.grad_sample = torch.zeros(3, 8, 8)
    assert severities("GB114", model) == ["error"]

    class DPOptimizer(torch.optim.SGD):
        pass

    model = net()
    assert severities("GB114", model, optimizer=DPOptimizer(model.parameters())) == ["error"]

    def loss(output: Tensor) -> Tensor:
        return torch.func.vmap(torch.func.grad(torch.sum))(output).sum()

    assert severities("GB114", net(), loss=loss) == ["error"]


def test_gradients_of_single_examples_through_other_norms_are_fine() -> None:
    for model in (
        net(nn.LayerNorm(8)),
        net(nn.GroupNorm(2, 8)),
        net().eval(),
        gb.freeze(net()),
    ):
        assert not of("GB114", GradSampleModule(model).train(model.training))
    model = net()
    assert not of("GB114", model, loss=nn.MSELoss(), optimizer=torch.optim.SGD(model.parameters()))
