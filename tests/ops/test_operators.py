"""The registered operators: as torch checks operators, and beside the eager norms."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor

import gammabeta as gb
from gammabeta import ops
from gammabeta.ops import operators

CALLS: dict[str, tuple[str, tuple[int, ...], dict[str, Any]]] = {
    "batch": ("batch", (6, 4, 5), {}),
    "batch, channels last": ("batch", (3, 4, 5, 6), {"last": True}),
    "instance": ("instance", (3, 4, 5), {}),
    "group": ("group", (3, 4, 5), {"num_groups": 2}),
    "group, channels last": ("group", (3, 4, 5, 6), {"num_groups": 2, "last": True}),
    "layer": ("layer", (3, 4, 5), {"normalized_shape": (4, 5)}),
    "rms": ("rms", (3, 5), {"normalized_shape": (5,), "eps": None}),
}
TAILS = [(None, False), ("relu", False), ("relu", True), ("gelu", True), (None, True)]
# What is checked is the operator: its schema, shapes, gradients and graphs, each tail on the native
# kernels. On torch's operators below it, only whether there is a tail makes a difference.
CHECKED = [
    *((kernels, *tail) for kernels, tail in itertools.product(["native"], TAILS)),
    *((kernels, *tail) for kernels, tail in itertools.product(["torch"], TAILS[0:3:2])),
]
checked = pytest.mark.parametrize(("kernels", "activation", "residual"), CHECKED)


def made(
    name: str,
    activation: str | None = None,
    residual: bool = False,
    dtype: torch.dtype = torch.double,
) -> ops.Call:
    kind, shape, settings = CALLS[name]
    settings = dict(settings)
    generator = torch.Generator().manual_seed(0)

    def drawn(*size: int) -> Tensor:
        return torch.randn(size, generator=generator, dtype=dtype)

    x, extra = drawn(*shape), drawn(*shape)
    if settings.pop("last", False):
        x, extra = (t.contiguous(memory_format=torch.channels_last) for t in (x, extra))
    size = settings.get("normalized_shape", shape[1:2])
    call = ops.Call(kind, x.requires_grad_(), drawn(*size).requires_grad_(), **settings)
    call.activation = activation
    if kind != "rms":
        call.bias = drawn(*size).requires_grad_()
    if residual:
        call.residual = extra.requires_grad_()
    return call


def leaves(call: ops.Call) -> list[Tensor]:
    return [t for t in (call.x, call.weight, call.bias, call.residual) if t is not None]


def given(call: ops.Call) -> tuple[Any, ...]:
    sizes = call.normalized_shape or ([call.num_groups] if call.kind == "group" else [])
    eps = torch.finfo(call.x.dtype).eps if call.eps is None else call.eps
    tensors = (call.x, call.weight, call.bias, call.residual)
    return (*tensors, call.kind, list(sizes), eps, call.activation)


@checked
@pytest.mark.parametrize("name", CALLS)
def test_as_torch_checks_operators(
    name: str, activation: str | None, residual: bool, kernels: str
) -> None:
    with ops.use(kernels):
        torch.library.opcheck(
            torch.ops.gammabeta.normalize.default, given(made(name, activation, residual))
        )


@checked
@pytest.mark.parametrize("name", CALLS)
def test_it_is_the_norm(name: str, activation: str | None, residual: bool, kernels: str) -> None:
    call, twin = made(name, activation, residual), made(name, activation, residual)
    with ops.use(kernels):
        y, statistics = operators.normalize(call)
        g = torch.randn_like(y)
        found = torch.autograd.grad(y, leaves(call), g)
    with ops.use("torch"):
        expected = ops.normalize(twin)
        gradients = torch.autograd.grad(expected, leaves(twin), g)
    # float64 throughout: some roundings of numbers of the order of one
    torch.testing.assert_close((y, *found), (expected, *gradients), rtol=1e-9, atol=1e-9)
    assert not statistics.requires_grad
    with ops.use(kernels):
        backward = torch.ops.gammabeta.normalize_backward.default
        output = y.detach() if residual and activation == "relu" else None
        tensors = [None if t is None else t.detach() for t in given(call)[:4]]
        rest = (output, statistics, *given(call)[4:])
        torch.library.opcheck(backward, (g, *tensors, *rest))


@pytest.mark.parametrize("momentum", [0.1, None])
def test_in_a_compiled_graph(momentum: float | None) -> None:
    """As operators they compute the same, statistics included; inductor has them by default."""
    torch.manual_seed(0)
    layers = [gb.BatchNorm2d(4, momentum=momentum, activation="relu") for _ in range(2)]
    x = torch.randn(3, 4, 5, 6)
    nodes: list[set[str]] = []
    outputs: list[Tensor] = []

    def backend(graph: torch.fx.GraphModule, inputs: object) -> object:
        nodes.append({str(node.target) for node in graph.graph.nodes})
        return graph.forward

    for layer, kinds in zip(layers, ((), ("batch",)), strict=True):
        torch._dynamo.reset()
        operators.in_compiled_graphs(*kinds)
        try:
            y = torch.compile(layer, fullgraph=True, backend=backend)(x)
        finally:
            operators.in_compiled_graphs()
        outputs.append(y)
    torch.testing.assert_close(outputs[0], outputs[1])
    torch.testing.assert_close(layers[0].state_dict(), layers[1].state_dict())
    assert ["normalize" in str(each) for each in nodes] == [False, True]
