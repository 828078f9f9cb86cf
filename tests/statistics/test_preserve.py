"""`preserved`: everything it lends is given back, also where a part cannot be."""

import random
import sys
from collections import deque
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from torch import nn

from gammabeta.statistics.contents import Contents
from gammabeta.statistics.preserve import preserved
from gammabeta.statistics.undo import undo_all


def randoms():
    return torch.rand(1).item(), float(np.random.rand()), random.random()


@contextmanager
def random_states_kept():
    states = torch.get_rng_state(), np.random.get_state(), random.getstate()
    try:
        yield
    finally:
        torch.set_rng_state(states[0])
        np.random.set_state(states[1])
        random.setstate(states[2])


class Refusing(torch.Tensor):
    """A subclass that does not let itself be copied or written to."""

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        if func in (torch.Tensor.copy_, torch.Tensor.clone, torch.Tensor.detach):
            raise RuntimeError("refused")
        return super().__torch_function__(func, types, args, kwargs or {})


def in_inference_mode():
    with torch.inference_mode():
        return torch.tensor([1.0, 2.0])


def sparse_in_inference_mode():
    with torch.inference_mode():
        return torch.sparse_coo_tensor([[0, 2]], [1.0, 2.0], (3,))


KINDS = {
    "plain": lambda: torch.tensor([1.0, 2.0]),
    "minus zero and NaN": lambda: torch.tensor([-0.0, float("nan")]),
    "inference": in_inference_mode,
    "expanded": lambda: torch.ones(1, 2).expand(3, 2),
    "requires grad": lambda: torch.ones(2, requires_grad=True),
    "subclass": lambda: torch.ones(2).as_subclass(Refusing),
    "sparse": lambda: torch.sparse_coo_tensor([[0, 2]], [1.0, 2.0], (3,)),
    "sparse, inference": sparse_in_inference_mode,
    "sparse rows": lambda: torch.eye(2).to_sparse_csr(),
    "empty": lambda: torch.empty(0, 2),
    "a view": lambda: torch.arange(6.0).view(2, 3).t()[1:],
    "complex": lambda: torch.tensor([1 + 2j]),
}


def bits(tensor):
    with torch._C.DisableTorchFunctionSubclass():
        plain = tensor.detach().to_dense() if tensor.layout != torch.strided else tensor.detach()
        return plain.contiguous().clone().numpy().tobytes()


def overwrite(tensor):
    with (
        torch.no_grad(),
        torch.inference_mode(tensor.is_inference()),
        torch._C.DisableTorchFunctionSubclass(),
    ):
        if tensor.layout is torch.sparse_csr:
            tensor.values().fill_(9)
        elif tensor.is_sparse:
            tensor._values().fill_(9)
        else:
            tensor.data[:1].fill_(9) if 0 not in tensor.stride() else tensor.data[:1, :1].fill_(9)


@pytest.mark.filterwarnings("ignore:Sparse")
@pytest.mark.parametrize(
    ("kind", "how"),
    [
        *((kind, "buffer") for kind in KINDS),
        # An attribute that requires a gradient is like a parameter: its contents are not kept.
        *((kind, "attribute") for kind in KINDS if kind != "requires grad"),
    ],
)
def test_tensors_of_every_kind_get_their_bits_back(kind, how):
    module, tensor = nn.Module(), KINDS[kind]()
    if how == "buffer":
        module.register_buffer("one", tensor)
        module.register_buffer("same", tensor)
        module.register_buffer("none", None)
    else:
        module.one = tensor
    before = bits(tensor)
    with preserved(module):
        overwrite(tensor)
        module.one = None
        assert bits(tensor) != before or kind == "empty"
    assert module.one is tensor
    assert bits(tensor) == before


def test_a_buffer_that_was_resized_gets_its_size_back():
    module = nn.Module()
    module.register_buffer("one", torch.tensor([1.0, 2.0]))
    with preserved(module):
        module.one.resize_(5).fill_(3)
    assert module.one.tolist() == [1, 2]


def test_a_tensor_without_values_and_one_in_inference_mode():
    module = nn.Module()
    module.register_buffer("one", torch.ones(2, device="meta"))
    module.register_buffer("two", torch.ones(2))
    with torch.inference_mode(), preserved(module):
        module.two.fill_(3)
    assert module.one.is_meta
    assert module.two.tolist() == [1, 1]
    module.two.add_(1)  # it has not become an inference tensor


def test_restoring_does_not_disturb_a_backward_pass_that_is_still_to_come():
    layer = nn.BatchNorm1d(2).eval()
    x = torch.ones(4, 2, requires_grad=True)
    y = layer(x)
    with preserved(layer):
        pass
    y.sum().backward()
    assert x.grad is not None


class Broken(nn.Module):
    """A buffer that cannot be written back, between two that can."""

    def __init__(self):
        super().__init__()
        self.register_buffer("first", torch.ones(2))
        self.register_buffer("lost", torch.ones(2))
        self.register_buffer("last", torch.ones(2))
        self.count = 0


@pytest.fixture
def unwritable(monkeypatch):
    """Makes `Contents.restore` fail for the tensors in the list it returns."""
    restore, chosen = Contents.restore, []

    def failing(self):
        if any(self.tensor is tensor for tensor in chosen):
            raise OSError(f"no way back {len(chosen)}")
        restore(self)

    monkeypatch.setattr(Contents, "restore", failing)
    return chosen


def disturb(model, raises):
    for buffer in model.buffers():
        buffer.fill_(5)
    model[0].count = 7
    model[0].more = 1
    model[1].eval()
    model[1].register_forward_hook(print)
    del model[0]._buffers["last"]
    randoms()
    if raises is not None:
        raise raises


@pytest.mark.parametrize("raises", [None, KeyboardInterrupt])
def test_one_restoration_that_fails_keeps_no_other_from_being_made(unwritable, raises):
    model = nn.Sequential(Broken(), nn.BatchNorm1d(2)).train()
    unwritable.append(model[0].lost)
    with random_states_kept():
        drawn = randoms()
    with random_states_kept():
        with pytest.raises(OSError, match="no way back") as caught, preserved(model):
            disturb(model, raises)
        assert randoms() == drawn
    assert raises is None or isinstance(caught.value.__context__, raises)
    assert [b.tolist() for b in (model[0].first, model[0].last)] == [[1, 1], [1, 1]]
    assert model[1].running_mean.tolist() == [0, 0]
    assert (model[0].count, hasattr(model[0], "more")) == (0, False)
    assert model[1].training
    assert not model[1]._forward_hooks


@pytest.mark.parametrize("name", ["torch.set_rng_state", "numpy.random.set_state"])
def test_one_random_state_that_fails_keeps_no_other_from_being_restored(monkeypatch, name):
    def failing(state):
        raise OSError("no way back")

    module = nn.BatchNorm1d(2)
    with random_states_kept():
        with random_states_kept():
            drawn = randoms()
        with monkeypatch.context() as patch:
            patch.setattr(name, failing)
            with pytest.raises(OSError, match="no way back"), preserved(module):
                randoms()
        again = randoms()
    assert [a == b for a, b in zip(drawn, again, strict=True)] == [
        name != "torch.set_rng_state",
        name != "numpy.random.set_state",
        True,
    ]


def test_the_first_failure_is_raised_and_the_others_are_told_with_it():
    done = []

    def fails(number):
        done.append(number)
        raise OSError(f"failure {number}")

    steps = [lambda: done.append(0), lambda: fails(1), lambda: fails(2), lambda: done.append(3)]
    with pytest.raises(OSError, match="failure 1") as caught:
        undo_all(steps)
    assert done == [0, 1, 2, 3]
    if sys.version_info >= (3, 11):
        assert caught.value.__notes__ == ["Also failed to undo: OSError: failure 2"]
    else:
        assert str(caught.value.__cause__) == "failure 2"


class Collecting(nn.Module):
    def __init__(self):
        super().__init__()
        self.losses = [1.0]
        self.recent = deque([1, 2], maxlen=2)
        self.cache = {"a": 1}
        self.seen = {1}

    def forward(self, x):
        self.losses.append(2.0)
        self.recent.append(3)
        self.cache["b"] = x
        self.seen.add(2)
        return x


def test_items_that_a_forward_pass_adds_to_containers_are_taken_out():
    module = Collecting()
    containers = [module.losses, module.recent, module.cache, module.seen]
    with preserved(module):
        module(torch.ones(1))
        module.cache = {}
    assert containers == [[1.0], deque([1, 2]), {"a": 1}, {1}]
    assert module.cache is containers[2]


def test_a_module_that_cannot_be_restored_is_refused_by_name():
    class Registry:
        def __init__(self, entries):
            self.entries = entries

        def items(self):
            return self.entries.items()

        def values(self):
            return self.entries.values()

    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    object.__setattr__(model[1], "_buffers", Registry(dict(model[1]._buffers)))
    entered = []
    with (
        pytest.raises(TypeError, match=r"module '1' \(BatchNorm1d\) stores its buffers in a Reg"),
        preserved(model),
    ):
        entered.append(1)
    assert not entered
