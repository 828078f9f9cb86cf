"""PyTorch's own module cases (`torch.testing._internal`), run on our layers and on torch's.

Whatever torch's ModuleInfo database feeds its norms is fed to ours with the same parameters, and
everything a person can see is compared: output, every gradient, running statistics, buffers.
"""

import copy
import io
import pickle

import pytest
import torch
from torch import nn
from torch.autograd import gradcheck, gradgradcheck
from torch.testing import assert_close
from torch.testing._internal.common_modules import ModuleErrorEnum, module_db

import gammabeta as gb
from gammabeta.ops.cpu import library

OURS = {
    nn.BatchNorm1d: gb.BatchNorm1d,
    nn.BatchNorm2d: gb.BatchNorm2d,
    nn.BatchNorm3d: gb.BatchNorm3d,
    nn.LayerNorm: gb.LayerNorm,
    nn.GroupNorm: gb.GroupNorm,
    nn.InstanceNorm1d: gb.InstanceNorm1d,
    nn.InstanceNorm2d: gb.InstanceNorm2d,
    nn.InstanceNorm3d: gb.InstanceNorm3d,
    nn.RMSNorm: gb.RMSNorm,
}
INFOS = {info.module_cls: info for info in module_db if info.module_cls in OURS}


def cases(dtype, training):
    """Every (our class, constructor, forward) of torch's database, named for the test report."""
    found = []
    for theirs, ours in OURS.items():
        info = INFOS[theirs]
        inputs = info.module_inputs_func(
            info, device="cpu", dtype=dtype, requires_grad=True, training=training
        )
        for i, case in enumerate(inputs):
            found.append(pytest.param(theirs, ours, case, id=f"{ours.__name__}-{i}-{case.desc}"))
    return found


def twins(theirs, ours, case, dtype, training):
    """Torch's layer and ours, with the same random parameters and buffers."""
    args, kwargs = case.constructor_input.args, case.constructor_input.kwargs
    torch.manual_seed(0)
    plain = theirs(*args, **kwargs, dtype=dtype).train(training)
    for tensor in (*plain.parameters(), *plain.buffers()):
        if tensor.is_floating_point():
            tensor.data.uniform_(0.5, 2.0)
    layer = ours(*args, **kwargs, dtype=dtype).train(training)
    assert layer.load_state_dict(plain.state_dict()) == ([], [])
    return plain, layer


def run(layer, case):
    """Output, gradients by name, and the state left behind."""
    x = case.forward_input.args[0].detach().clone().requires_grad_()
    y = layer(x, *case.forward_input.args[1:], **case.forward_input.kwargs)
    # A gradient that differs at every place: a uniform one is annihilated by normalization.
    grad = torch.linspace(-1, 1, y.numel(), dtype=y.dtype).reshape(y.shape)
    y.backward(grad)
    grads = {name: p.grad for name, p in layer.named_parameters()} | {"input": x.grad}
    return y, grads, layer.state_dict()


def test_the_database_has_all_nine():
    assert set(INFOS) == set(OURS)


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
@pytest.mark.parametrize("theirs", OURS, ids=lambda c: c.__name__)
def test_everything_seen_is_torchs(theirs, dtype, training):
    seen = 0
    for param in cases(dtype, training):
        if param.values[0] is not theirs:
            continue
        _, ours, case = param.values
        plain, layer = twins(theirs, ours, case, dtype, training)
        # assert_close's defaults: a few ulp of the result, for another order of summation over
        # the at most 4 · 4³ values these cases average. Torch's layer norm adds up the gradient
        # of β over thousands of rows that cancel, one by one; natively it is done in parts.
        near = {}
        if "large_batch" in param.id and dtype is torch.float32 and library.in_use() != "torch":
            near = {"rtol": 1e-5, "atol": 1e-4}
        for got, expected in zip(run(layer, case), run(plain, case), strict=True):
            message = f"{param.id}: {{}}".format
            assert_close(got, expected, equal_nan=True, msg=message, **near)
        seen += 1
    assert seen >= 2


@pytest.mark.parametrize(("theirs", "ours", "case"), cases(torch.float64, True))
def test_gradcheck_and_gradgradcheck(theirs, ours, case):
    _, layer = twins(theirs, ours, case, torch.float64, True)
    x = case.forward_input.args[0].detach()
    if "no_batch" not in case.desc:  # the numerical Jacobian is quadratic in it
        x = x[:2]
    x = x.clone().requires_grad_()
    parameters = tuple(layer.parameters())

    def f(x, *parameters):
        names = [name for name, _ in layer.named_parameters()]
        state = dict(zip(names, parameters, strict=True)) | {
            name: b.clone() for name, b in layer.named_buffers()
        }
        return torch.func.functional_call(layer, state, (x,))

    # Cases with eps=1e-3 or inputs uniform in ±9 have second derivatives near 1; gradcheck's
    # default steps and tolerances in float64 fit them.
    # The full Jacobian where it is small, else random projections of it.
    assert gradcheck(f, (x, *parameters), fast_mode=x.numel() > 60)
    assert gradgradcheck(f, (x, *parameters), fast_mode=True)


@pytest.mark.parametrize("theirs", OURS, ids=lambda c: c.__name__)
def test_error_cases(theirs):
    info = INFOS[theirs]
    if info.module_error_inputs_func is None:
        assert theirs not in (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.GroupNorm)
        return
    errors = info.module_error_inputs_func(
        info, device="cpu", dtype=torch.float32, requires_grad=False, training=True
    )
    assert errors
    for error in errors:
        case = error.module_error_input
        args, kwargs = case.constructor_input.args, case.constructor_input.kwargs
        if error.error_on == ModuleErrorEnum.CONSTRUCTION_ERROR:
            with pytest.raises(error.error_type, match=error.error_regex):
                OURS[theirs](*args, **kwargs)
        else:
            layer = OURS[theirs](*args, **kwargs)
            with pytest.raises(error.error_type, match=error.error_regex):
                layer(*case.forward_input.args, **case.forward_input.kwargs)


@pytest.mark.parametrize(("theirs", "ours", "case"), cases(torch.float32, True))
def test_copied_pickled_and_saved(theirs, ours, case):
    _, layer = twins(theirs, ours, case, torch.float32, True)
    layer.activation = "silu"
    x = case.forward_input.args[0].detach()
    if x.numel():
        layer(x)  # so that there are statistics to lose
    expected = copy.deepcopy(layer).eval()(x)
    copies = [copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))]
    saved = io.BytesIO()
    torch.save(layer, saved)
    saved.seek(0)
    copies.append(torch.load(saved, weights_only=False))
    for twin in copies:
        assert type(twin) is ours
        assert_close(twin.state_dict(), layer.state_dict(), rtol=0, atol=0)
        assert_close(twin.eval()(x), expected, rtol=0, atol=0)


@pytest.mark.parametrize(("theirs", "ours", "case"), cases(torch.float32, True))
def test_state_dict_both_ways(theirs, ours, case):
    plain, layer = twins(theirs, ours, case, torch.float32, True)
    assert list(layer.state_dict()) == list(plain.state_dict())
    assert layer.state_dict()._metadata == plain.state_dict()._metadata
    assert [n for n, _ in layer.named_buffers()] == [n for n, _ in plain.named_buffers()]
    x = case.forward_input.args[0].detach()
    if x.numel():
        layer(x)
    plain.load_state_dict(layer.state_dict())
    assert_close(plain.state_dict(), layer.state_dict(), rtol=0, atol=0)
    assert isinstance(layer, theirs)
