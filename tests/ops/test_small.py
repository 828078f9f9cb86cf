"""Small batch norms are torch's operator under the native guard: torch's bits, no NaN enters."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

import gammabeta as gb
from gammabeta.ops.cpu import library, support

pytestmark = pytest.mark.native


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    if library.extension is None:
        pytest.skip(f"the extension was not built: {library.missing}")
    monkeypatch.undo()  # the thresholds of the package
    torch.manual_seed(0)
    with library.use("native"):
        yield


def pair(**settings: object) -> tuple[gb.BatchNorm1d, nn.BatchNorm1d]:
    ours, torchs = gb.BatchNorm1d(3, **settings), nn.BatchNorm1d(3, **settings)
    for layer in (ours, torchs):
        for i, t in enumerate((*layer.parameters(), *layer.buffers())):
            if t.is_floating_point():
                t.data.copy_(torch.arange(1.0, 4.0) + i)
    return ours, torchs


def trained(layer: nn.Module, x: Tensor) -> list[Tensor]:
    x = x.clone().requires_grad_()
    y = layer(x)
    y.square().sum().backward()
    assert type(y.grad_fn).__name__ == "NativeBatchNormBackward0"
    return [y.detach(), x.grad, *(p.grad for p in layer.parameters()), *layer.buffers()]


@pytest.mark.parametrize("on_nonfinite", ["refuse", "raise", "accept"])
@pytest.mark.parametrize("momentum", [0.1, 1.0, 0.0])
def test_it_has_torchs_bits(on_nonfinite: str, momentum: float) -> None:
    ours, torchs = pair(momentum=momentum)
    ours.on_nonfinite = on_nonfinite
    for shape in ((8, 3), (4, 3, 5)):
        x = torch.randn(shape)
        for one, other in zip(trained(ours, x), trained(torchs, x), strict=True):
            assert torch.equal(one, other)
    ours.eval(), torchs.eval()
    assert torch.equal(ours(x), torchs(x))
    assert int(ours.num_batches_tracked) == 2


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), 3e38])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_what_is_not_finite_does_not_enter(bad: float, dtype: torch.dtype) -> None:
    layer, _ = pair()
    layer.to(dtype)
    x = torch.randn(8, 3, dtype=dtype)
    x[2, 1] = bad if dtype is torch.float32 or bad != 3e38 else 1e300
    before = copy.deepcopy(layer.state_dict())
    with pytest.warns(gb.NonFiniteBatchWarning):
        layer(x)
    assert layer.refused_batches == 1
    for name, value in layer.state_dict().items():
        assert torch.equal(value, before[name]), name
    layer(torch.randn(8, 3, dtype=dtype))
    assert int(layer.num_batches_tracked) == 1
    layer.on_nonfinite = "raise"
    before = copy.deepcopy(layer.state_dict())
    with pytest.raises(gb.NonFiniteBatchError):
        layer(x)
    for name, value in layer.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_a_backward_pass_through_an_earlier_evaluation_still_runs() -> None:
    """Torch's update leaves the version counters of the buffers alone, and so does the guard."""
    layer, _ = pair()
    x = torch.randn(8, 3, requires_grad=True)
    y = layer.eval()(x)
    layer.train()(torch.randn(8, 3))
    y.sum().backward()


@pytest.mark.parametrize("name", ["weight", "bias", "running_mean", "running_var"])
@pytest.mark.parametrize("training", [True, False])
def test_freed_memory_is_refused(name: str, training: bool) -> None:
    layer, _ = pair()
    layer.train(training)
    getattr(layer, name).data.untyped_storage().resize_(0)
    with pytest.raises(RuntimeError, match=f"{name} .*freed"):
        layer(torch.randn(8, 3))


def test_one_value_per_channel_is_torchs_error() -> None:
    layer, _ = pair()
    with pytest.raises(ValueError, match="Expected more than 1 value per channel"):
        layer(torch.randn(1, 3))
    assert int(layer.num_batches_tracked) == 0


def test_with_an_activation_it_is_the_kernels() -> None:
    layer = gb.BatchNorm1d(3, activation="relu")
    assert type(layer(torch.randn(8, 3)).grad_fn).__name__ == "_NormBackward"
    assert support.SMALL["batch"][0] > 24
