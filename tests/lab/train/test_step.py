"""The one training step, against a loop written out."""

from __future__ import annotations

import contextlib
import warnings
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gammabeta.lab.models import Stack
from gammabeta.lab.train.step import quiet_layers, take_step
from gammabeta.layers import NonFiniteBatchWarning

X = torch.randn(32, 8, generator=torch.Generator().manual_seed(0))
Y = torch.arange(32) % 3


def net() -> tuple[Stack, torch.optim.Optimizer]:
    model = Stack(8, 3, depth=2, width=16, seed=1)
    return model, torch.optim.SGD(model.parameters(), lr=0.5, momentum=0.9)


def same(one: nn.Module, other: nn.Module) -> bool:
    pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize("clip", [None, 0.1])
def test_it_is_what_a_bare_loop_does(clip: float | None) -> None:
    (model, optimizer), (bare, its) = net(), net()
    for _ in range(3):
        step = take_step(model, optimizer, X, Y, clip=clip)
        its.zero_grad()
        scores = bare(X)
        loss = F.cross_entropy(scores, Y)
        loss.backward()  # type: ignore[no-untyped-call]
        if clip is not None:
            nn.utils.clip_grad_norm_(bare.parameters(), clip)
        its.step()
        assert torch.equal(step.loss, loss)
        assert torch.equal(step.output, scores)
        assert not any(part.requires_grad for part in step)
    assert same(model, bare)


def test_a_loss_of_several_elements_is_summed() -> None:
    (model, optimizer), (bare, its) = net(), net()

    def each(scores: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(scores, y, reduction="none")

    assert take_step(model, optimizer, X, Y, loss=each).loss.shape == (32,)
    take_step(bare, its, X, Y, loss=lambda scores, y: each(scores, y).sum())
    assert same(model, bare)


@pytest.mark.parametrize("skip", [True, False])
def test_a_loss_that_is_not_finite_can_be_skipped(skip: bool) -> None:
    model = nn.Linear(8, 3)
    before = model.weight.detach().clone()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    step = take_step(model, optimizer, X * float("inf"), Y, skip_nonfinite=skip)
    assert bool(step.loss.isnan())
    assert torch.equal(model.weight, before) == skip


def test_the_forward_pass_and_the_loss_run_in_the_given_precision() -> None:
    seen: list[Any] = []

    @contextlib.contextmanager
    def noted() -> Any:
        seen.append("in")
        yield
        seen.append("out")

    model, optimizer = net()
    model.register_forward_hook(lambda *_: seen.append("forward"))
    model.classifier.weight.register_hook(lambda _: seen.append("backward"))
    take_step(model, optimizer, X, Y, precision=noted())
    assert seen == ["in", "forward", "out", "backward"]


def test_quiet_layers_silence_the_warning_of_the_layers_alone() -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with quiet_layers():
            warnings.warn("not finite", NonFiniteBatchWarning, stacklevel=1)
            warnings.warn("another", UserWarning, stacklevel=1)
    assert [str(each.message) for each in caught] == ["another"]
