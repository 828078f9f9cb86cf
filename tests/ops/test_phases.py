"""Statistics, apply, backward: together the norm, and apart room for a reduction over ranks."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from gammabeta import ops
from tests.ops.test_operators import CALLS, TAILS, leaves, made

every_backend = pytest.mark.parametrize("kernels", ["torch", "native"])


@pytest.mark.parametrize(("activation", "residual"), TAILS)
@pytest.mark.parametrize("name", CALLS)
@every_backend
def test_together_they_are_the_norm(
    name: str, activation: str | None, residual: bool, kernels: str
) -> None:
    call = made(name, activation, residual)
    reference = ops.BACKENDS["reference"].forward(call)
    assert reference is not None
    g = torch.randn(reference.shape, dtype=reference.dtype)
    expected = torch.autograd.grad(reference, leaves(call), g)
    with ops.use(kernels):
        statistics = ops.statistics(call)
        y = ops.apply(call, statistics)
        found = ops.backward(call, statistics, g)
    # float64 throughout: some roundings of numbers of the order of one
    torch.testing.assert_close(y, reference.detach(), rtol=1e-9, atol=1e-9)
    given = [t for t in found if t is not None]
    torch.testing.assert_close(given, list(expected), rtol=1e-9, atol=1e-9)
    assert not y.requires_grad


@pytest.mark.parametrize("activation", [None, "relu", "gelu"])
@every_backend
def test_a_batch_in_parts_is_the_whole_batch(activation: str | None, kernels: str) -> None:
    """As ranks would: each has a part, the statistics and the gradient's sums are of all."""
    whole = made("batch", activation)
    parts = [made("batch", activation) for _ in range(2)]
    for part, x in zip(parts, whole.x.detach().split([2, 4]), strict=True):
        part.x = x.clone()
    y = ops.normalize(whole)
    g = torch.randn(y.shape, dtype=y.dtype)
    expected = torch.autograd.grad(y, leaves(whole), g)
    sums: list[Tensor] = []

    def collect(own: Tensor) -> Tensor:
        sums.append(own)
        return own

    with ops.use(kernels):
        statistics = ops.merge([ops.statistics(part) for part in parts])
        outputs = [ops.apply(part, statistics) for part in parts]
        for part, own in zip(parts, g.split([2, 4]), strict=True):
            ops.backward(part, statistics, own, collect)
        found = [
            ops.backward(part, statistics, own, lambda _: sums[0] + sums[1])
            for part, own in zip(parts, g.split([2, 4]), strict=True)
        ]
    tight = {"rtol": 1e-9, "atol": 1e-9}
    torch.testing.assert_close(torch.cat(outputs), y.detach(), **tight)
    torch.testing.assert_close(torch.cat([each.x for each in found]), expected[0], **tight)
    torch.testing.assert_close(found[0].weight + found[1].weight, expected[1], **tight)
    torch.testing.assert_close(found[0].bias + found[1].bias, expected[2], **tight)


@every_backend
def test_fixed_statistics_have_no_gradient(kernels: str) -> None:
    call = made("batch")
    call.training = False
    statistics = ops.Statistics(
        torch.randn(1, 4, 1, dtype=torch.double), torch.rand(1, 4, 1, dtype=torch.double), 7
    )
    call.running_mean, call.running_var = statistics.mean.flatten(), statistics.var.flatten()
    y = ops.normalize(call)
    g = torch.randn(y.shape, dtype=y.dtype)
    expected = torch.autograd.grad(y, leaves(call), g)
    with ops.use(kernels):
        torch.testing.assert_close(ops.apply(call, statistics), y.detach())
        found = ops.backward(call, statistics, g)
    torch.testing.assert_close([found.x, found.weight, found.bias], list(expected))
