"""x̂ of the layers torch lacks: what they give with γ = 1 and β = 0."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from gammabeta.layers import (
    BatchRenorm1d,
    DynamicTanh,
    FrozenBatchNorm1d,
    GhostBatchNorm1d,
    MaskedBatchNorm1d,
)
from gammabeta.layers.standardized import standardized


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(
    "layer",
    [
        BatchRenorm1d(3, eps=0.1, warmup_steps=0, r_steps=0, d_steps=0, r_max=1.1, d_max=0.2),
        GhostBatchNorm1d(3, eps=0.1, virtual_batch_size=2),
        MaskedBatchNorm1d(3, eps=0.1),
        FrozenBatchNorm1d(3, eps=0.1),
    ],
    ids=lambda layer: type(layer).__name__,
)
def test_is_the_layer_without_its_affine_part(layer, training):
    layer = copy.deepcopy(layer)
    layer.running_mean.copy_(torch.tensor([0.5, -0.1, 2.0]))
    layer.running_var.copy_(torch.tensor([0.5, 1.0, 2.0]))
    x = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    layer.train(training)
    before = copy.deepcopy(layer.state_dict())
    x_hat = standardized(layer, x)
    for name, value in layer.state_dict().items():
        assert torch.equal(value, before[name])
    # Float32 of values of order 1, in another order of operations.
    torch.testing.assert_close(x_hat, layer(x), rtol=1e-5, atol=1e-6)
    nn.init.constant_(layer.weight, 7.0)
    assert not torch.allclose(x_hat, layer(x), atol=0.1)


def test_other_layers_are_refused():
    with pytest.raises(TypeError, match="norm is a DynamicTanh"):
        standardized(DynamicTanh(3), torch.ones(2, 3))
