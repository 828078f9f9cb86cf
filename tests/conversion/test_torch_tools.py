"""Torch's own tools on gammabeta's layers: right, or an error; never a lost activation."""

from __future__ import annotations

import copy
import inspect
import pickle
import subprocess
import sys
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import fuse_conv_bn_eval
from torch.nn.utils.fusion import fuse_linear_bn_eval

import gammabeta as gb
from gammabeta.layers.synchronized import SyncBatchNormActivation
from tests.conversion.test_fold import norms_in, trained

X = torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(0))
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*torch.jit.*deprecated:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*torch.ao.quantization.*:DeprecationWarning"),
]


class Plain(nn.Module):
    """conv → norm → ReLU, twice; the second ReLU may be the norm's."""

    def __init__(self, activation: str | None) -> None:
        super().__init__()
        self.conv, self.bn, self.relu = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU()
        self.conv2, self.bn2 = nn.Conv2d(4, 4, 3), gb.BatchNorm2d(4, activation=activation)

    def forward(self, x: Tensor) -> Tensor:
        return self.bn2(self.conv2(self.relu(self.bn(self.conv(x)))))


def converted(activation: str | None = None) -> Any:
    torch.manual_seed(0)
    return gb.convert(trained(Plain(activation)))


def close(actual: Tensor, expected: Tensor) -> None:
    # Two convolutions of 27 and 36 products in float32, in another order.
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("activation", [None, "relu", "silu"])
@pytest.mark.parametrize("inplace", [False, True])
def test_fx_fuse(activation: str | None, inplace: bool) -> None:
    from torch.fx.experimental.optimization import fuse

    model = converted(activation)
    expected = model(X)
    result = fuse(model, inplace=inplace)
    assert norms_in(result) == []
    close(result(X), expected)
    if not inplace:
        assert type(model.bn) is gb.BatchNorm2d
        assert torch.equal(model(X), expected)


def test_fx_fuse_says_what_it_leaves() -> None:
    from torch.fx.experimental.optimization import fuse

    model = trained(nn.Sequential(nn.Conv2d(3, 4, 3), gb.GhostBatchNorm2d(4, virtual_batch_size=2)))
    with pytest.warns(UserWarning, match=r"leaves 1 layers.*'1'.*gammabeta.fold"):
        result = fuse(model)
    close(result(X), model(X))
    plain = trained(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)))
    assert norms_in(fuse(plain)) == []


def test_fuse_conv_bn_eval() -> None:
    model = converted()
    close(fuse_conv_bn_eval(model.conv, model.bn)(X), model.bn(model.conv(X)))
    model = converted("relu")
    with pytest.raises(
        ValueError, match=r"layer 'bn2' \(BatchNorm2d\) has activation='relu'.*fold"
    ):
        torch.nn.utils.fusion.fuse_conv_bn_eval(model.conv2, model.bn2)
    with pytest.raises(ValueError, match="activation='tanh'"):
        fuse_linear_bn_eval(nn.Linear(2, 3).eval(), gb.BatchNorm1d(3, activation="tanh").eval())
    frozen = gb.FrozenBatchNorm2d(4, activation="relu").eval()
    with pytest.raises(ValueError, match="activation='relu'"):
        fuse_conv_bn_eval(model.conv, frozen)
    assert pickle.loads(pickle.dumps(fuse_conv_bn_eval)) is fuse_conv_bn_eval


@pytest.mark.parametrize("activation", [None, "relu"])
def test_fuse_modules(activation: str | None) -> None:
    from torch.ao.quantization import fuse_modules

    model = converted(activation)
    expected = model(X)
    result = fuse_modules(model, [["conv", "bn", "relu"], ["conv2", "bn2"]])
    close(result(X), expected)
    assert norms_in(result) == []
    assert type(result.conv) is torch.ao.nn.intrinsic.ConvReLU2d
    kind = nn.Conv2d if activation is None else torch.ao.nn.intrinsic.ConvReLU2d
    assert type(result.conv2) is kind
    assert torch.equal(model(X), expected)


@pytest.mark.parametrize("activation", [None, "relu"])
def test_fuse_modules_qat(activation: str | None) -> None:
    from torch.ao.quantization import fuse_modules_qat

    model = converted(activation).train()
    plain = gb.revert(copy.deepcopy(model), fused="split")
    pairs = [["conv", "bn", "relu"], ["conv2", "bn2"]]
    result = fuse_modules_qat(model, pairs)
    intrinsic = torch.ao.nn.intrinsic
    assert type(result.conv) is intrinsic.ConvBnReLU2d
    assert type(result.conv2) is (intrinsic.ConvBn2d if activation is None else type(result.conv))
    assert {type(m) for m in result.modules() if "Norm" in type(m).__name__} == {nn.BatchNorm2d}
    close(result(X), plain(X))
    close(result.conv2[1].running_var, (plain.bn2[0] if activation else plain.bn2).running_var)


def test_fuse_modules_with_what_it_does_not_know() -> None:
    from torch.ao.quantization import fuse_modules

    model = converted("silu")
    state = copy.deepcopy(model.state_dict())
    with pytest.raises(ValueError, match=r"layer 'bn2' .*activation='silu'.*fused='split'"):
        fuse_modules(model, ["conv2", "bn2"], inplace=True)
    assert model.bn2.activation == "silu"
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    linear = trained(nn.Sequential(nn.Linear(3, 4), gb.BatchNorm1d(4, activation="relu")))
    with pytest.raises(ValueError, match="cannot be fused"):
        fuse_modules(linear, ["0", "1"])
    transposed = gb.convert(trained(nn.Sequential(nn.ConvTranspose2d(3, 4, 3), nn.BatchNorm2d(4))))
    close(fuse_modules(transposed, ["0", "1"])(X), transposed(X))
    frozen = nn.Sequential(nn.Conv2d(3, 4, 3), gb.FrozenBatchNorm2d(4)).eval()
    with pytest.raises(AssertionError, match="did not find fuser method"):
        fuse_modules(frozen, ["0", "1"])


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="needs MKLDNN")
@pytest.mark.parametrize("activation", [None, "relu"])
def test_to_mkldnn(activation: str | None) -> None:
    from torch.utils.mkldnn import to_mkldnn

    model = converted(activation)
    expected = model(X)
    result = to_mkldnn(copy.deepcopy(model))
    with torch.no_grad():
        close(result(X.to_mkldnn()).to_dense(), expected)


def test_to_mkldnn_of_what_it_does_not_know() -> None:
    from torch.utils.mkldnn import to_mkldnn

    for norm in (
        gb.FrozenBatchNorm2d(4),
        gb.GhostBatchNorm2d(4, virtual_batch_size=2, activation="relu"),
        gb.BatchRenorm2d(4, activation="relu"),
    ):
        model = nn.Sequential(nn.Conv2d(3, 4, 3), norm).eval()
        with pytest.raises(ValueError, match=r"layer '1' is a .* gammabeta.fold\(model\) first"):
            to_mkldnn(model)
        assert type(model[0]) is nn.Conv2d
        with torch.no_grad():
            close(to_mkldnn(gb.fold(model))(X.to_mkldnn()).to_dense(), model(X))


def test_convert_sync_batchnorm() -> None:
    model = converted("relu")
    expected = model(X)
    result = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    assert type(result.bn) is nn.SyncBatchNorm
    assert type(result.bn2) is SyncBatchNormActivation
    assert "activation='relu'" in repr(result.bn2)
    close(result(X), expected)
    again = nn.SyncBatchNorm.convert_sync_batchnorm(result)
    assert type(again.bn2) is SyncBatchNormActivation
    close(again(X), expected)
    close(pickle.loads(pickle.dumps(again))(X), expected)
    assert norms_in(gb.fold(again)) == []
    close(gb.fold(again)(X), expected)
    layer, y = again.bn2, torch.randn(2, 4, 2, 2)
    close(layer(y, residual=-y), (nn.SyncBatchNorm.forward(layer, y) - y).relu())


@pytest.mark.parametrize("kind", ["Ghost", "Renorm"])
def test_convert_sync_batchnorm_of_what_has_no_synchronized_form(kind: str) -> None:
    other = gb.GhostBatchNorm2d(4, virtual_batch_size=2) if kind == "Ghost" else gb.BatchRenorm2d(4)
    model = nn.Sequential(nn.BatchNorm2d(3), nn.Sequential(other))
    with pytest.raises(ValueError, match=r"layer '1.0' is a .*has no synchronized form"):
        nn.SyncBatchNorm.convert_sync_batchnorm(model)
    assert type(model[0]) is nn.BatchNorm2d


def test_models_without_layers_of_ours_are_as_before() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(2, 2))
    result = nn.SyncBatchNorm.convert_sync_batchnorm(copy.deepcopy(model), process_group=None)
    assert type(result[1]) is nn.SyncBatchNorm
    model.eval()
    close(fuse_conv_bn_eval(model[0], model[1])(X), model[1](model[0](X)))
    assert [*inspect.signature(fuse_conv_bn_eval).parameters] == ["conv", "bn", "transpose"]


@pytest.mark.parametrize("first", ["gammabeta", "torch.fx.experimental.optimization"])
def test_the_order_of_imports_does_not_matter(first: str) -> None:
    code = f"""
import {first}
import gammabeta, torch
import torch.fx.experimental.optimization as optimization
import torch.utils.mkldnn as mkldnn
import torch.ao.quantization.fuser_method_mappings as mappings
from torch import nn
for function in (optimization.fuse, mkldnn.to_mkldnn, nn.SyncBatchNorm.convert_sync_batchnorm):
    assert not hasattr(function.__wrapped__, "__wrapped__")
assert (nn.Conv2d, gammabeta.BatchNorm2d) in mappings._DEFAULT_OP_LIST_TO_FUSER_METHOD
"""
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True)


def test_importing_gammabeta_imports_none_of_them() -> None:
    code = """
import torch, sys
before = set(sys.modules)
import gammabeta
new = set(sys.modules) - before
assert not [name for name in new if name.startswith(("torch.ao", "torch.utils.mkldnn"))], new
"""
    subprocess.run([sys.executable, "-c", code], check=True)
