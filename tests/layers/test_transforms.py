"""What people wrap around a layer: transforms, compilers, autocast, layouts."""

import collections
import copy
import warnings

import pytest
import torch
from torch import nn
from torch.func import functional_call, grad, jvp, stack_module_state, vmap
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.instancenorm import _InstanceNorm
from torch.testing import assert_close

import gammabeta as gb
from gammabeta.ops.activations import ACTIVATIONS
from gammabeta.ops.cpu import library

# Each: ours, torch's, constructor arguments, keyword arguments, an input.
LAYERS = [
    (gb.BatchNorm1d, nn.BatchNorm1d, (4,), {}, (6, 4)),
    (gb.BatchNorm2d, nn.BatchNorm2d, (4,), {}, (3, 4, 5, 6)),
    (gb.BatchNorm2d, nn.BatchNorm2d, (4,), {"track_running_stats": False}, (3, 4, 5, 6)),
    (gb.BatchNorm3d, nn.BatchNorm3d, (4,), {"bias": False}, (3, 4, 2, 3, 4)),
    (gb.InstanceNorm1d, nn.InstanceNorm1d, (4,), {"affine": True}, (3, 4, 6)),
    (gb.InstanceNorm2d, nn.InstanceNorm2d, (4,), {"track_running_stats": True}, (3, 4, 5, 6)),
    (gb.InstanceNorm3d, nn.InstanceNorm3d, (4,), {}, (3, 4, 2, 3, 4)),
    (gb.LayerNorm, nn.LayerNorm, ((5, 6),), {}, (3, 4, 5, 6)),
    (gb.GroupNorm, nn.GroupNorm, (2, 4), {}, (3, 4, 5, 6)),
    (gb.RMSNorm, nn.RMSNorm, (6,), {}, (3, 4, 5, 6)),
]
IDS = [f"{ours.__name__}-{'-'.join(k) or 'default'}" for ours, _, _, k, _ in LAYERS]
EACH = pytest.mark.parametrize(("ours", "theirs", "args", "kwargs", "shape"), LAYERS, ids=IDS)
MODES = pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
# torch's RMSNorm says once a process that mixed dtypes keep it from its fused kernel.
NOT_FUSED = "ignore:Mismatch dtype between input and weight"


def pair(ours, theirs, args, kwargs, training=True):
    """Torch's layer and ours with the same random parameters and statistics."""
    torch.manual_seed(0)
    plain = theirs(*args, **kwargs).train(training)
    for tensor in (*plain.parameters(), *plain.buffers()):
        if tensor.is_floating_point():
            tensor.data.uniform_(0.5, 2.0)
    layer = ours(*args, **kwargs).train(training)
    layer.load_state_dict(plain.state_dict())
    return plain, layer


def value_or_error(function):
    """What ``function`` returns, or the type of what it raises."""
    try:
        return function()
    except Exception as error:  # whatever torch raises is what is compared
        return type(error)


@EACH
@MODES
@pytest.mark.parametrize("given", ["captured", "passed"])
def test_func_grad(ours, theirs, args, kwargs, shape, training, given):
    results = []
    x = torch.randn(shape)
    for layer in pair(ours, theirs, args, kwargs, training):
        before = copy.deepcopy(layer.state_dict())
        parameters, buffers = dict(layer.named_parameters()), dict(layer.named_buffers())

        def loss(x, parameters, buffers, layer=layer):
            state = parameters | (buffers if given == "passed" else {})
            return functional_call(layer, state, (x,)).pow(3).sum()

        got = value_or_error(lambda f=loss, p=parameters, b=buffers: grad(f, (0, 1))(x, p, b))
        results.append(got)
        if isinstance(got, tuple):
            results[-1] = (*got, layer.state_dict())
    # torch refuses to change captured buffers under a transform; so do we, with the same error.
    if isinstance(results[0], type):
        assert results[1] is results[0]
        assert_close(layer.state_dict(), before, rtol=0, atol=0)
    else:
        assert_close(results[1], results[0])


@EACH
@MODES
# torch scripts its own decompositions when the first tangent comes.
@pytest.mark.filterwarnings("ignore:`torch.jit.*deprecated")
def test_func_jvp_and_forward_mode(ours, theirs, args, kwargs, shape, training):
    x, tangent = torch.randn(shape), torch.randn(shape)
    results = []
    for layer in pair(ours, theirs, args, kwargs, training):
        by_func = value_or_error(lambda m=layer: jvp(m, (x,), (tangent,)))
        with torch.autograd.forward_ad.dual_level():
            dual = torch.autograd.forward_ad.make_dual(x, tangent)
            y = value_or_error(lambda m=layer, d=dual: m(d))
            if torch.is_tensor(y):
                y = tuple(torch.autograd.forward_ad.unpack_dual(y))
        results.append((by_func, y))
    for got, expected in zip(results[1], results[0], strict=True):
        if isinstance(expected, type):
            assert got is expected
        else:
            assert_close(got, expected)


@EACH
@MODES
def test_vmap_over_examples(ours, theirs, args, kwargs, shape, training):
    x = torch.randn(3, *shape)
    results = [
        value_or_error(lambda m=m: vmap(m)(x)) for m in pair(ours, theirs, args, kwargs, training)
    ]
    if isinstance(results[0], type):  # statistics that would need one copy an example
        assert results[1] is results[0]
    else:
        assert_close(results[1], results[0])


@EACH
@MODES
def test_an_ensemble_by_vmap(ours, theirs, args, kwargs, shape, training):
    layers = [pair(ours, theirs, args, kwargs, training)[1] for _ in range(3)]
    x = torch.randn(3, *shape)
    if training and layers[0].state_dict().keys() & {"running_mean"}:
        x[1, 0, 1].view(-1)[0] = float("inf")  # for one model of the three
    parameters, buffers = stack_module_state(layers)
    stacked = {k: v.detach().clone() for k, v in (parameters | buffers).items()}
    y = vmap(lambda s, x: functional_call(layers[0], s, (x,)))(stacked, x)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", gb.NonFiniteBatchWarning)
        apart = [layer(x[i]) for i, layer in enumerate(layers)]
    assert_close(y, torch.stack(apart), equal_nan=True)
    for name, value in stacked.items():
        expected = torch.stack([layer.state_dict()[name] for layer in layers])
        assert expected.isfinite().all()
        assert_close(value, expected)


@EACH
@MODES
def test_compiled_in_one_graph(ours, theirs, args, kwargs, shape, training):
    _, layer = pair(ours, theirs, args, kwargs, training)
    layer.activation = "silu"
    eager = copy.deepcopy(layer)
    torch._dynamo.reset()  # it gives up on a function after eight graphs
    graph = torch.compile(layer, fullgraph=True, backend="aot_eager")
    x, residual = torch.randn(shape), torch.randn(shape)
    results = []
    for function, module in ((graph, layer), (eager, eager)):
        a, r = x.clone().requires_grad_(), residual.clone().requires_grad_()
        for _ in range(2):
            y = function(a, r)
        y.pow(3).sum().backward()
        grads = [p.grad for p in module.parameters()]
        results.append((y, a.grad, r.grad, grads, module.state_dict()))
    # A decomposition sums in another order; 90 values a channel in float32.
    assert_close(results[0], results[1], rtol=1e-5, atol=1e-5)


@EACH
@MODES
def test_exported_graph_is_torchs(ours, theirs, args, kwargs, shape, training):
    x = torch.randn(shape)
    graphs = []
    for layer in pair(ours, theirs, args, kwargs, training):
        program = torch.export.export(layer, (x,))
        calls = [n.target for n in program.graph.nodes if n.op == "call_function"]
        graphs.append(collections.Counter(calls))
        expected = copy.deepcopy(layer)(x)
        assert_close(program.module()(x), expected)
    assert graphs[1] == graphs[0]


@EACH
@MODES
@pytest.mark.filterwarnings("ignore:`torch.jit.*deprecated")
# torch's functionals look at sizes, ours and theirs alike; sizes are constants of a trace.
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
def test_scripted_and_traced(ours, theirs, args, kwargs, shape, training):
    _, layer = pair(ours, theirs, args, kwargs, training)
    x, residual = torch.randn(shape), torch.randn(shape)
    names = [None, *ACTIVATIONS] if ours is gb.LayerNorm else [None, "relu"]
    for layer.activation in names:
        scripted, eager = torch.jit.script(copy.deepcopy(layer)), copy.deepcopy(layer)
        assert_close(scripted(x, residual), eager(x, residual))
        assert_close(scripted(x), eager(x))
        assert_close(scripted.state_dict(), eager.state_dict())
    traced, eager = torch.jit.trace(copy.deepcopy(layer), x, check_trace=False), layer
    before = copy.deepcopy(traced.state_dict())
    eager.load_state_dict(before)
    assert_close(traced(x), eager(x))
    assert_close(traced.state_dict(), eager.state_dict())


@EACH
@MODES
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bfloat16", "float16"])
@pytest.mark.filterwarnings(NOT_FUSED)
def test_autocast(ours, theirs, args, kwargs, shape, training, dtype):
    x = torch.randn(shape)
    results = []
    for layer in pair(ours, theirs, args, kwargs, training):
        for given in (x, x.to(dtype)):
            with torch.autocast("cpu", dtype=dtype):
                results.append((layer(given), layer.state_dict()))
    near = {}
    if library.in_use() != "torch" and issubclass(theirs, _InstanceNorm):
        # Torch rounds the statistics to half precision on the way (`test_dtypes`).
        near = {"rtol": torch.finfo(dtype).eps, "atol": torch.finfo(dtype).eps}
    assert_close(results[2:], results[:2], **near)


@EACH
@MODES
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64], ids=str)
@pytest.mark.parametrize("parameters", ["float32", "same"])
@pytest.mark.filterwarnings(NOT_FUSED)
def test_dtypes(ours, theirs, args, kwargs, shape, training, dtype, parameters):
    # float32 parameters under a half input work for most of torch's norms, not for all; and what
    # does not work has its error.
    x = torch.randn(shape).to(dtype)
    layers = list(pair(ours, theirs, args, kwargs, training))
    if parameters == "same":
        layers = [layer.to(dtype) for layer in layers]
    exact = copy.deepcopy(layers[0]).double()
    # An instance norm that is to update its running statistics is torch's everywhere.
    updates = training and issubclass(theirs, _InstanceNorm) and layers[1].track_running_stats
    native = library.in_use() != "torch" and issubclass(theirs, _NormBase) and not updates
    results = [value_or_error(lambda m=layer: (m(x), m.state_dict())) for layer in layers]
    if isinstance(results[0], type):
        assert results[1] is results[0]
    elif native and dtype.itemsize < 4:
        # Torch rounds the statistics to half precision on the way, the native kernels only what
        # they return: half a unit of it, beside the roundings of float32.
        near = {"rtol": 0.51 * torch.finfo(dtype).eps, "atol": 2e-6}
        got = results[1][0].double(), {k: v.double() for k, v in results[1][1].items()}
        expected = exact(x.double()), {k: v.double() for k, v in exact.state_dict().items()}
        if parameters == "float32":  # so are the running statistics
            assert_close(got[1], expected[1], rtol=2e-6, atol=2e-6)
        assert_close(got, expected, **near)
    else:
        assert_close(results[1], results[0])


@EACH
@MODES
def test_layouts(ours, theirs, args, kwargs, shape, training):
    x = torch.randn(shape)
    given = [x.transpose(0, 1).contiguous().transpose(0, 1), x[:1].expand(shape)]
    given += [
        torch.stack((x, x), -1)[..., 0],
        x.flip(0)[::2],
        torch.randn(*shape[:-1], 1).expand(shape),
    ]
    if len(shape) == 4:
        given += [x.contiguous(memory_format=torch.channels_last)]
    if len(shape) == 5:
        given += [x.contiguous(memory_format=torch.channels_last_3d)]
    for v in given:
        results = []
        for contiguous in (False, True):
            for module in pair(ours, theirs, args, kwargs, training):
                leaf = (v.contiguous() if contiguous else v).detach().requires_grad_()
                y = module(leaf)
                y.pow(2).sum().backward()
                results.append((y, leaf.grad, module.state_dict()))
        if library.in_use() == "torch" or not issubclass(theirs, _InstanceNorm):
            # The memory format is kept, but by torch's instance norm: natively by that too.
            assert results[1][0].stride() == results[0][0].stride()
        # Another layout sums in another order. In the expanded inputs some channels are constant:
        # there the rounding of the mean, 1e-7, is multiplied by 1/√ε = 316 and by γ ≤ 2. Natively
        # it is not, so that torch's own result is as far from ours.
        order = {"rtol": 1e-5, "atol": 2e-4}
        constant = 0 in v.stride() and library.in_use() != "torch"
        assert_close(results[1], results[0], **(order if constant else {}))
        assert_close(results[1], results[3], **order)


@EACH
@MODES
def test_meta(ours, theirs, args, kwargs, shape, training):
    layer = ours(*args, **kwargs, device="meta").train(training)
    x = torch.randn(shape, device="meta", requires_grad=True)
    y = layer(x, residual=x)
    assert y.is_meta
    assert y.shape == shape
    layer.to_empty(device="cpu").reset_parameters()
    fresh = ours(*args, **kwargs)
    assert_close(layer.state_dict(), fresh.state_dict(), rtol=0, atol=0)
