"""The native layer, RMS, group and instance norm against the papers' formulas in float64.

The tolerances: an output is off by a few roundings of the compute type times how far the values are
from zero beside their deviation (`tests/layers/test_extremes.py` argues it), and by one rounding of
its own type. Gradients are sums of such terms, so they are held to the size of the largest.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from gammabeta import ops
from gammabeta.ops import cpu
from gammabeta.ops.cpu import autograd, library, support
from gammabeta.ops.cpu.library import extension as native
from gammabeta.ops.reference import torch_norms as reference
from tests.ops import calls
from tests.ops.oracle import ACTIVATIONS

pytestmark = [
    pytest.mark.native,
    pytest.mark.skipif(native is None, reason="the native kernels were not built"),
]

DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
SETS = library.available()[1:]
LAYERS: dict[str, tuple[object, ...]] = {
    "layer-1": ("layer", (5, 1)),
    "layer-3": ("layer", (70, 3)),
    "layer-17": ("layer", (3, 7, 17)),
    "layer-100": ("layer", (9, 100)),
    "layer-1000": ("layer", (6, 1000)),
    "layer-9001": ("layer", (3, 9001)),
    "layer-many": ("layer", (700, 100)),  # three chunks of rows
    "rms-1": ("rms", (5, 1)),
    "rms-3": ("rms", (70, 3)),
    "rms-100": ("rms", (9, 100)),
    "rms-1000": ("rms", (6, 1000)),
    "group": (3, (5, 6, 7, 5)),
    "group-one": (1, (3, 6, 17)),
    "group-each": (6, (3, 6, 5, 5)),
    "group-flat": (2, (7, 34)),
    "group-single": (2, (4, 6, 1, 1)),
    "group-wide": (4, (2, 520, 3, 3)),
    "group-long": (2, (2, 4, 70, 71)),
    "group-last": (3, (5, 6, 7, 5), "channels_last"),
    "group-last-one": (1, (3, 6, 17, 1), "channels_last"),
    "group-last-wide": (4, (2, 520, 3, 3, 2), "channels_last"),
    "group-last-long": (2, (2, 4, 30, 71), "channels_last"),
    "instance": ("instance", (3, 5, 9, 11)),
    "instance-two": ("instance", (3, 5, 2)),
    "instance-last": ("instance", (3, 5, 9, 11), "channels_last"),
}
every_layer = pytest.mark.parametrize("name", LAYERS)
every_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: str(d)[6:])


@pytest.fixture(autouse=True)
def all_of_it(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Small inputs too; the instruction set and the threads as they were."""
    monkeypatch.setattr(support, "SMALL", {})
    threads = torch.get_num_threads()
    with library.use("native"):
        yield
    torch.set_num_threads(threads)


def drawn(*shape: int, seed: int = 0, mean: float = 0.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return mean + torch.randn(shape, dtype=torch.float64, generator=generator)


class Problem:
    """One layer's inputs in some dtype, its native answer and the formula's in float64."""

    def __init__(
        self,
        name: str,
        dtype: torch.dtype,
        activation: str | None = None,
        residual: bool = False,
        parameters: torch.dtype | None = None,
        affine: bool = True,
        mean: float = 3.0,
    ) -> None:
        self.kind, shape, *layout = LAYERS[name]
        self.activation = activation
        parameters = parameters or dtype
        self.row = self.kind in ("layer", "rms")
        size = shape[-1] if self.row else shape[1]
        x = drawn(*shape, mean=mean).to(dtype)
        if layout:
            x = x.movedim(1, -1).contiguous().movedim(-1, 1)
        self.x = x.requires_grad_()
        self.weight = (
            drawn(size, seed=1, mean=2).to(parameters).requires_grad_() if affine else None
        )
        has_bias = affine and self.kind != "rms"
        self.bias = drawn(size, seed=2).to(parameters).requires_grad_() if has_bias else None
        self.residual = drawn(*shape, seed=3).to(dtype).requires_grad_() if residual else None
        self.g = drawn(*shape, seed=4).to(dtype)

    def leaves(self) -> list[Tensor]:
        all_of_them = (self.x, self.weight, self.bias, self.residual)
        return [leaf for leaf in all_of_them if leaf is not None]

    def native(self) -> Tensor:
        after = {"activation": self.activation, "residual": self.residual}
        if self.row:
            after["normalized_shape"] = self.x.shape[-1:]
        elif self.kind != "instance":
            after["num_groups"] = self.kind
        kind = "group" if isinstance(self.kind, int) else self.kind
        y = cpu.forward(ops.Call(kind, self.x, self.weight, self.bias, **after))
        assert y is not None, "the native kernels did not serve"
        return y

    def formula(self) -> tuple[Tensor, list[Tensor]]:
        wide = [
            None if t is None else t.detach().double().requires_grad_()
            for t in (self.x, self.weight, self.bias, self.residual)
        ]
        x, weight, bias, residual = wide
        assert x is not None
        if self.kind == "layer":
            y = reference.layer_norm(x, 1, weight, bias)[0]
        elif self.kind == "rms":
            y = reference.rms_norm(x, 1, weight)
        elif self.kind == "instance":
            y = reference.instance_norm(x, weight, bias)
        else:
            y = reference.group_norm(x, self.kind, weight, bias)
        y = ACTIVATIONS[self.activation](y if residual is None else y + residual)
        return y, list(torch.autograd.grad(y, [t for t in wide if t is not None], self.g.double()))

    def check(self) -> None:
        y = self.native()
        gradients = torch.autograd.grad(y, self.leaves(), self.g)
        expected, expected_gradients = self.formula()
        assert y.dtype is self.x.dtype
        assert y.stride() == self.x.stride() == gradients[0].stride()
        condition = self.condition()
        near(y, expected, self.x.dtype, condition)
        for got, want, leaf in zip(gradients, expected_gradients, self.leaves(), strict=True):
            assert got.dtype is leaf.dtype
            near(got, want, self.x.dtype, condition)

    def condition(self) -> float:
        """What one rounding of x, or of its mean, becomes in x̂: 1 + max|x| / √(σ² + ε)."""
        if self.kind == "rms":
            return 2.0
        x = self.x.detach().double()
        groups = x.shape[1] if self.kind == "instance" else self.kind
        rows = x.reshape(-1, x.shape[-1]) if self.row else x.reshape(x.shape[0] * groups, -1)
        deviation = (rows.var(1, correction=0) + 1e-5).sqrt()
        return 1 + (rows.abs().amax(1) / deviation).max().item()


def near(got: Tensor, want: Tensor, dtype: torch.dtype, condition: float) -> None:
    """Within 16 roundings of the compute type times ``condition``, and one of its own type.

    Twice that in float64, where the formula is rounded as the kernels are.
    """
    computed = 2.0**-52 if dtype is torch.float64 else 2.0**-24
    own = torch.finfo(got.dtype).eps
    largest = max(want.abs().max().item(), 1.0)
    bound = 16 * condition * computed * largest + own * want.abs()
    wrong = ~((got.double() - want).abs() <= bound)
    assert not wrong.any(), f"off by {(got.double() - want).abs().max():.3g} of {largest:.3g}"


@every_layer
@every_dtype
# One of each way to go through the kernels; the numbers of all are in test_native_numerics.py.
@pytest.mark.parametrize("activation", [None, "relu", "relu6", "leaky_relu", "silu", "mish"])
def test_forward_and_backward(name: str, dtype: torch.dtype, activation: str | None) -> None:
    for residual in (False, True):
        Problem(name, dtype, activation, residual).check()


@every_layer
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_inputs_with_float32_parameters(name: str, dtype: torch.dtype) -> None:
    Problem(name, dtype, "relu", True, parameters=torch.float32).check()


@every_layer
def test_without_parameters(name: str) -> None:
    Problem(name, torch.float32, "relu", affine=False).check()


@every_layer
@pytest.mark.parametrize("instructions", SETS)
@pytest.mark.parametrize("activation", [None, "relu", "gelu"])
def test_every_instruction_set(name: str, instructions: str, activation: str | None) -> None:
    library.use(instructions)
    for dtype in DTYPES:
        Problem(name, dtype, activation, True).check()


BIG = {
    "layer": (321, 257),
    "rms": (97, 1024),
    "group": (3, 6, 80, 81),
    "group-last": (3, 6, 80, 81),
    "group-last-many": (32, 24, 9, 10),
    "instance": (5, 7, 40, 41),
}


def norm_of(kind: str, x: Tensor, weight: Tensor, bias: Tensor, **after: object) -> Tensor:
    if kind == "layer":
        return calls.layer_norm(x, x.shape[-1:], weight, bias, eps=1e-5, **after)
    if kind.startswith("group"):
        return calls.group_norm(x, 3, weight, bias, eps=1e-5, **after)
    if kind == "instance":
        after |= {"use_input_stats": True, "momentum": 0.0, "eps": 1e-5}
        return calls.instance_norm(x, None, None, weight, bias, **after)
    return calls.rms_norm(x, x.shape[-1:], weight, eps=1e-5, **after)


@pytest.mark.parametrize("kind", BIG)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("activation", [None, "relu"])
def test_bits_do_not_depend_on_the_threads(
    kind: str, dtype: torch.dtype, activation: str | None
) -> None:
    shape = BIG[kind]
    x, residual = drawn(*shape).to(dtype), drawn(*shape, seed=1).to(dtype)
    if "last" in kind:
        x = x.contiguous(memory_format=torch.channels_last)
    size = shape[-1] if kind in ("layer", "rms") else shape[1]
    weight, bias, g = drawn(size, seed=2), drawn(size, seed=3), drawn(*shape, seed=4).to(dtype)
    leaves = [x, weight.float(), bias.float(), residual]
    leaves = [leaf.requires_grad_() for leaf in leaves]
    answers = []
    for threads in (1, 2, 4):
        torch.set_num_threads(threads)
        y = norm_of(kind, *leaves[:3], activation=activation, residual=leaves[3])
        used = [leaf for leaf in leaves if kind != "rms" or leaf is not leaves[2]]
        answers.append((y, *torch.autograd.grad(y, used, g)))
    for other in answers[1:]:
        for one, two in zip(answers[0], other, strict=True):
            assert torch.equal(one, two)


@pytest.mark.parametrize("kind", ["layer", "rms"])
def test_strided_misaligned_and_expanded(kind: str) -> None:
    base = drawn(6, 10, 33).float()
    weight, bias = drawn(33, seed=1).float(), drawn(33, seed=2).float()
    for x in (
        base.transpose(0, 1),
        drawn(6, 10, 66).float()[..., ::2],
        drawn(6 * 10 * 33 + 1).float()[1:].view(6, 10, 33),
        base[:, :1].expand(6, 10, 33),
    ):
        y = norm_of(kind, x, weight, bias)
        assert y.is_contiguous()
        assert torch.equal(y, norm_of(kind, x.contiguous().clone(), weight, bias))
        leaf = x.detach().requires_grad_()
        torch.autograd.grad(norm_of(kind, leaf, weight, bias).sum(), leaf)  # an expanded gradient


def test_two_normalized_dims() -> None:
    x, weight, bias = drawn(3, 4, 5), drawn(4, 5, seed=1), drawn(4, 5, seed=2)
    y = cpu.forward(ops.Call("layer", x, weight, bias, normalized_shape=[4, 5]))
    torch.testing.assert_close(y, reference.layer_norm(x, 2, weight, bias)[0])
    y = cpu.forward(ops.Call("rms", x, weight, normalized_shape=[4, 5]))
    torch.testing.assert_close(y, reference.rms_norm(x, 2, weight))


# ---- extremes ------------------------------------------------------------------------------------


@pytest.mark.parametrize("instructions", SETS)
@pytest.mark.parametrize("width", [5, 100, 5000])
def test_a_mean_of_a_million_deviations(instructions: str, width: int) -> None:
    library.use(instructions)
    x = (1e4 + 0.01 * drawn(4, width)).float()
    y = calls.layer_norm(x, (width,), None, None, eps=0.0)
    expected = reference.layer_norm(x.double(), 1, eps=0.0)[0]
    # What x holds is exact: only x̂'s own roundings remain, not 10⁶ of them.
    torch.testing.assert_close(y.double(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("instructions", SETS)
@pytest.mark.parametrize("last", [False, True])
def test_groups_with_a_mean_of_a_million_deviations(instructions: str, last: bool) -> None:
    library.use(instructions)
    x = (1e4 + 0.01 * drawn(3, 6, 20, 21)).float()
    if last:
        x = x.contiguous(memory_format=torch.channels_last)
    y = cpu.forward(ops.Call("group", x, num_groups=2, eps=0.0))
    assert y is not None
    expected = reference.group_norm(x.double(), 2, eps=0.0)
    torch.testing.assert_close(y.double(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("last", [False, True])
def test_extreme_groups(last: bool) -> None:
    x = drawn(3, 6, 8, 9)
    layout = torch.channels_last if last else torch.contiguous_format
    for size in (1e30, 1e-30):
        y = calls.group_norm(
            (size * x).float().contiguous(memory_format=layout), 2, None, None, eps=0.0
        )
        torch.testing.assert_close(y, reference.group_norm(size * x, 2, eps=0.0).float())
    bias = drawn(6).float()
    y = calls.group_norm(
        torch.full((3, 6, 8, 9), 1234.567).contiguous(memory_format=layout), 2, None, bias, eps=1e-5
    )
    assert torch.equal(y, bias.view(6, 1, 1).expand_as(y))
    x[0, 0, 3, 3], x[1, 5, 3, 3] = torch.inf, torch.nan
    y = calls.group_norm(x.contiguous(memory_format=layout), 2, None, None, eps=1e-5)
    torch.testing.assert_close(y, F.group_norm(x, 2), equal_nan=True)
    torch.testing.assert_close(y.isnan(), F.group_norm(x, 2).isnan())


def test_instance_norm_of_the_population_is_batch_norm_in_evaluation() -> None:
    x, mean, var = drawn(3, 5, 9), drawn(5, seed=1), drawn(5, seed=2).square()
    running = {"running_mean": mean, "running_var": var}
    call = ops.Call("instance", x, activation="relu", residual=x, training=False, **running)
    y = cpu.forward(call)
    expected = reference.batch_norm_inference(x, mean, var)
    torch.testing.assert_close(y, (expected + x).relu())
    assert cpu.forward(ops.Call("instance", x, **running)) is None


@pytest.mark.parametrize("instructions", SETS)
def test_a_row_that_does_not_begin_as_it_goes_on(instructions: str) -> None:
    """The first values guess the mean; where the guess is bad, sums about it would cancel."""
    library.use(instructions)
    x = drawn(2, 2, 35000).float()
    x[:, 0, :64] = -1e5
    y = calls.layer_norm(x.view(2, 70000), (70000,), None, None, eps=0.0)
    expected = reference.layer_norm(x.view(2, 70000).double(), 1, eps=0.0)[0]
    torch.testing.assert_close(y.double(), expected, rtol=1e-6, atol=1e-6)
    y = calls.group_norm(x, 1, None, None, eps=0.0)
    torch.testing.assert_close(y.double().view(2, 70000), expected, rtol=1e-6, atol=1e-6)


def test_a_constant_row_is_beta() -> None:
    x = torch.full((3, 100), 1234.567)
    bias = drawn(100).float()
    assert torch.equal(calls.layer_norm(x, (100,), None, bias, eps=1e-5), bias.expand(3, 100))


def test_squares_beyond_float32() -> None:
    for size in (1e30, 1e-30):
        x = size * drawn(4, 100)
        y = calls.layer_norm(x.float(), (100,), None, None, eps=0.0)
        torch.testing.assert_close(y, reference.layer_norm(x, 1, eps=0.0)[0].float())
        y = calls.rms_norm(x.float(), (100,), None, eps=0.0)
        torch.testing.assert_close(y, reference.rms_norm(x, 1, eps=0.0).float())


def test_float16_near_its_end() -> None:
    x = torch.tensor([[65504.0, -65504.0, 60000.0, 1.0]], dtype=torch.float16)
    y = calls.layer_norm(x, (4,), None, None, eps=1e-5)
    torch.testing.assert_close(y, reference.layer_norm(x.double(), 1)[0].half())
    y = calls.rms_norm(x, (4,), None, eps=1e-5)
    torch.testing.assert_close(y, reference.rms_norm(x.double(), 1).half())


@every_dtype
def test_infinities_and_nan_stay_in_their_row(dtype: torch.dtype) -> None:
    x = drawn(5, 40)
    x[1, 7], x[2, 7], x[3, 30] = torch.inf, torch.nan, -torch.inf
    x = x.to(dtype)
    for ours, torchs in (
        (calls.layer_norm(x, (40,), None, None, eps=1e-5), F.layer_norm(x, (40,))),
        (calls.rms_norm(x, (40,), None, eps=1e-5), F.rms_norm(x, (40,), eps=1e-5)),
    ):
        torch.testing.assert_close(ours, torchs, equal_nan=True)


@every_dtype
def test_rms_norm_without_eps_is_torchs(dtype: torch.dtype) -> None:
    x = (1e-4 * drawn(5, 40)).to(dtype)
    ours, torchs = calls.rms_norm(x, (40,), None, eps=None), F.rms_norm(x, (40,))
    torch.testing.assert_close(ours, torchs)


# ---- derivatives and transforms ------------------------------------------------------------------


@pytest.mark.parametrize("name", ["layer-17", "rms-3", "group", "group-last", "instance"])
@pytest.mark.parametrize("activation", [None, "relu", "gelu"])
@pytest.mark.parametrize("residual", [False, True])
def test_gradcheck(name: str, activation: str | None, residual: bool) -> None:
    problem = Problem(name, torch.float64, activation, residual)
    problem.x = problem.x.detach()[:2].requires_grad_()
    if problem.residual is not None:
        problem.residual = problem.residual.detach()[:2].requires_grad_()

    def f(*leaves: Tensor) -> Tensor:
        return problem.native()

    batched = name != "group-last"  # there torch's own group norm cannot
    assert torch.autograd.gradcheck(f, problem.leaves(), check_batched_grad=batched)
    # By random projections: the whole matrix of second derivatives takes seconds a case.
    assert torch.autograd.gradgradcheck(f, problem.leaves(), fast_mode=True)


def test_only_what_is_asked_for() -> None:
    weight, bias = drawn(17, seed=1), drawn(17, seed=2)
    x, residual = drawn(5, 17), drawn(5, 17, seed=3)
    g = drawn(5, 17, seed=4)
    every = [t.clone().requires_grad_() for t in (x, weight, bias, residual)]
    whole = torch.autograd.grad(
        calls.layer_norm(
            every[0], (17,), *every[1:3], eps=1e-5, activation="relu", residual=every[3]
        ),
        every,
        g,
    )
    for i in range(4):
        some = [t.clone() for t in (x, weight, bias, residual)]
        some[i].requires_grad_()
        y = calls.layer_norm(
            some[0], (17,), *some[1:3], eps=1e-5, activation="relu", residual=some[3]
        )
        assert torch.equal(torch.autograd.grad(y, some[i], g)[0], whole[i])


def test_no_function_where_no_gradient_is_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("an autograd function was made")

    monkeypatch.setattr(autograd._Norm, "apply", refuse)
    x = drawn(5, 17)
    assert not calls.layer_norm(x, (17,), None, None, eps=1e-5).requires_grad
    with torch.no_grad():
        calls.layer_norm(x.requires_grad_(), (17,), None, None, eps=1e-5)


def row(kind: str, x: Tensor, width: int = 17, **given: Any) -> ops.Call:
    return ops.Call(kind, x, normalized_shape=(width,), **given)


SERVED: dict[str, Callable[[Tensor], ops.Call]] = {
    "empty": lambda x: row("layer", x[:0]),
    "other dims": lambda x: row("layer", x, 16),
    "integers": lambda x: row("rms", x.int()),
    "a wider parameter": lambda x: row("rms", x.float(), weight=torch.ones(17).double()),
    "another residual": lambda x: row("rms", x, residual=x.float()),
    "meta": lambda x: row("rms", x.to("meta")),
}


@pytest.mark.parametrize("name", SERVED)
def test_the_rest_is_left_to_torch(name: str) -> None:
    assert cpu.forward(SERVED[name](drawn(5, 17))) is None


def test_small_ones_are_left_to_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    x, image = torch.randn(32, 128), torch.randn(8, 16, 8, 8)
    assert cpu.forward(row("layer", x, 128)) is None
    assert cpu.forward(row("layer", x.repeat(512, 1), 128)) is not None
    assert cpu.forward(row("rms", x, 128)) is not None
    for last in (image, image.contiguous(memory_format=torch.channels_last)):
        assert cpu.forward(ops.Call("group", last, num_groups=4)) is None
    big = image.repeat(64, 1, 1, 1)
    assert cpu.forward(ops.Call("group", big, num_groups=4)) is not None
