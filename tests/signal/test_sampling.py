"""Which values of a tensor are looked at: as many as asked for, of all features, each once."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from gammabeta.signal.sampling import (
    LEAST,
    PHASES,
    SAMPLE,
    CannotSampleError,
    feature_of,
    plain,
    take,
)


def laid_out(shape: tuple[int, ...]) -> dict[str, Tensor]:
    """Return tensors of different places in memory, each value with a number of its own."""
    numbers = torch.arange(math.prod(shape), dtype=torch.float64)
    x = numbers.reshape(shape)
    wider = torch.full((*shape[:-1], 2 * shape[-1] + 3), -1.0, dtype=torch.float64)
    every_second = wider[..., 1 : 1 + 2 * shape[-1] : 2]
    every_second.copy_(x)
    first_of = torch.full((shape[0] + 2, *shape[1:]), -1.0, dtype=torch.float64)
    rows = first_of[1:-1]
    rows.copy_(x)
    found = {
        "contiguous": x,
        "reversed dims": x.permute(*reversed(range(x.dim())))
        .contiguous()
        .permute(*reversed(range(x.dim()))),
        "last dim first": x.movedim(-1, 0).contiguous().movedim(0, -1),
        "every second": every_second,
        "rows of a larger one": rows,
        "a dim of size 1": x.unsqueeze(1).transpose(0, 1),
    }
    if x.dim() == 4:
        found["channels last"] = x.contiguous(memory_format=torch.channels_last)
    return found


SHAPES = [(7,), (5, 6), (4, 3, 5), (2, 3, 4, 5), (1, 1, 9, 1), (64, 3, 17, 11), (301, 67)]
LAYOUTS = [(shape, name) for shape in SHAPES for name in laid_out(shape)]


@pytest.mark.parametrize("phase", range(PHASES))
@pytest.mark.parametrize(("shape", "layout"), LAYOUTS, ids=str)
def test_features_are_those_of_the_values(shape: tuple[int, ...], layout: str, phase: int) -> None:
    """The number of a sampled value tells where it is in the tensor; so does `feature_of`."""
    x = laid_out(shape)[layout]
    places = {float(v): i for i, v in np.ndenumerate(x.numpy())}  # number → its index in x
    for most in (10, 500, SAMPLE):
        sample = take(x, most, phase)
        assert sample.dtype == torch.float64
        found = np.array([places[v] for v in sample.tolist()]).reshape(len(sample), x.dim())
        assert len(set(map(tuple, found.tolist()))) == len(sample)  # each value at most once
        for dim in range(-x.dim(), x.dim()):
            features = feature_of(tuple(x.shape), x.stride(), dim, most, phase)
            assert features.dtype == np.int32
            assert features.tolist() == found[:, dim].tolist()


@pytest.mark.parametrize(("shape", "layout"), LAYOUTS, ids=str)
def test_a_small_tensor_is_looked_at_as_a_whole(shape: tuple[int, ...], layout: str) -> None:
    x = laid_out(shape)[layout]
    for most in (x.numel(), x.numel() + 1):
        sample = take(x, most)
        assert sorted(sample.tolist()) == sorted(x.flatten().tolist())


@settings(deadline=None)
@given(
    st.lists(st.integers(1, 12), min_size=1, max_size=5).map(tuple),
    st.integers(1, 600),
    st.integers(0, PHASES - 1),
    st.randoms(use_true_random=False),
)
def test_features_of_any_strides(
    shape: tuple[int, ...], most: int, phase: int, random: object
) -> None:
    order = list(range(len(shape)))
    random.shuffle(order)  # type: ignore[attr-defined]
    x = torch.arange(math.prod(shape)).double().reshape([shape[d] for d in order])
    x = x.permute(*[order.index(d) for d in range(len(shape))])
    assert tuple(x.shape) == shape
    x = x[:, ::2] if len(shape) > 1 else x[::2]
    sample = take(x, most, phase)
    places = {float(v): i for i, v in np.ndenumerate(x.numpy())}
    assert len(sample) <= most
    assert len(set(sample.tolist())) == len(sample)
    for dim in range(x.dim()):
        features = feature_of(tuple(x.shape), x.stride(), dim, most, phase)
        assert features.tolist() == [places[v][dim] for v in sample.tolist()]


def test_a_broadcast_tensor_is_sampled_as_its_shape_says() -> None:
    """One row of memory, expanded to 900: every row takes part, at the same features."""
    x = torch.arange(50.0).expand(900, 50)
    sample = take(x, 1000)
    assert sample.tolist() == feature_of((900, 50), x.stride(), 1, 1000).tolist()
    rows = feature_of((900, 50), x.stride(), 0, 1000)
    assert (rows.min(), rows.max()) == (0, 899)
    windows = torch.arange(100.0).unfold(0, 10, 1)  # overlapping
    assert take(windows, windows.numel()).tolist() == windows.flatten().tolist()


IMAGES = [
    *((64, 64, 56, 56), (64, 256, 14, 14), (64, 512, 28, 28), (32, 512, 7, 7), (4096, 512, 7, 7)),
    *((128, 512, 4, 4), (256, 64, 32, 32), (32, 3, 224, 224), (32, 12, 128, 128), (256, 16, 1, 1)),
]
TOKENS = [(8, 197, 768), (8, 1024, 768), (4, 2048, 4096), (16, 512, 3072), (256, 2048)]
ROWS = [(50, 1000), (512, 1024), (128, 128), (4096, 256), (100_000, 10), (4097, 4)]


@pytest.mark.parametrize("most", [SAMPLE, SAMPLE // 4, LEAST])
@pytest.mark.parametrize("shape", IMAGES + TOKENS + ROWS, ids=str)
def test_every_feature_is_met(shape: tuple[int, ...], most: int) -> None:
    """As many different features as a random sample would have, nearly, along every dim."""
    strides = torch.empty(shape, device="meta").stride()
    for phase in range(PHASES):
        for dim, size in enumerate(shape):
            features = feature_of(shape, strides, dim, most, phase)
            assert len(features) <= most
            met = len(np.unique(features))
            expected = size * (1 - (1 - 1 / size) ** len(features))
            assert met >= 0.9 * expected, f"{met} of {size} in dim {dim}"
            if len(features) >= 40 * size:  # far more values than features: equal shares
                counts = np.bincount(features, minlength=size)
                assert counts.max() <= 1.5 * counts.min()


@pytest.mark.parametrize("shape", [(64, 64, 56, 56), (2**20,), (3**13,), (256, 1000), (9973, 7)])
def test_the_sample_is_nearly_as_large_as_it_may_be(shape: tuple[int, ...]) -> None:
    strides = torch.empty(shape, device="meta").stride()
    for most in (SAMPLE, SAMPLE // 4, LEAST):
        size = len(feature_of(shape, strides, 0, most))
        assert 0.8 * most <= size <= most


def test_phases_see_values_that_others_did_not() -> None:
    x = torch.arange(1_000_003.0, dtype=torch.float64)
    samples = [set(take(x, 1000, phase).tolist()) for phase in range(PHASES)]
    for i, one in enumerate(samples):
        assert min(one) < 1_000_003 / 1000 * 1.2  # each begins within its first stride
        for other in samples[:i]:
            assert not one & other


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_precision(dtype: torch.dtype) -> None:
    """Values are exact, as float32 or as float64."""
    x = torch.randn(40, 25, generator=torch.Generator().manual_seed(0)).to(dtype)
    sample = take(x)
    assert sample.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert torch.equal(sample.to(dtype), x.flatten())


def test_a_sample_is_a_copy() -> None:
    """What training does to a tensor later is not seen; and nothing is tied to its graph."""
    x = torch.randn(10, 10, requires_grad=True)
    y = x * 2
    sample = take(y)
    before = sample.clone()
    with torch.no_grad():
        y.zero_()
    assert torch.equal(sample, before)
    assert not sample.requires_grad
    assert sample.untyped_storage().nbytes() == 400
    large = take(torch.randn(1000, 1000))
    assert large.untyped_storage().nbytes() <= 4 * SAMPLE


@pytest.mark.parametrize("shape", [(0,), (0, 5), (3, 0, 2)])
def test_nothing(shape: tuple[int, ...]) -> None:
    x = torch.empty(shape)
    assert take(x).shape == (0,)
    assert take(torch.empty(0, 4).t()).shape == (0,)
    assert feature_of(shape, x.stride(), -1).shape == (0,)


def test_a_number() -> None:
    assert take(torch.tensor(2.5)).tolist() == [2.5]
    assert feature_of((), (), 0).tolist() == [0]


def test_parameters_and_buffers() -> None:
    assert take(nn.Parameter(torch.ones(3))).tolist() == [1, 1, 1]
    assert type(take(nn.Parameter(torch.ones(3)))) is Tensor


class Local(Tensor):
    """As a sharded tensor: a subclass whose values are elsewhere."""

    def to_local(self) -> Tensor:
        return torch.tensor([1.0, 2.0])


class Opaque(Tensor):
    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        raise RuntimeError("no values")


def test_the_local_part_of_a_sharded_tensor() -> None:
    x = torch.Tensor._make_subclass(Local, torch.zeros(50))
    assert take(x).tolist() == [1.0, 2.0]


@pytest.mark.parametrize(
    ("x", "said"),
    [
        (torch.zeros(3, dtype=torch.complex64), "complex tensors cannot be measured"),
        (torch.zeros(3, dtype=torch.int64), "integer tensors cannot be measured"),
        (torch.zeros(3, dtype=torch.bool), "integer tensors cannot be measured"),
        (torch.zeros(3, device="meta"), "it is not a dense tensor with values"),
        (torch.eye(3).to_sparse(), "it is not a dense tensor with values"),
        (torch.Tensor._make_subclass(Opaque, torch.zeros(3)), "a Opaque has no values to look at"),
    ],
    ids=["complex", "integer", "bool", "meta", "sparse", "opaque"],
)
def test_what_has_no_values(x: Tensor, said: str) -> None:
    for look in (plain, take):
        with pytest.raises(CannotSampleError) as caught:
            look(x)  # type: ignore[operator]
        assert str(caught.value) == said


def test_inside_a_transform() -> None:
    said = []

    def f(x: Tensor) -> Tensor:
        try:
            take(x)
        except CannotSampleError as e:
            said.append(str(e))
        return x.sum()

    torch.func.grad(f)(torch.ones(3))
    torch.vmap(f)(torch.ones(2, 3))
    assert said == ["it runs inside a torch.func transform"] * 2
