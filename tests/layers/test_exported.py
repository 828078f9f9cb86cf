"""What leaves Python: graphs for ONNX, and every family in one compiled graph."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import gammabeta as gb
from gammabeta.ops.cpu import library

IMAGE, ROWS = (3, 4, 5, 6), (6, 4)
# Family → a layer, and the shapes of its inputs.
FAMILIES: dict[str, tuple[Callable[[], nn.Module], tuple[tuple[int, ...], ...]]] = {
    "batch": (lambda: gb.BatchNorm2d(4, activation="relu"), (IMAGE, IMAGE)),
    "instance": (lambda: gb.InstanceNorm2d(4, affine=True, activation="relu"), (IMAGE, IMAGE)),
    "layer": (lambda: gb.LayerNorm(6, activation="gelu"), (IMAGE, IMAGE)),
    "group": (lambda: gb.GroupNorm(2, 4, activation="silu"), (IMAGE, IMAGE)),
    "rms": (lambda: gb.RMSNorm(6), (IMAGE, IMAGE)),
    "renorm": (lambda: gb.BatchRenorm2d(4, activation="relu"), (IMAGE, IMAGE)),
    "ghost": (lambda: gb.GhostBatchNorm2d(4, 2), ((4, 4, 5, 6),)),
    "masked": (lambda: gb.MaskedBatchNorm1d(4), ((3, 4, 5),)),
    "frozen": (lambda: gb.FrozenBatchNorm2d(4, activation="relu"), (IMAGE, IMAGE)),
    "filter response": (lambda: gb.FilterResponseNorm2d(4), (IMAGE,)),
    "dynamic tanh": (lambda: gb.DynamicTanh(6), (IMAGE,)),
    "layer norm LSTM": (lambda: gb.LayerNormLSTM(4, 5), ((3, 2, 4),)),
    "recurrent batch norm": (
        lambda: gb.RecurrentBatchNormLSTM(4, 5, max_length=3),
        ((3, 2, 4),),
    ),
}
every_family = pytest.mark.parametrize("family", FAMILIES)

# A graph goes past the native kernels: where they are in use a layer has to notice, and on torch's
# operators there is nothing to notice. `test_transforms.py` compiles and exports on both.
beside_kernels = pytest.mark.parametrize(
    "kernels",
    ["torch" if library.extension is None else pytest.param("native", marks=pytest.mark.native)],
    indirect=True,
)


def made(family: str) -> tuple[nn.Module, tuple[Tensor, ...]]:
    torch.manual_seed(0)
    make, shapes = FAMILIES[family]
    layer = make()
    for tensor in (*layer.parameters(), *layer.buffers()):
        if tensor.is_floating_point():
            tensor.data.uniform_(0.5, 2.0)
    return layer, tuple(torch.randn(shape, requires_grad=True) for shape in shapes)


def first(output: Any) -> Tensor:
    found: Tensor = output if isinstance(output, Tensor) else output[0]
    return found


@beside_kernels
@every_family
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_every_family_compiles_in_one_graph(family: str, training: bool) -> None:
    layer, inputs = made(family)
    twin, copies = made(family)
    layer.train(training)
    twin.train(training)
    torch._dynamo.reset()
    graph = torch.compile(layer, fullgraph=True, backend="aot_eager")
    y, expected = first(graph(*inputs)), first(twin(*copies))
    # A decomposition sums in another order; at most 120 values in float32.
    torch.testing.assert_close(y, expected, rtol=1e-5, atol=1e-5)
    y.pow(2).sum().backward()
    expected.pow(2).sum().backward()
    found = [p.grad for p in (*layer.parameters(), *inputs) if p.grad is not None]
    gradients = [p.grad for p in (*twin.parameters(), *copies) if p.grad is not None]
    torch.testing.assert_close(found, gradients, rtol=1e-4, atol=1e-4)


@beside_kernels
@every_family
@pytest.mark.filterwarnings("ignore")  # of the exporter's own dependencies
def test_onnxruntime_computes_the_same(family: str) -> None:
    runtime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    layer, inputs = made(family)
    layer.eval()
    with torch.no_grad():
        expected = first(layer(*inputs))
    file = io.BytesIO()
    program = torch.onnx.export(layer, inputs, dynamo=True, verbose=False)
    assert program is not None
    file.write(program.model_proto.SerializeToString())
    session = runtime.InferenceSession(file.getvalue(), providers=["CPUExecutionProvider"])
    named = zip((i.name for i in session.get_inputs()), inputs, strict=True)
    y = session.run(None, {name: t.detach().numpy() for name, t in named})[0]
    torch.testing.assert_close(torch.from_numpy(y), expected, rtol=1e-5, atol=1e-5)


@beside_kernels
@pytest.mark.filterwarnings("ignore")
def test_onnxruntime_computes_a_converted_network() -> None:
    runtime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    model_provider = pytest.importorskip("pytorchcv.model_provider")
    torch.manual_seed(0)
    model = gb.convert(model_provider.get_model("resnet10", num_classes=10)).eval()
    x = torch.randn(1, 3, 224, 224)
    with torch.no_grad():
        expected = model(x)
    program = torch.onnx.export(model, (x,), dynamo=True, verbose=False)
    assert program is not None
    session = runtime.InferenceSession(
        program.model_proto.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    y = session.run(None, {session.get_inputs()[0].name: x.numpy()})[0]
    torch.testing.assert_close(torch.from_numpy(y), expected, rtol=1e-5, atol=1e-5)
