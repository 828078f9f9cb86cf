"""What has lost its memory is refused by its name, in every layer: torch's operators may crash."""

from __future__ import annotations

import copy

import pytest
import torch
from torch.nn.utils.rnn import pack_sequence

import gammabeta as gb
from tests.layers.test_tracing import LAYERS

DTYPES = [torch.float32, torch.bfloat16]


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_parameters_and_buffers(name: str, training: bool, dtype: torch.dtype) -> None:
    layer, shape, _ = LAYERS[name]
    for key, t in layer.state_dict().items():
        one = copy.deepcopy(layer).train(training).to(dtype)
        counts = key.endswith("num_batches_tracked")
        if counts and (not training or "Frozen" in name):
            continue  # nobody reads it
        one.state_dict(keep_vars=True)[key].untyped_storage().resize_(0)
        with pytest.raises(RuntimeError, match=f"^{key} has shape .* its storage was freed"):
            one(torch.randn(shape).to(dtype))
        assert t.untyped_storage().nbytes()


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_inputs(name: str, dtype: torch.dtype) -> None:
    layer, shape, takes_residual = LAYERS[name]
    layer = copy.deepcopy(layer).to(dtype)
    x, lost = torch.randn(2, *shape).to(dtype).unbind()
    lost = lost.clone()
    lost.untyped_storage().resize_(0)
    with pytest.raises(RuntimeError, match=r"^input has shape .* its storage was freed"):
        layer(lost)
    if takes_residual:
        with pytest.raises(RuntimeError, match=r"^residual has shape .* its storage was freed"):
            layer(x, residual=lost)


def test_packed_sequences() -> None:
    layer = gb.LayerNormLSTM(4, 3)
    packed = pack_sequence([torch.randn(3, 4), torch.randn(2, 4)])
    layer.bias_ih_l0.untyped_storage().resize_(0)
    with pytest.raises(RuntimeError, match=r"^bias_ih_l0 has shape"):
        layer(packed)
