"""`torch.fx` records each layer as one node, as it does torch's own; no tensor is an error."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn
from torch.nn.utils.rnn import pack_sequence

import gammabeta as gb

# Layer, input shape, whether it takes a residual.
LAYERS: dict[str, tuple[nn.Module, tuple[int, ...], bool]] = {
    "BatchNorm1d": (gb.BatchNorm1d(4), (3, 4), True),
    "BatchNorm2d": (gb.BatchNorm2d(4), (3, 4, 5, 5), True),
    "BatchNorm3d": (gb.BatchNorm3d(4), (3, 4, 2, 5, 5), True),
    "BatchRenorm2d": (gb.BatchRenorm2d(4), (3, 4, 5, 5), True),
    "DynamicTanh": (gb.DynamicTanh(4), (3, 4), True),
    "FilterResponseNorm2d": (gb.FilterResponseNorm2d(4), (3, 4, 5, 5), True),
    "FrozenBatchNorm2d": (gb.FrozenBatchNorm2d(4), (3, 4, 5, 5), True),
    "GhostBatchNorm2d": (gb.GhostBatchNorm2d(4, virtual_batch_size=2), (4, 4, 5, 5), True),
    "GroupNorm": (gb.GroupNorm(2, 4), (3, 4, 5, 5), True),
    "InstanceNorm1d": (gb.InstanceNorm1d(4), (3, 4, 5), True),
    "InstanceNorm2d": (gb.InstanceNorm2d(4, affine=True), (3, 4, 5, 5), True),
    "InstanceNorm3d": (gb.InstanceNorm3d(4), (3, 4, 2, 5, 5), True),
    "LayerNorm": (gb.LayerNorm(4), (3, 4), True),
    "LayerNormLSTM": (gb.LayerNormLSTM(4, 3), (5, 2, 4), False),
    "MaskedBatchNorm1d": (gb.MaskedBatchNorm1d(4), (3, 4, 5), False),
    "RMSNorm": (gb.RMSNorm(4), (3, 4), True),
    "RecurrentBatchNormLSTM": (gb.RecurrentBatchNormLSTM(4, 3, max_length=5), (5, 2, 4), False),
    "TLU": (gb.TLU(4), (3, 4), False),
}
each = pytest.mark.parametrize("name", LAYERS)


def test_every_layer_is_here() -> None:
    for name in gb.layers.__all__:
        cls = getattr(gb, name)
        if isinstance(cls, type) and issubclass(cls, nn.Module) and not name.startswith("Lazy"):
            stem = name[:-2] if name[-1] == "d" and name[-2].isdigit() else name
            assert any(key.startswith(stem) for key in LAYERS), name


class Model(nn.Module):
    """A layer in a model, called in one of the ways that people call it."""

    def __init__(self, layer: nn.Module, way: str) -> None:
        super().__init__()
        self.layer, self.way = layer, way

    def forward(self, x: Tensor) -> Any:
        if self.way == "residual":
            return self.layer(x * 2, x)
        if self.way == "keyword":
            return self.layer(x * 2, residual=x)
        y = self.layer(x * 2)
        if isinstance(self.layer, nn.Module) and "LSTM" in type(self.layer).__name__:
            output, (h, c) = y
            return output + h.sum() + c.sum()
        return y


WAYS = [
    (name, way, activation)
    for name, (_, _, takes_residual) in LAYERS.items()
    for way in (("alone", "residual", "keyword") if takes_residual else ("alone",))
    for activation in ((None, "relu") if takes_residual else (None,))
]


@pytest.mark.parametrize(("name", "way", "activation"), WAYS)
@pytest.mark.parametrize("training", [True, False])
def test_one_node(name: str, way: str, training: bool, activation: str | None) -> None:
    layer, shape, takes_residual = LAYERS[name]
    if takes_residual:
        layer.activation = activation
    model, x = Model(layer, way).train(training), torch.randn(shape)
    traced = fx.symbolic_trace(model)
    nodes = [node for node in traced.graph.nodes if node.op == "call_module"]
    assert [node.target for node in nodes] == ["layer"]
    state = {key: value.clone() for key, value in model.state_dict().items()}
    got = traced(x)
    model.load_state_dict(state)
    torch.testing.assert_close(got, model(x), rtol=0, atol=0)
    model.load_state_dict(state)
    if takes_residual:
        layer.activation = None


@pytest.mark.parametrize("way", ["alone", "residual"])
def test_a_converted_model_is_traced_as_before(way: str) -> None:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norms = nn.ModuleList(
                [nn.BatchNorm2d(4), nn.GroupNorm(2, 4), nn.InstanceNorm2d(4), nn.LayerNorm(5)]
            )
            self.norms.append(nn.RMSNorm(5))

        def forward(self, x: Tensor) -> Tensor:
            for norm in self.norms:
                x = torch.relu(norm(x)) + x
            return x

    block, x = Block(), torch.randn(2, 4, 5, 5)
    want = [node.target for node in fx.symbolic_trace(block).graph.nodes]
    y = fx.symbolic_trace(block)(x)
    block.load_state_dict(Block().state_dict())
    graph = fx.symbolic_trace(gb.convert(block))
    assert [node.target for node in graph.graph.nodes] == want
    torch.testing.assert_close(graph(x), y)


@each
@pytest.mark.parametrize("given", [None, 3, [1.0], "x"])
def test_what_is_no_tensor(name: str, given: object) -> None:
    layer, _, _ = LAYERS[name]
    kind = type(given).__name__
    with pytest.raises(TypeError, match=f"^input is a {kind}; {type(layer).__name__} takes"):
        layer(given)


def test_packed_sequences_are_none_of_that() -> None:
    packed = pack_sequence([torch.randn(3, 4), torch.randn(2, 4)])
    output, _ = gb.LayerNormLSTM(4, 3)(packed)
    assert output.data.shape == (5, 3)
