"""What all layers promise: they are torch's layers (`agreement`), and right by the oracle."""

from __future__ import annotations

import copy
import io
import pickle

import pytest
import torch
from torch import Tensor, nn

import gammabeta as gb
from tests.layers.agreement import agree
from tests.layers.cases import CASES, Case, every_case

ONE_OF_EACH = [CASES[name] for name in ("batch1d", "batch2d", "batch3d", "layer", "group", "rms")]
one_of_each = pytest.mark.parametrize("case", ONE_OF_EACH, ids=lambda c: c.ours.__name__)


def same_bits(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return list(a) == list(b) and all(
        a[k].dtype == b[k].dtype and torch.equal(a[k], b[k]) for k in a
    )


@every_case
def test_the_oracle_in_float32(case: Case) -> None:
    layer, x = case.make(), case.input()
    # x̂ = (x − μ)/σ with |x| <= ~12, σ ~ 2: a few roundings of 6e-8 · 12/2, times γ <= ~3.
    torch.testing.assert_close(layer(x).double(), case.expected(layer, x), rtol=2e-6, atol=5e-6)


@pytest.mark.parametrize(
    ("case", "parameters"),
    [
        pytest.param(case, dtype, id=f"{name}-{dtype}")
        for name, case in CASES.items()
        for dtype in (torch.float32, torch.bfloat16)
        # Torch warns that RMS norm is slow with this mixture of dtypes.
        if not (case.ours is gb.RMSNorm and dtype == torch.float32)
    ],
)
def test_the_oracle_in_bfloat16(case: Case, parameters: torch.dtype) -> None:
    layer, x = case.make().to(parameters), case.input(dtype=torch.bfloat16)
    # Inputs and parameters are exact in float64; torch computes in float32 and rounds once, by at
    # most 2⁻⁹ of the value. Near 0 the float32 arithmetic is the larger error.
    tolerance = {"rtol": 2**-8, "atol": 1e-5}
    if isinstance(layer, nn.modules.batchnorm._BatchNorm) and parameters == torch.bfloat16:
        # Torch then keeps μ and 1/σ in bfloat16 as well: 2⁻⁹ · (|μ|/σ + |x̂|) · |γ|, with
        # |μ|/σ <= 2.5, |x̂| <= 3.5, |γ| <= 2.5.
        tolerance = {"rtol": 2**-8, "atol": 2**-9 * 15}
    y = layer(x)
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(y.double(), case.expected(layer, x), **tolerance)


@every_case
def test_float64_is_the_oracle(case: Case) -> None:
    layer, x = case.make().double(), case.input(dtype=torch.float64)
    torch.testing.assert_close(layer(x), case.expected(layer, x), rtol=1e-12, atol=1e-12)


@every_case
@pytest.mark.parametrize("training", [True, False])
def test_outputs_gradients_and_buffers_are_torchs(case: Case, training: bool) -> None:
    results = []
    for layer in (case.make(), case.make_twin()):
        layer.train()
        layer(case.input(seed=1))  # so that running statistics are none of the trivial ones
        layer.train(training)
        x = case.input().requires_grad_()
        y = layer(x)
        y.backward(case.input(seed=2))
        gradients = {name: p.grad for name, p in layer.named_parameters()}
        results.append({"y": y.detach(), "x": x.grad, **gradients, **dict(layer.named_buffers())})
    agree(*results)


@every_case
def test_a_fresh_layer_is_torchs(case: Case) -> None:
    ours = case.ours(*case.arguments)
    theirs = case.twin(*case.arguments)
    assert isinstance(ours, case.twin)
    assert same_bits(ours.state_dict(), theirs.state_dict())
    assert repr(ours) == repr(theirs)  # no activation: nothing to add to torch's description


@every_case
@pytest.mark.parametrize("direction", ["from torch", "to torch"])
def test_state_dict(case: Case, direction: str) -> None:
    ours, theirs = case.make(), case.twin(*case.arguments)
    ours(case.input(seed=1))
    source, target = (theirs, ours) if direction == "from torch" else (ours, theirs)
    assert not same_bits(source.state_dict(), target.state_dict())
    assert str(target.load_state_dict(source.state_dict())) == "<All keys matched successfully>"
    assert same_bits(source.state_dict(), target.state_dict())
    ours.eval(), theirs.eval()
    agree(ours(case.input()), theirs(case.input()))


@one_of_each
@pytest.mark.parametrize("activation", [None, "gelu"])
def test_copies(case: Case, activation: str | None) -> None:
    layer = case.make(activation=activation)
    layer(case.input(seed=1))
    layer.eval()
    saved = io.BytesIO()
    torch.save(layer, saved)
    saved.seek(0)
    expected = layer(case.input())
    for twin in (
        copy.deepcopy(layer),
        pickle.loads(pickle.dumps(layer)),
        torch.load(saved, weights_only=False),
    ):
        assert type(twin) is type(layer)
        assert twin.activation == activation
        assert same_bits(twin.state_dict(), layer.state_dict())
        assert torch.equal(twin(case.input()), expected)
        with torch.no_grad():  # a copy shares no memory
            for tensor in (*twin.parameters(), *twin.buffers()):
                tensor.zero_()
    assert torch.equal(layer(case.input()), expected)


@pytest.mark.parametrize(
    ("layer", "expected"),
    [
        (
            gb.BatchNorm2d(4, activation="relu"),
            "BatchNorm2d(4, eps=1e-05, momentum=0.1, affine=True, bias=True, "
            "track_running_stats=True, activation='relu')",
        ),
        (
            gb.LayerNorm(4, activation="tanh"),
            "LayerNorm((4,), eps=1e-05, elementwise_affine=True, bias=True, activation='tanh')",
        ),
        (
            gb.GroupNorm(2, 4, activation="silu"),
            "GroupNorm(2, 4, eps=1e-05, affine=True, bias=True, activation='silu')",
        ),
        (
            gb.RMSNorm(4, eps=0.5, activation="gelu"),
            "RMSNorm((4,), eps=0.5, elementwise_affine=True, activation='gelu')",
        ),
    ],
    ids=lambda v: type(v).__name__ if isinstance(v, nn.Module) else "",
)
def test_repr_names_the_activation(layer: nn.Module, expected: str) -> None:
    assert repr(layer) == expected


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("batch1d", {"affine": False}),
        ("batch2d", {"affine": False}),
        ("batch3d", {"affine": False}),
        ("group", {"affine": False}),
        ("layer", {"elementwise_affine": False}),
        ("rms", {"elementwise_affine": False}),
        ("batch1d", {"bias": False}),
        ("batch2d", {"bias": False}),
        ("batch3d", {"bias": False}),
        ("group", {"bias": False}),
        ("layer", {"bias": False}),
    ],
    ids=str,
)
def test_without_gamma_or_beta(name: str, options: dict[str, bool]) -> None:
    case = CASES[name]
    ours, theirs = case.make(**options), case.make_twin(**options)
    gone = ["bias"] if "bias" in options else ["weight", "bias"]
    assert all(getattr(ours, parameter, None) is None for parameter in gone)
    assert same_bits(ours.state_dict(), theirs.state_dict())
    x = case.input()
    agree(ours(x), theirs(x))
    if ours.weight is not None:
        torch.testing.assert_close(ours(x).double(), case.expected(ours, x), rtol=2e-6, atol=5e-6)


@one_of_each
def test_dtype_and_device(case: Case) -> None:
    layer = case.ours(*case.arguments, dtype=torch.float64, device="meta")
    theirs = case.twin(*case.arguments, dtype=torch.float64, device="meta")
    describe = {k: (v.dtype, v.device, v.shape) for k, v in theirs.state_dict().items()}
    assert {k: (v.dtype, v.device, v.shape) for k, v in layer.state_dict().items()} == describe


@one_of_each
@pytest.mark.parametrize("training", [True, False])
def test_channels_last_and_strided_inputs(case: Case, training: bool) -> None:
    layer, twin = case.make().train(training), case.make_twin().train(training)
    layouts = [case.input().transpose(0, -1).contiguous().transpose(0, -1)]
    if len(case.shape) == 4:
        layouts.append(case.input().contiguous(memory_format=torch.channels_last))
    for x in layouts:
        assert not x.is_contiguous()
        agree(layer(x), twin(x))


@one_of_each
def test_optimizers_see_torchs_parameters(case: Case) -> None:
    ours, theirs = case.make(), case.make_twin()
    for layer in (ours, theirs):
        optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
        for seed in range(3):
            optimizer.zero_grad()
            layer(case.input(seed)).square().sum().backward()
            optimizer.step()
    agree(ours.state_dict(), theirs.state_dict())
