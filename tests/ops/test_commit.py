"""The operator that commits running statistics in a compiled graph."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import gammabeta as gb
from gammabeta.ops.commit import commit_statistics


def arguments(value: float = 2.0, *, counters: bool = True) -> list[Tensor | None]:
    new_mean, new_var = torch.full((3,), value), torch.full((3,), 4.0)
    counts = [torch.tensor(5), torch.tensor(1)] if counters else [None, None]
    return [new_mean, new_var, torch.zeros(3), torch.ones(3), *counts]


@pytest.mark.parametrize("counters", [True, False])
def test_as_torch_checks_operators(counters: bool) -> None:
    torch.library.opcheck(commit_statistics, tuple(arguments(counters=counters)))


@pytest.mark.parametrize("value", [2.0, float("nan"), float("inf"), -float("inf"), 3e38])
def test_what_is_finite_enters(value: float) -> None:
    _, _, mean, var, batches, refused = given = arguments(value)
    commit_statistics(*given)
    entered = torch.tensor(value).isfinite().item()
    assert torch.equal(mean, torch.full((3,), value) if entered else torch.zeros(3))
    assert torch.equal(var, torch.full((3,), 4.0) if entered else torch.ones(3))
    assert (int(batches), int(refused)) == ((6, 1) if entered else (5, 2))


def test_a_compiled_layer_has_it_as_one_node() -> None:
    graphs: list[torch.fx.GraphModule] = []

    def backend(graph: torch.fx.GraphModule, _: object) -> torch.fx.GraphModule:
        graphs.append(graph)
        return graph

    torch._dynamo.reset()
    layer = gb.BatchNorm2d(3)
    torch.compile(layer, fullgraph=True, backend=backend)(torch.randn(2, 3, 4, 4))
    targets = [node.target for node in graphs[0].graph.nodes]
    assert targets.count(commit_statistics) == 1
    assert torch.dot not in targets
