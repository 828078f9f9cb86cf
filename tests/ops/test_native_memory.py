"""An address is asked for only where there are values: never a crash, never γ = 1 in silence."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import gammabeta as gb
from gammabeta.ops.cpu import library, support
from tests.forked import run_program

pytestmark = pytest.mark.native

FREED = "its storage was freed and holds no values"
LAYERS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "batch": (lambda: gb.BatchNorm2d(4), (3, 4, 5, 5)),
    "batch, evaluation": (lambda: gb.BatchNorm2d(4).eval(), (3, 4, 5, 5)),
    "frozen": (lambda: gb.FrozenBatchNorm2d(4), (3, 4, 5, 5)),
    "layer": (lambda: gb.LayerNorm(6), (3, 6)),
    "rms": (lambda: gb.RMSNorm(6), (3, 6)),
    "group": (lambda: gb.GroupNorm(2, 4), (3, 4, 5, 5)),
    "instance": (lambda: gb.InstanceNorm2d(4, affine=True), (3, 4, 5, 5)),
}
every_layer = pytest.mark.parametrize("name", LAYERS)


@pytest.fixture(autouse=True)
def all_of_it(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The kernels, also for tensors that are too small for them to pay."""
    if library.extension is None:
        pytest.skip("the native kernels were not built")
    monkeypatch.setattr(support, "SMALL", {})
    with library.use("native"):
        yield


def part(t: Tensor) -> Tensor:
    """``t`` as the end of a longer storage, at an address that is not the storage's."""
    flat = torch.cat([torch.zeros(3, dtype=t.dtype), t.detach().flatten()])
    return flat[3:].view(t.shape)


def freed(t: Tensor) -> Tensor:
    t.untyped_storage().resize_(0)
    return t


@every_layer
@pytest.mark.parametrize("whole", [True, False])
def test_freed_parameters_and_statistics(name: str, whole: bool) -> None:
    make, shape = LAYERS[name]
    held = [key for key, _ in (*make().named_parameters(), *make().named_buffers())]
    if name != "batch":  # the others do not count batches
        held = [key for key in held if key != "num_batches_tracked"]
    for key in held:
        layer = make()
        values = getattr(layer, key)
        if not whole:
            values.data = part(values)
        freed(values)
        with pytest.raises(RuntimeError, match=f"{key} has shape .* but {FREED}"):
            layer(torch.randn(shape))


@every_layer
@pytest.mark.parametrize("made", ["whole", "part", "strided"])
def test_freed_input_and_residual(name: str, made: str) -> None:
    make, shape = LAYERS[name]

    def lost() -> Tensor:
        x = torch.randn(shape)
        if made == "part":
            x = part(x)
        elif made == "strided":
            x = torch.randn(*shape[:-1], 2 * shape[-1])[..., 1::2]
        return freed(x)

    with pytest.raises(RuntimeError, match=f"input has shape .* but {FREED}"):
        make()(lost())
    with pytest.raises(RuntimeError, match=f"residual has shape .* but {FREED}"):
        make()(torch.randn(shape), residual=lost())


@every_layer
def test_freed_between_forward_and_backward(name: str) -> None:
    make, shape = LAYERS[name]
    layer, x = make(), torch.randn(shape, requires_grad=True) * 1
    if name != "frozen":
        y = layer(x)
        freed(layer.weight)
        with pytest.raises(RuntimeError, match=f"weight has shape .* but {FREED}"):
            y.sum().backward()
    g = part(torch.randn(shape))
    y = make()(x)
    freed(g)
    with pytest.raises(RuntimeError, match=f"gradient has shape .* but {FREED}"):
        y.backward(g)


@every_layer
def test_a_tensor_of_zeros_without_storage(name: str) -> None:
    make, shape = LAYERS[name]
    layer, x = make(), torch.randn(shape, requires_grad=True)
    zeros = torch._efficientzerotensor(shape)
    if name != "group":  # an error in torch's group norm, which is ours then
        torch.testing.assert_close(layer(zeros), layer(torch.zeros(shape)))
    layer, twin = make(), make()
    torch.testing.assert_close(layer(x, residual=zeros), twin(x))
    (found,) = torch.autograd.grad(layer(x), x, zeros)
    assert torch.equal(found, torch.zeros(shape))


@every_layer
def test_a_pending_sign(name: str) -> None:
    """The values of a negative view are not what is in memory."""
    make, shape = LAYERS[name]
    x = torch.randn(shape)
    for key in [key for key, _ in (*make().named_parameters(), *make().named_buffers())]:
        if key in ("num_batches_tracked", "running_var"):
            continue
        layer, twin = make(), make()
        values = torch.randn(getattr(layer, key).shape)
        pending = torch._neg_view(values)
        if key in layer._parameters:
            layer._parameters[key] = nn.Parameter(pending)
            twin._parameters[key] = nn.Parameter(-values)
        else:
            layer._buffers[key], twin._buffers[key] = pending, -values
        torch.testing.assert_close(layer(x), twin(x))


@pytest.mark.parametrize("missing", ["running_mean", "running_var"])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("kernels", ["native", "torch"])
def test_one_of_two_statistics(missing: str, training: bool, kernels: str) -> None:
    """It is torch's error."""
    layer = gb.BatchNorm2d(2).train(training)
    setattr(layer, missing, None)
    with library.use(kernels), pytest.raises((RuntimeError, ValueError), match=missing):
        layer(torch.randn(2, 2, 3, 3))


def test_a_counter_of_another_type() -> None:
    """A float's bits were counted up as an integer's."""
    for momentum in (0.1, None):
        twins = gb.BatchNorm1d(3, momentum=momentum), nn.BatchNorm1d(3, momentum=momentum)
        for layer in twins:
            layer.num_batches_tracked = torch.tensor(0.0)
        for _ in range(3):
            x = torch.randn(8, 3)
            torch.testing.assert_close(twins[0](x), twins[1](x))
        torch.testing.assert_close(twins[0].state_dict(), twins[1].state_dict())


def test_a_momentum_that_is_no_number() -> None:
    """NaN is not None, the cumulative average."""
    layer, twin = (
        gb.BatchNorm1d(3, momentum=float("nan"), on_nonfinite="accept"),
        nn.BatchNorm1d(3, momentum=float("nan")),
    )
    x = torch.randn(8, 3)
    torch.testing.assert_close(layer(x), twin(x))
    torch.testing.assert_close(layer.state_dict(), twin.state_dict(), equal_nan=True)


@pytest.mark.parametrize("name", LAYERS)
def test_another_default_device(name: str, tmp_path: Path) -> None:
    """In a process of its own: this crashed it."""
    made = {
        "batch": "BatchNorm2d(4, device='cpu')",
        "batch, evaluation": "BatchNorm2d(4, device='cpu').eval()",
        "frozen": "FrozenBatchNorm2d(4, device='cpu')",
        "layer": "LayerNorm(6, device='cpu')",
        "rms": "RMSNorm(6, device='cpu')",
        "group": "GroupNorm(2, 4, device='cpu')",
        "instance": "InstanceNorm2d(4, affine=True, device='cpu')",
    }[name]
    code = f"""
import torch, gammabeta as gb
from gammabeta.ops.cpu import support
support.SMALL = {{}}
def run():
    layer = gb.{made}
    x = torch.ones({LAYERS[name][1]}, device="cpu").cumsum(0).requires_grad_()
    for residual in (None, x):
        layer.activation = "relu"
        y = layer(x, residual=residual)
        y.sum().backward()
        assert y.device.type == x.grad.device.type == "cpu"
with torch.device("meta"):
    run()
torch.set_default_device("meta")
run()
"""
    assert run_program(code, tmp_path, 60) == (0, "")
