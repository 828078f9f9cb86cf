"""The guard: what is not finite stays out of running statistics, and nothing else changes."""

import copy
import pickle
import warnings

import pytest
import torch
from torch import nn
from torch.testing import assert_close

import gammabeta as gb
from gammabeta.ops.cpu import batch as cpu
from gammabeta.ops.cpu import library
from gammabeta.ops.reference import torch_norms as reference
from gammabeta.ops.torch import norms
from tests.layers.agreement import agree

LAYERS = [
    (gb.BatchNorm1d, nn.BatchNorm1d, (6, 3)),
    (gb.BatchNorm2d, nn.BatchNorm2d, (4, 3, 5, 5)),
    (gb.BatchNorm3d, nn.BatchNorm3d, (4, 3, 2, 3, 3)),
    (gb.InstanceNorm1d, nn.InstanceNorm1d, (4, 3, 9)),
    (gb.InstanceNorm2d, nn.InstanceNorm2d, (4, 3, 5, 5)),
    (gb.InstanceNorm3d, nn.InstanceNorm3d, (4, 3, 2, 3, 3)),
]
BATCH_NORMS = (gb.BatchNorm1d, gb.BatchNorm2d, gb.BatchNorm3d)
EACH = pytest.mark.parametrize(("ours", "theirs", "shape"), LAYERS)
BAD = pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf"), 3e38])


def make(cls, **kwargs):
    return cls(3, affine=True, track_running_stats=True, **kwargs)


def batches(shape, bad=float("nan")):
    """A good batch, a bad one (one bad value), another good one."""
    good, poison, later = torch.randn(3, *shape).unbind()
    poison[0, 1].view(-1)[-1] = bad
    return good, poison, later


def feed(layer, *inputs):
    """Feed ``inputs``; returns the warnings."""
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        for x in inputs:
            layer(x)
    return [str(w.message) for w in seen if w.category is gb.NonFiniteBatchWarning]


@EACH
@BAD
@pytest.mark.parametrize("momentum", [0.1, None, 1.0])
def test_bad_batch_is_as_if_it_had_not_been(ours, theirs, shape, bad, momentum):
    good, poison, later = batches(shape, bad)
    layer, plain = make(ours, momentum=momentum), make(theirs, momentum=momentum)
    seen = feed(layer, good, poison, poison, later)
    unharmed = make(ours, momentum=momentum)
    for x in (good, later):
        plain(x), unharmed(x)
    # 3e38 is finite; its square, and so the variance, is not.
    assert layer.refused_batches == 2
    assert len(seen) == 1
    # The same kernels on the same good batches: the same bits, num_batches_tracked included.
    assert_close(layer.state_dict(), unharmed.state_dict(), rtol=0, atol=0)
    agree(layer.state_dict(), plain.state_dict())


@EACH
@BAD
def test_output_and_gradients_are_torchs(ours, theirs, shape, bad):
    _, poison, _ = batches(shape, bad)
    results = []
    for layer in (make(theirs), make(ours)):
        x = poison.clone().requires_grad_()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", gb.NonFiniteBatchWarning)
            y = layer(x)
        y.backward(torch.linspace(-1, 1, y.numel()).reshape(y.shape))
        results.append((y, x.grad, layer.weight.grad, layer.bias.grad))
    assert not results[1][0].isfinite().all() or bad == 3e38
    if bad == 3e38 and library.in_use() != "torch" and ours in BATCH_NORMS:
        # Torch's 1/σ is 0 here, as if the variance were infinite; the native kernels' is 1/σ.
        one = torch.ones(3).double()
        y, saved = reference.batch_norm(poison.double(), one, 0 * one, 1e-5)
        grad = torch.linspace(-1, 1, y.numel()).reshape(y.shape).double()
        # Roundings of x̂ <= 10, and of sums of up to 100 gradients up to 1 (100 u = 6e-6). The
        # gradients of x are 1e-38 in the bad channel.
        exact = (y, *reference.batch_norm_backward(grad, saved))
        assert_close([t.double() for t in results[1]], list(exact), rtol=2e-6, atol=6e-6)
        assert_close(results[1][0][0, 1].abs().max().item(), y[0, 1].abs().max().item())
    else:
        assert_close(results[1], results[0], equal_nan=True)


@EACH
def test_accept_is_torchs(ours, theirs, shape):
    good, poison, later = batches(shape)
    layer, plain = make(ours, on_nonfinite="accept"), make(theirs)
    assert feed(layer, good, poison, later) == []
    for x in (good, poison, later):
        plain(x)
    assert layer.running_mean.isnan().any()
    agree(layer.state_dict(), plain.state_dict())
    assert layer.refused_batches == 0


@EACH
def test_raise_leaves_all_as_it_was(ours, theirs, shape):
    good, poison, _ = batches(shape)
    layer = nn.Sequential(nn.Identity(), make(ours, on_nonfinite="raise"))
    layer(good)
    before = copy.deepcopy(layer.state_dict())
    assert gb.guard_statistics(layer) == ["1"]
    with pytest.raises(gb.NonFiniteBatchError, match=rf"^1 \({ours.__name__}\(3\)\): .*not finite"):
        layer(poison)
    assert_close(layer.state_dict(), before, rtol=0, atol=0)
    assert layer[1].refused_batches == 1
    assert issubclass(gb.NonFiniteBatchError, ValueError)


@EACH
def test_evaluation_and_untracked_layers_are_not_guarded(ours, theirs, shape):
    _, poison, _ = batches(shape)
    for layer in (make(ours).eval(), ours(3, track_running_stats=False)):
        assert feed(layer, poison) == []
        assert layer.refused_batches == 0


def test_warns_once_a_layer_and_says_which():
    model = nn.ModuleDict({"stem": gb.BatchNorm1d(3), "head": nn.Sequential(gb.BatchNorm1d(3))})
    _, poison, _ = batches((6, 3))
    assert gb.guard_statistics(model) == ["stem", "head.0"]
    assert [m.split(" (")[0] for m in feed(model["stem"], poison, poison)] == ["stem"]
    assert [m.split(" (")[0] for m in feed(model["head"], poison)] == ["head.0"]
    nameless = gb.BatchNorm1d(3)
    assert feed(nameless, poison)[0].startswith("BatchNorm1d(3): the mean or variance")


def test_guard_statistics_sets_all_or_leaves_each():
    model = nn.Sequential(gb.BatchNorm1d(3), nn.BatchNorm1d(3), gb.BatchNorm1d(3))
    model[2].on_nonfinite = "accept"
    assert gb.guard_statistics(model) == ["0", "2"]
    assert [model[i].on_nonfinite for i in (0, 2)] == ["refuse", "accept"]
    gb.guard_statistics(model, "raise")
    assert [model[i].on_nonfinite for i in (0, 2)] == ["raise", "raise"]
    with pytest.raises(ValueError, match=r"on_nonfinite='rais' .* did you mean 'raise'"):
        gb.guard_statistics(model, "rais")
    with pytest.raises(ValueError, match="on_nonfinite='skip' is not known"):
        gb.BatchNorm1d(3, on_nonfinite="skip")
    root = gb.BatchNorm1d(3)
    assert gb.guard_statistics(root) == [""]
    assert root.qualified_name is None


def test_the_count_is_kept_apart_from_the_state():
    _, poison, _ = batches((6, 3))
    layer = gb.BatchNorm1d(3)
    gb.guard_statistics(nn.Sequential(layer))
    feed(layer, poison, poison)
    plain = nn.BatchNorm1d(3)
    assert list(layer.state_dict()) == list(plain.state_dict())
    assert len(list(layer.buffers())) == len(list(plain.buffers()))
    for twin in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert twin.refused_batches == 2
        assert twin.qualified_name == "0"
        assert feed(twin, poison) == []  # told once, copied or not
        assert twin.refused_batches == 3
    assert layer.refused_batches == 2
    layer.reset_running_stats()
    assert layer.refused_batches == 0
    assert len(feed(layer, poison)) == 1


def test_a_layer_made_without_init_is_guarded():
    # As torch's lazy layers and pickles of an older version make them.
    plain = nn.BatchNorm1d(3)
    plain.__class__ = gb.BatchNorm1d
    _, poison, _ = batches((6, 3))
    assert len(feed(plain, poison)) == 1
    assert plain.refused_batches == 1
    assert plain.running_mean.tolist() == [0.0] * 3


def test_statistics_that_were_not_finite_before():
    layer = gb.BatchNorm1d(3)
    layer.running_mean[1] = float("nan")
    (message,) = feed(layer, torch.randn(6, 3))
    assert "were already non-finite before" in message
    assert "reset_running_stats()" in message
    layer.reset_running_stats()
    layer(torch.randn(6, 3))
    assert layer.num_batches_tracked.item() == 1


def test_a_variance_too_large_for_half_buffers():
    layer = gb.BatchNorm1d(2).half()
    x = torch.tensor([[-60000.0, 1.0], [60000.0, 2.0]]).half()
    feed(layer, x)
    assert layer.refused_batches == 1
    assert layer.running_var.tolist() == [1.0, 1.0]


def test_large_finite_statistics_are_not_taken_for_overflow():
    # The quick look, mean · var, overflows here: 1e15 · 1e30.
    layer = gb.BatchNorm1d(1, momentum=1.0)
    x = torch.tensor([[0.0], [2e15]])
    assert feed(layer, x) == []
    assert layer.running_mean.item() == pytest.approx(1e15, rel=1e-6)
    assert layer.running_var.item() == pytest.approx(2e30, rel=1e-6)
    # And in a graph, which has one way only.
    where = gb.BatchNorm1d(1, momentum=1.0)
    torch._dynamo.reset()  # it gives up on a function after eight graphs
    torch.compile(where, fullgraph=True, backend="eager")(x)
    assert_close(where.state_dict(), layer.state_dict(), rtol=0, atol=0)
    assert where.refused_batches == 0


@EACH
def test_in_a_compiled_graph(ours, theirs, shape):
    good, poison, later = batches(shape)
    layer, plain = make(ours), make(theirs)
    # The backend is not what is tested; "aot_eager" has the traced and functional graph.
    torch._dynamo.reset()  # it gives up on a function after eight graphs
    graph = torch.compile(layer, fullgraph=True, backend="aot_eager")
    assert feed(graph, good, poison, poison, later) == []  # a graph cannot warn
    for x in (good, later):
        plain(x)
    assert_close(layer.state_dict(), plain.state_dict())
    with pytest.warns(gb.NonFiniteBatchWarning, match=ours.__name__):
        layer.eval()
    assert layer.refused_batches == 2
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        layer.train().eval()


@pytest.mark.parametrize("made", ["converted", "on meta"])
def test_a_layer_not_made_where_it_is_compiled_counts_too(made):
    if made == "converted":
        model = gb.convert(nn.Sequential(nn.BatchNorm1d(3)))
    else:
        model = nn.Sequential(gb.BatchNorm1d(3, device="meta")).to_empty(device="cpu")
        nn.init.zeros_(model[0].running_mean)
        nn.init.ones_(model[0].running_var)
    torch._dynamo.reset()
    _, poison, _ = batches((6, 3))
    feed(torch.compile(model, fullgraph=True, backend="eager"), poison, poison)
    with pytest.warns(gb.NonFiniteBatchWarning):
        model.eval()
    assert model[0].refused_batches == 2


def test_an_earlier_evaluation_can_still_be_differentiated():
    # torch's update does not touch autograd's version counters; a commit by copy_ would.
    layer = gb.BatchNorm1d(3)
    x = torch.randn(6, 3, requires_grad=True)
    evaluated = layer.eval()(x).sum()
    trained = layer.train()(x)
    layer(x)
    (evaluated + trained.sum()).backward()
    assert x.grad.isfinite().all()


def test_inference_mode():
    _, poison, later = batches((6, 3))
    layer = gb.BatchNorm1d(3)
    with torch.inference_mode():
        feed(layer, poison, later)
    feed(layer, poison, later)
    assert layer.refused_batches == 2
    assert layer.num_batches_tracked.item() == 2
    # A count made in inference mode can be added to outside of it.
    with torch.inference_mode():
        layer.reset_running_stats()
    torch._dynamo.reset()
    feed(torch.compile(layer, fullgraph=True, backend="eager"), poison)
    assert layer.refused_batches == 1


def test_a_forward_that_raises_midway_changes_nothing(monkeypatch):
    def breaks(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(norms, "finish", breaks)
    for name in ("addresses", "code_of"):  # when the native kernel is about to be called
        monkeypatch.setattr(cpu, name, breaks)
    for layer in (gb.BatchNorm1d(3), gb.InstanceNorm1d(3, track_running_stats=True)):
        before = copy.deepcopy(layer.state_dict())
        with pytest.raises(KeyboardInterrupt):
            layer(torch.randn(6, 3, 4))
        assert_close(layer.state_dict(), before, rtol=0, atol=0)


def test_moves_and_meta():
    layer = gb.BatchNorm1d(3, device="meta")
    assert layer(torch.randn(6, 3, device="meta")).is_meta
    assert layer.refused_batches == 0
    layer.to_empty(device="cpu").reset_parameters()
    _, poison, later = batches((6, 3))
    feed(layer, poison, later)
    assert layer.refused_batches == 1
    assert layer.double().refused_batches == 1
    assert layer.num_batches_tracked.item() == 1
