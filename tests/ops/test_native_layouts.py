"""Sizes, strides and threads: the same answer whatever the memory looks like, and whoever works."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

import gammabeta as gb
from gammabeta.ops import use
from gammabeta.ops.cpu import library
from tests.ops.oracle import ACTIVATIONS, Problem, channels_last, drawn, problem

pytestmark = [pytest.mark.native, pytest.mark.usefixtures("native")]

DTYPES = [torch.float32, torch.bfloat16, torch.float16, torch.float64]
dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: str(d)[6:])

# Planes: blocks gather short stretches, or cut those of more than 4096; from 128 on, stretches have
# a head up to the first aligned element. Rows: columns in vectors of 4 to 16, rows eight at a time,
# in chunks of 512 at least and in blocks of 64.
SIZES = [
    *((n, c, s) for n in (1, 2, 3) for c in (1, 3, 17) for s in (2, 49, 130)),
    *((n, c, s) for n in (1, 2) for c in (1, 3) for s in (4095, 4096, 4097, 5000, 8209)),
    *((70, 3, 1), (130, 2, 63), (65, 1, 100), (9, 100, 1), (9, 100, 5), (2, 100, 49)),
    *((1025, 3, 1), (1100, 17, 1), (4, 600, 3), (515, 1, 3)),
]


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("rows", [False, True], ids=["planes", "rows"])
def test_sizes(size: tuple[int, int, int], rows: bool) -> None:
    x = drawn(*size)
    x = channels_last(x) if rows else x
    for activation, residual in ((None, False), ("relu", False), ("relu", True), ("silu", True)):
        agree(problem(x, activation=activation, residual=residual))


def agree(p: Problem) -> None:
    got = p.solve()
    if p.activation == "relu":
        # A z that is 0 but for rounding may fall on either side; all sums of a channel go with it.
        # Its sign in float64 is then no oracle: the sides that the layer took are taken.
        p.activation = None
        z, _ = p.exact()
        took, near = got["y"] > 0, z["y"].abs() < 1e-5
        assert bool((((z["y"] > 0) == took) | near).all())
        p.g = p.g * took
        expected = {**got, "y": torch.where(took, got["y"], z["y"].float())}
        p.check(expected, roundings=32)
        assert int(got["y"][~took].count_nonzero()) == 0
    else:
        p.check(got, roundings=32)


@dtypes
@pytest.mark.parametrize("offset", [1, 2, 3, 7, 9])
@pytest.mark.parametrize("rows", [False, True], ids=["planes", "rows"])
def test_storage_offsets(offset: int, rows: bool, dtype: torch.dtype) -> None:
    """Memory that starts anywhere: aligned to an element, and to nothing more."""
    shape = (3, 300, 5) if rows else (3, 5, 300)

    def anywhere(t: Tensor) -> Tensor:
        flat = torch.empty(t.numel() + 16, dtype=dtype)[offset : offset + t.numel()]
        dense = flat.view(shape).copy_(t.movedim(1, -1) if rows else t)
        return dense.movedim(-1, 1) if rows else dense

    p = problem(anywhere(drawn(3, 5, 300).to(dtype)), residual=True)
    assert p.x.storage_offset() == offset
    p.g, p.residual = anywhere(p.g), anywhere(p.residual)
    p.check()


VIEWS = {
    "transposed": lambda x: x.transpose(0, 1).contiguous().transpose(0, 1),
    "every other": lambda x: torch.stack((x, x + torch.nan), -1)[..., 0],
    "every other example": lambda x: torch.stack((x, x + torch.nan), 1)[:, 0],
    "some channels": lambda x: torch.cat((x, x + torch.nan), 1)[:, : x.shape[1]],
    "channels last": channels_last,
    "some channels, last": lambda x: channels_last(torch.cat((x, x), 1))[:, : x.shape[1]],
    "expanded over examples": lambda x: x[:1].expand(x.shape),
    "expanded over positions": lambda x: x[..., :1].expand(x.shape),
    "one number": lambda x: x.flatten()[0].expand(x.shape),
}


# Copies of strided tensors are made before any instruction set is chosen: one is enough.
@pytest.mark.parametrize("native", [library.available()[-1]], indirect=True)
@pytest.mark.parametrize("dims", [2, 3, 4, 5])
@pytest.mark.parametrize("of_x", VIEWS)
@pytest.mark.parametrize("of_g", VIEWS)
def test_strides_of_the_input_and_of_its_gradient(of_x: str, of_g: str, dims: int) -> None:
    x = drawn(*(6, 5, 4, 3, 2)[:dims])
    p = problem(VIEWS[of_x](x), residual=True, activation="tanh")
    p.g, p.residual = VIEWS[of_g](p.g), VIEWS[of_g](p.residual)
    got = p.solve()
    p.check(got, roundings=32)
    with use("torch"):  # the same memory format, for a channels-last network to go on with
        like = p.solve()["y"] if of_g != "one number" else got["y"]
    if p.x.is_contiguous() or of_x == "channels last":
        assert got["y"].stride() == p.x.stride()
        assert dims not in (4, 5) or of_g != of_x or got["y"].stride() == like.stride()


@pytest.mark.parametrize(
    ("cls", "shape"),
    [
        (gb.BatchNorm1d, (0, 4)),
        (gb.BatchNorm1d, (3, 0)),
        (gb.BatchNorm2d, (0, 4, 3, 3)),
        (gb.BatchNorm2d, (2, 4, 0, 3)),
        (gb.BatchNorm2d, (2, 0, 3, 3)),
        (gb.BatchNorm1d, (1, 4)),
        (gb.BatchNorm3d, (1, 4, 1, 1, 1)),
    ],
    ids=str,
)
@pytest.mark.parametrize("training", [True, False])
def test_nothing_to_normalize(cls, shape: tuple[int, ...], training: bool) -> None:
    """Torch's answer, or torch's error."""

    def outcome() -> object:
        layer, x = cls(shape[1]).train(training), torch.zeros(shape, requires_grad=True)
        try:
            y = layer(x)
            y.sum().backward()
        except (ValueError, RuntimeError, IndexError) as error:
            return str(error)
        return y.shape, x.grad.shape, {k: v.tolist() for k, v in layer.state_dict().items()}

    got = outcome()
    with use("torch"):
        assert got == outcome()


@pytest.fixture
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


# From 32768 elements on there is more than one thread; from 8 MiB on, stores pass the caches.
LARGE = [(2, 3, 9000), (5, 17, 601), (64, 1, 900), (40, 100, 13), (3, 2, 20000), (7000, 11, 1)]


@dtypes
@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("size", LARGE, ids=str)
@pytest.mark.parametrize("rows", [False, True], ids=["planes", "rows"])
def test_any_number_of_threads_gives_the_same_bits(size, rows: bool, dtype: torch.dtype) -> None:
    x = drawn(*size).to(dtype)
    problems = [
        problem(channels_last(x) if rows else x, activation=activation, residual=residual)
        for activation, residual in ((None, False), ("relu", True), ("gelu", True))
    ]
    runs = []
    for count in (1, 2, 4):
        torch.set_num_threads(count)
        runs.append([p.solve() for p in problems])
    for other in runs[1:]:
        for one, two in zip(runs[0], other, strict=True):
            assert all(torch.equal(one[name], two[name]) for name in one)


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("rows", [False, True], ids=["planes", "rows"])
def test_stores_past_the_caches(rows: bool) -> None:
    """A tensor of 8.5 MiB, which is stored so, has the bits that its parts have, which are not."""
    torch.set_num_threads(2)
    size = (4, 16, 35000)
    x = drawn(4, 16, 1).expand(size) + torch.arange(35000) % 97
    p = problem(channels_last(x) if rows else x.contiguous(), activation="relu", residual=True)
    whole = p.solve()
    for c in range(0, 16, 5):
        # The same channel alone, as a plane: the order of its sums is another, if it was a row.
        part = Problem(
            *(t[:, c : c + 1].contiguous() for t in (p.x, p.g)),
            *(t[c : c + 1] for t in (p.weight, p.bias)),
            p.residual[:, c : c + 1].contiguous(),
            "relu",
        ).solve()
        for name, value in part.items():
            one = whole[name][c : c + 1] if value.dim() == 1 else whole[name][:, c : c + 1]
            # Sums of 140 000 terms up to 5, joined in double, in one order or another.
            torch.testing.assert_close(
                one, value, rtol=1e-5, atol=1e-2 if value.dim() == 1 else 1e-5
            )
        if not rows:
            assert torch.equal(whole["y"][:, c : c + 1], part["y"])


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_channels_last_3d_keeps_its_format(activation: str | None) -> None:
    x = drawn(2, 5, 3, 4, 6).contiguous(memory_format=torch.channels_last_3d)
    layer = gb.BatchNorm3d(5, activation=activation)
    y = layer(x.requires_grad_())
    assert y.is_contiguous(memory_format=torch.channels_last_3d)
    y.sum().backward()
    assert x.grad.is_contiguous(memory_format=torch.channels_last_3d)
