"""What a folded model is: its objects, its proof, its exports."""

from __future__ import annotations

import copy
import io
import pickle
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import gammabeta as gb
from gammabeta.conversion.folding import apply, plan
from gammabeta.conversion.folding import proof as proving
from gammabeta.conversion.folding.report import Folding
from gammabeta.conversion.folding.rest import ResidualActivation
from gammabeta.conversion.folding.values import Affine
from tests.conversion.test_fold import folded, norms_in, trained


class Block(nn.Module):
    """Two convolutions with a fused residual, as a person writes them with gammabeta."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.bn1 = gb.BatchNorm2d(8, activation="relu")
        self.conv2 = nn.Conv2d(8, 3, 3, padding=1, bias=False)
        self.bn2 = gb.BatchNorm2d(3, activation="relu")

    def forward(self, x: Tensor) -> Tensor:
        return self.bn2(self.conv2(self.bn1(self.conv1(x))), residual=x)


def sequential() -> Any:
    torch.manual_seed(0)
    return trained(
        nn.Sequential(
            nn.Conv2d(3, 8, 3, bias=False),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.Conv2d(8, 4, 3),
            gb.BatchNorm2d(4, activation="relu"),
        )
    )


X = torch.randn(2, 3, 9, 9, generator=torch.Generator().manual_seed(5))


def test_a_residual_stays() -> None:
    torch.manual_seed(0)
    model = trained(Block()).double()
    result = gb.fold(model)
    assert isinstance(result.bn2, ResidualActivation)
    assert repr(result.bn2) == "ResidualActivation(activation='relu')"
    torch.testing.assert_close(result(X.double()), model(X.double()), rtol=1e-12, atol=1e-12)
    with pytest.raises(ValueError, match="residual has shape"):
        result.bn2(X, X[:1])


def test_a_copy_by_default() -> None:
    model = sequential()
    before, objects = copy.deepcopy(model.state_dict()), [*model.modules(), *model.parameters()]
    result = gb.fold(model)
    assert result is not model
    assert [*model.modules(), *model.parameters()] == objects
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])
    assert not {id(p) for p in result.parameters()} & {id(p) for p in model.parameters()}


def test_in_place_the_objects_are_the_same() -> None:
    model = sequential()
    conv, bn, weight = model[0], model[1], model[0].weight
    bn.note = "mine"
    aliases = [bn]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    expected = model(X)
    assert gb.fold(model, X, inplace=True) is model
    assert (model[0], model[1], aliases[0]) == (conv, bn, bn)
    assert model[0].weight is weight is optimizer.param_groups[0]["params"][0]
    assert type(model[1]) is nn.Identity
    assert model[1].note == "mine"
    assert type(model[4]) is nn.ReLU
    assert not model[1].training
    # Two layers in float32: some roundings of values around 10.
    torch.testing.assert_close(model(X), expected, rtol=1e-4, atol=1e-5)
    assert set(model.state_dict()) == {"0.weight", "0.bias", "3.weight", "3.bias"}
    assert model[0].bias.requires_grad


def test_references_outside_of_the_model_are_folded_too() -> None:
    class Listed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.bn = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)
            self.layers = [self.conv, self.bn]

        def forward(self, x: Tensor) -> Tensor:
            for layer in self.layers:
                x = layer(x)
            return x

    model = trained(Listed()).double()
    expected = model(X.double())
    for inplace in (False, True):
        result = gb.fold(model, inplace=inplace)
        torch.testing.assert_close(result(X.double()), expected, rtol=1e-12, atol=1e-12)
        assert norms_in(result) == []


def test_an_error_leaves_everything_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    model = sequential()
    before = copy.deepcopy(model.state_dict())
    attributes = [dict(module.__dict__) for module in model.modules()]
    classes = [type(module) for module in model.modules()]

    def unchanged() -> None:
        assert [type(module) for module in model.modules()] == classes
        for module, own in zip(model.modules(), attributes, strict=True):
            assert module.__dict__ == own
        for name, value in model.state_dict().items():
            assert torch.equal(value, before[name]), name

    def fails(folding: Folding) -> None:
        raise KeyError("report")

    with pytest.raises(KeyError):
        gb.fold(model, inplace=True, report=fails)
    unchanged()

    wrong = plan.affine_of
    monkeypatch.setattr(
        plan, "affine_of", lambda norm: Affine(wrong(norm).scale * 1.001, wrong(norm).shift)
    )
    with pytest.raises(ValueError, match=r"too far .*largest difference .*was not changed"):
        gb.fold(model, X, inplace=True)
    unchanged()
    assert norms_in(gb.fold(model, X, tolerance=0.1)) == []
    monkeypatch.undo()

    real, calls = apply._set, []

    def breaks(tensor: Tensor, value: Tensor) -> None:
        calls.append(tensor)
        if len(calls) == 2:
            raise MemoryError
        real(tensor, value)

    monkeypatch.setattr(apply, "_set", breaks)
    with pytest.raises(MemoryError):
        gb.fold(model, inplace=True)
    unchanged()


def test_the_proof_says_how_far_it_is() -> None:
    model = sequential()
    result, report = folded(model, X)
    proof = report.proof
    assert proof is not None
    assert proof.holds
    difference = (result(X) - model(X)).abs().max().detach()
    assert proof.absolute == float(difference)
    assert proof.relative == pytest.approx(float(difference / model(X).abs().max().detach()))
    exact = copy.deepcopy(model).double()(X.double())
    assert proof.difference is not None
    assert proof.difference < 1e-14  # two orders of two sums in float64
    assert proof.original_error == float((model(X) - exact).abs().max().detach())
    assert "distance from float64: folded" in str(report)
    assert folded(model)[1].proof is None


def test_the_proof_disturbs_nothing() -> None:
    class Counts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.calls = sequential(), []

        def forward(self, x: Tensor) -> Any:
            self.calls.append(1)
            return {"y": self.inner(x) + 0 * torch.rand(1), "other": [self.inner(x), 3, None]}

    model = Counts().eval()
    torch.manual_seed(3)
    expected = torch.rand(3)
    torch.manual_seed(3)
    for inplace in (False, True):
        result = gb.fold(model, {"x": X}, inplace=inplace)
        assert model.calls == result.calls == []
    assert torch.equal(torch.rand(3), expected)


def test_examples_of_several_arguments() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = sequential()

        def forward(self, x: Tensor, scale: Tensor | None = None) -> Tensor:
            return self.inner(x if scale is None else x * scale)

    for example in ((X, torch.tensor(2.0)), {"x": X, "scale": torch.tensor(2.0)}, X, (X,)):
        assert norms_in(gb.fold(Two().eval(), example)) == []


def test_a_model_that_does_not_run_in_float64() -> None:
    class Casts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = sequential()

        def forward(self, x: Tensor) -> Tensor:
            return self.inner(x.float())

    _, report = folded(Casts().eval(), X)
    assert report.proof is not None
    assert report.proof.folded_error is None
    # Without float64, half of the digits must agree.
    assert report.proof.allowed == pytest.approx(2**-11.5)


def test_outputs_without_numbers() -> None:
    class Chooses(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = sequential()

        def forward(self, x: Tensor) -> Tensor:
            return self.inner(x).argmax(1)

    with pytest.raises(ValueError, match="no floating-point tensor"):
        gb.fold(Chooses().eval(), X)


def test_a_network_that_multiplies_roundings_is_proved_all_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A folded model may by chance be further from float64 than 4 times the original."""
    torch.manual_seed(1)
    layers: list[nn.Module] = []
    for _ in range(12):
        layers += [nn.Linear(8, 8, bias=False), nn.BatchNorm1d(8), nn.ReLU()]
    model = trained(nn.Sequential(*layers, nn.Linear(8, 8)))
    x = torch.randn(4, 8)
    proof = folded(model, x)[1].proof
    assert proof is not None
    assert proof.difference is not None
    assert proof.difference < 1e-10
    # The same where the original is exact by luck: its other roundings count.
    monkeypatch.setattr(proving, "_ROUNDINGS", 0.0)
    monkeypatch.setattr(proving, "FACTOR", 0.5)
    proof = folded(model, x)[1].proof
    assert proof is not None
    assert proof.original_error == pytest.approx(2 * proof.allowed)


def test_outputs_that_overflow_prove_nothing() -> None:
    model = sequential()
    with pytest.raises(ValueError, match=r"are not finite .* give another example"):
        gb.fold(model, X.sign() * 3e38)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("norm_dtype", [None, torch.float32])
def test_types(dtype: torch.dtype, norm_dtype: torch.dtype | None) -> None:
    model = sequential().to(dtype)
    if norm_dtype is not None and dtype != torch.float64:
        model[1].to(norm_dtype)  # as autocast and apex leave them
    result = gb.fold(model)
    assert {p.dtype for p in result.parameters()} == {dtype}
    exact = copy.deepcopy(model).double()(X.to(dtype).double())
    # Weights and each layer's outputs are rounded: a few units of the largest value; float64 is
    # compared with itself in another order of 72 products.
    eps = torch.finfo(dtype).eps
    error = (result(X.to(dtype)).double() - exact).abs().max()
    assert error <= (16 if dtype == torch.float64 else 4) * eps * exact.abs().max()


def test_weights_are_rounded_once() -> None:
    """Scale and weight are multiplied in float64, so the result is the nearest float32."""
    model = sequential()
    result = gb.fold(model)
    norm, conv = copy.deepcopy(model[1]).double(), copy.deepcopy(model[0]).double()
    scale = norm.weight / (norm.running_var + norm.eps).sqrt()
    exact = conv.weight * scale.view(-1, 1, 1, 1)
    wrong = (result[0].weight != exact.float()).double().mean()
    assert wrong < 1e-3  # float64's own rounding may move one that lies half way


def test_memory_format_and_requires_grad() -> None:
    model = sequential().to(memory_format=torch.channels_last).requires_grad_(False)
    result = gb.fold(model)
    assert result[3].weight.is_contiguous(memory_format=torch.channels_last)
    assert not any(p.requires_grad for p in result.parameters())


def test_weights_made_in_inference_mode() -> None:
    with torch.inference_mode():
        model = sequential()
    with torch.no_grad():
        expected = model(X)
        gb.fold(model, inplace=True)
        torch.testing.assert_close(model(X), expected, rtol=1e-4, atol=1e-5)


def test_the_result_is_copied_pickled_loaded_and_scripted() -> None:
    torch.manual_seed(0)
    result = gb.fold(trained(Block()))
    expected = result(X)
    assert torch.equal(copy.deepcopy(result)(X), expected)
    assert torch.equal(pickle.loads(pickle.dumps(result))(X), expected)
    again = gb.fold(trained(Block(), seed=7))
    again.load_state_dict(result.state_dict())
    assert torch.equal(again(X), expected)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_script() -> None:
    torch.manual_seed(0)
    result = gb.fold(trained(Block()))
    torch.testing.assert_close(torch.jit.script(result)(X), result(X))


def test_export_contains_no_norm() -> None:
    torch.manual_seed(0)
    model = trained(Block())
    assert "norm" in str(torch.export.export(model, (X,)).graph)
    result = gb.fold(model)
    exported = torch.export.export(result, (X,))
    assert "norm" not in str(exported.graph)
    torch.testing.assert_close(exported.module()(X), result(X))


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_onnx_contains_no_norm() -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    onnx = pytest.importorskip("onnx")
    torch.manual_seed(0)
    result = gb.fold(trained(Block()))
    buffer = io.BytesIO()
    torch.onnx.export(result, (X,), buffer, dynamo=True, verbose=False)
    kinds = {node.op_type for node in onnx.load_from_string(buffer.getvalue()).graph.node}
    assert "Conv" in kinds
    assert not {kind for kind in kinds if "Norm" in kind}
    session = onnxruntime.InferenceSession(buffer.getvalue())
    (y,) = session.run(None, {session.get_inputs()[0].name: X.numpy()})
    # Another order of the sums of 72 products of values around 1.
    np.testing.assert_allclose(y, result(X).detach().numpy(), rtol=1e-4, atol=1e-4)


def test_frozen_norms_and_converted_models() -> None:
    model = sequential()
    expected = model.double()(X.double())
    for change in (gb.freeze, gb.convert, gb.revert):
        its = copy.deepcopy(model)
        its = change(its, fused="split") if change is gb.revert else change(its)
        result = gb.fold(its)
        assert norms_in(result) == []
        assert not vars(result[1]).keys() - vars(nn.Identity()).keys()
        torch.testing.assert_close(result(X.double()), expected, rtol=1e-12, atol=1e-12)


def test_a_report_reads_well() -> None:
    _, report = folded(trained(Block()))
    assert str(report) == (
        "2 norms folded, 0 left\n"
        "norm  was             is part of                   leaves\n"
        "bn1   gb.BatchNorm2d  conv1 (nn.Conv2d, new bias)  nn.ReLU\n"
        "bn2   gb.BatchNorm2d  conv2 (nn.Conv2d, new bias)  gb.ResidualActivation"
    )
