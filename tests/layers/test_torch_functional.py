"""PyTorch's operator samples and ONNX's backend cases, through our kernels' one dispatch."""

import importlib
import inspect

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from onnx.backend.test.case import node as onnx_node
from torch.testing import assert_close
from torch.testing._internal.common_methods_invocations import op_db

from gammabeta.ops.reference import torch_norms as reference
from tests.ops import calls

NORMS = {
    "nn.functional.batch_norm": (F.batch_norm, calls.batch_norm),
    "nn.functional.layer_norm": (F.layer_norm, calls.layer_norm),
    "nn.functional.group_norm": (F.group_norm, calls.group_norm),
    "nn.functional.instance_norm": (F.instance_norm, calls.instance_norm),
    "nn.functional.rms_norm": (F.rms_norm, calls.rms_norm),
}
WITH_ERRORS = ["nn.functional.group_norm", "nn.functional.rms_norm"]
OPS = {op.name: op for op in op_db if op.name in NORMS and not op.variant_test_name}


def by_name(theirs, sample):
    """A sample's arguments under torch's names, defaults filled in; ``input`` apart."""
    bound = inspect.signature(theirs).bind(sample.input, *sample.args, **sample.kwargs)
    bound.apply_defaults()
    arguments = dict(bound.arguments)
    return arguments.pop("input"), arguments


def fresh(arguments):
    """Copies, so that the two sides update statistics and collect gradients apart."""
    return {
        k: v.detach().clone().requires_grad_(v.requires_grad) if torch.is_tensor(v) else v
        for k, v in arguments.items()
    }


def test_there_are_samples_of_all_five():
    assert set(OPS) == set(NORMS)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
@pytest.mark.parametrize("name", NORMS)
def test_operator_samples(name, dtype):
    theirs, ours = NORMS[name]
    samples = list(OPS[name].sample_inputs("cpu", dtype, requires_grad=True))
    assert len(samples) >= 5
    for sample in samples:
        x, arguments = by_name(theirs, sample)
        results = []
        for function in (theirs, ours):
            a = fresh({"x": x, **arguments})
            given = a.pop("x")
            y = function(given, **a)
            if y.numel():
                y.backward(torch.linspace(-1, 1, y.numel(), dtype=dtype).reshape(y.shape))
            tensors = {k: v for k, v in a.items() if torch.is_tensor(v)}
            grads = {k: v.grad for k, v in tensors.items() if v.requires_grad}
            results.append((y, given.grad, grads, {k: v.detach() for k, v in tensors.items()}))
        # A few ulp: the same sums in another order. Of one value alone x̂ is 0, but in float32
        # torch's layer norm makes 1/√ε = 316 roundings of x of it.
        near = {}
        if arguments.get("normalized_shape") == (1,) and dtype is torch.float32:
            near = {"rtol": 1e-5, "atol": 1e-4}
        assert_close(results[1], results[0], msg=lambda m, s=sample: f"{s}: {m}", **near)


def test_operators_with_error_samples():
    assert sorted(n for n in OPS if OPS[n].error_inputs_func) == WITH_ERRORS


@pytest.mark.parametrize("name", WITH_ERRORS)
def test_operator_errors(name):
    theirs, ours = NORMS[name]
    for error in OPS[name].error_inputs("cpu"):
        x, arguments = by_name(theirs, error.sample_input)
        with pytest.raises(error.error_type, match=error.error_regex):
            ours(x, **arguments)


# --- ONNX -----------------------------------------------------------------------------------------
# ONNX's momentum is the weight of the OLD statistic, and its running variance averages the biased
# variance. torch's is the weight of the new one, and averages the unbiased one. So momentum turns
# into 1 − momentum, and what torch's rule puts in is scaled by (m − 1)/m to be what ONNX's does.


def onnx_cases(operator, module):
    """ONNX's own node cases for ``operator``: (attributes, inputs, outputs)."""
    # Importing an operator's module makes its cases. ``collect_testcases`` would import every
    # operator's: 20 s, and numpy's warnings about casts that are none of ours.
    importlib.import_module(f"onnx.backend.test.case.node.{module}")
    found = []
    for case in onnx_node._NodeTestCases:
        nodes = case.model.graph.node
        # A second copy of each case is written out in simpler operators: not ours.
        if [n.op_type for n in nodes] != [operator]:
            continue
        attributes = {a.name: (a.f if a.type == 1 else a.i) for a in nodes[0].attribute}
        for inputs, outputs in case.data_sets:
            param = pytest.param(
                attributes,
                [torch.from_numpy(np.array(v)) for v in inputs],
                [torch.from_numpy(np.array(v)) for v in outputs],
                id=case.name,
            )
            found.append(param)
    assert found, operator
    return found


def tolerance(outputs):
    """ONNX's own runner compares at rtol=1e-3, atol=1e-7; ours keeps 1e-4: its data are float32."""
    return {"rtol": 1e-4, "atol": 1e-6, "check_dtype": outputs[0].dtype is torch.float32}


@pytest.mark.parametrize(
    ("attributes", "inputs", "outputs"), onnx_cases("BatchNormalization", "batch_normalization")
)
def test_onnx_batch_normalization(attributes, inputs, outputs):
    x, weight, bias, mean, var = inputs
    training = bool(attributes.get("training_mode", 0))
    old = attributes.get("momentum", 0.9)
    running_mean, running_var = mean.clone(), var.clone()
    y = calls.batch_norm(
        x,
        running_mean,
        running_var,
        weight,
        bias,
        training=training,
        momentum=1 - old,
        eps=attributes.get("epsilon", 1e-5),
    )
    assert_close(y, outputs[0], **tolerance(outputs))
    if training:
        m = x.numel() / x.shape[1]
        entered = (running_var - old * var) * (m - 1) / m
        assert_close(running_mean, outputs[1], **tolerance(outputs))
        assert_close(old * var + entered, outputs[2], **tolerance(outputs))
    else:
        assert len(outputs) == 1
        assert_close((running_mean, running_var), (mean, var), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("attributes", "inputs", "outputs"),
    onnx_cases("InstanceNormalization", "instance_normalization"),
)
def test_onnx_instance_normalization(attributes, inputs, outputs):
    x, weight, bias = inputs
    y = calls.instance_norm(
        x,
        None,
        None,
        weight,
        bias,
        use_input_stats=True,
        momentum=0.1,
        eps=attributes.get("epsilon", 1e-5),
    )
    assert_close(y, outputs[0], **tolerance(outputs))


@pytest.mark.parametrize(
    ("attributes", "inputs", "outputs"), onnx_cases("GroupNormalization", "groupnormalization")
)
def test_onnx_group_normalization(attributes, inputs, outputs):
    x, weight, bias = inputs
    y = calls.group_norm(
        x, attributes["num_groups"], weight, bias, eps=attributes.get("epsilon", 1e-5)
    )
    assert_close(y, outputs[0], **tolerance(outputs))


@pytest.mark.parametrize(
    ("attributes", "inputs", "outputs"), onnx_cases("LayerNormalization", "layernormalization")
)
def test_onnx_layer_normalization(attributes, inputs, outputs):
    x, weight, bias = inputs
    shape = x.shape[attributes.get("axis", -1) % x.dim() :]
    y = calls.layer_norm(x, shape, weight, bias, eps=attributes.get("epsilon", 1e-5))
    assert_close(y, outputs[0], **tolerance(outputs))


@pytest.mark.parametrize(
    ("attributes", "inputs", "outputs"), onnx_cases("RMSNormalization", "rmsnormalization")
)
def test_onnx_rms_normalization(attributes, inputs, outputs):
    x, weight = inputs
    shape = x.shape[attributes.get("axis", -1) % x.dim() :]
    y = calls.rms_norm(x, shape, weight, eps=attributes.get("epsilon", 1e-5))
    assert_close(y, outputs[0], **tolerance(outputs))


def test_reference_instance_norm_is_onnxs():
    for param in onnx_cases("InstanceNormalization", "instance_normalization"):
        attributes, (x, weight, bias), outputs = param.values
        y = reference.instance_norm(x, weight, bias, attributes.get("epsilon", 1e-5))
        assert_close(y, outputs[0], **tolerance(outputs))
