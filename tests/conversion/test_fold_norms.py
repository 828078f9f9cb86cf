"""Batch norms of other people's: folded if a probe has found that they are batch norms."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import gammabeta as gb
from tests.conversion.test_fold import folded, norms_in

X = torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(0))


class BatchNormAct2d(nn.BatchNorm2d):
    """As image models write it: a batch norm with a module for its activation."""

    def __init__(self, channels: int, act: type[nn.Module] = nn.ReLU) -> None:
        super().__init__(channels)
        self.drop, self.act = nn.Identity(), act()

    def forward(self, x: Tensor) -> Tensor:
        x = F.batch_norm(
            x,
            self.running_mean,
            self.running_var,
            self.weight,
            self.bias,
            self.training,
            0.1,
            self.eps,
        )
        return self.act(self.drop(x))


class FrozenBatchNorm2d(nn.Module):
    """As detection models write it: four buffers."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.eps = 1e-3
        for name in ("weight", "bias", "running_mean", "running_var"):
            self.register_buffer(name, torch.rand(channels) + 0.5)

    def forward(self, x: Tensor) -> Tensor:
        weight, bias, mean, var = (
            tensor.reshape(1, -1, 1, 1)
            for tensor in (self.weight, self.bias, self.running_mean, self.running_var)
        )
        scale = weight * (var + self.eps).rsqrt()
        return x * scale + (bias - mean * scale)


class Doubled(BatchNormAct2d):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * super().forward(x)


def network(norm: nn.Module) -> Any:
    torch.manual_seed(0)
    for name in ("running_mean", "running_var", "weight", "bias"):
        getattr(norm, name).data.copy_(torch.rand(4) + 0.5)
    return nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), norm, nn.Conv2d(4, 2, 1)).eval()


@pytest.mark.parametrize("convert", [False, True])
@pytest.mark.parametrize(
    ("make", "left"),
    [
        (lambda: BatchNormAct2d(4), nn.ReLU),
        (lambda: BatchNormAct2d(4, nn.SiLU), nn.SiLU),
        (lambda: BatchNormAct2d(4, nn.Identity), nn.Identity),
        (lambda: FrozenBatchNorm2d(4), nn.Identity),
    ],
)
def test_before(make: Any, left: type[nn.Module], convert: bool) -> None:
    model = network(make())
    expected = model.double()(X.double())
    model = gb.convert(model, report=lambda _: None) if convert else model
    for example in (None, X.double()):
        result = gb.fold(model, example)
        assert type(result[1]) is left
        assert set(result.state_dict()) == {"0.weight", "0.bias", "2.weight", "2.bias"}
        # Sums of 27 products in float64, in another order.
        torch.testing.assert_close(result(X.double()), expected, rtol=1e-12, atol=1e-12)


def test_after() -> None:
    for norm in (FrozenBatchNorm2d(4), BatchNormAct2d(4, nn.Identity)):
        model = network(norm).double()[1:].eval()
        x = torch.randn(2, 4, 5, 5).double()
        result = gb.fold(model)
        assert norms_in(result) == []
        torch.testing.assert_close(result(x), model(x), rtol=1e-12, atol=1e-12)


def test_what_is_refused() -> None:
    model = network(Doubled(4))
    with pytest.raises(ValueError, match="Doubled is a subclass with a forward of its own"):
        gb.fold(model)
    model = network(BatchNormAct2d(4))
    model[1].act.register_forward_hook(lambda *_: None)
    with pytest.raises(ValueError, match="hooks; remove them first"):
        gb.fold(model)
    model = network(BatchNormAct2d(4))
    model[1].train()
    with pytest.raises(ValueError, match="it is in training mode"):
        gb.fold(model)
    model = network(FrozenBatchNorm2d(4))
    model[1].train()
    assert norms_in(gb.fold(model)) == []
    _, report = folded(network(BatchNormAct2d(4))[1:].eval())
    assert "its activation 'relu' comes after it" in report.left[0].reason
