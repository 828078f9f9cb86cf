"""Peaks that can be reckoned by hand."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from gammabeta.lab.bench.nets import default
from gammabeta.lab.bench.peak import peak_bytes
from gammabeta.lab.bench.step import Step, Training
from gammabeta.lab.bench.variants import variant

KIB = 1024


def test_what_lives_at_once_is_added_and_what_is_gone_is_not() -> None:
    def call() -> Tensor:
        a = torch.empty(100 * KIB, dtype=torch.uint8)  # 100
        b = torch.empty(50 * KIB, dtype=torch.uint8)  # 150
        del a  # 50
        c = torch.empty(70 * KIB, dtype=torch.uint8)  # 120
        return b[:1] + c[:1]

    assert peak_bytes(call) == 150 * KIB


def test_what_was_there_before_does_not_count() -> None:
    before = torch.zeros(1000 * KIB, dtype=torch.uint8)
    assert peak_bytes(before.zero_) == 0


def test_what_only_the_first_call_allocates_and_keeps_does_not_count() -> None:
    kept: list[Tensor] = []

    def call() -> None:
        if not kept:
            kept.append(torch.zeros(1000 * KIB, dtype=torch.uint8))

    assert peak_bytes(call) == 0


def test_what_autograd_keeps_counts() -> None:
    x = torch.randn(256, KIB, requires_grad=True)  # 1 MiB
    x.grad = torch.zeros_like(x)
    one = x.numel() * 4

    def call() -> None:
        y = x.sigmoid().sigmoid().sigmoid()  # each keeps its output: 3
        y.backward(torch.ones_like(y))  # the upstream gradient: 1
        # In the second sigmoid's backward pass all of these are there still (what it keeps goes
        # when it is done), with the gradient it is given and the one it makes: 2.

    assert peak_bytes(call) == 6 * one


def test_the_peak_of_a_network_is_that_of_its_maps() -> None:
    training = Training("net", default(depth=4, width=64), batch=8, size=16)
    one = 8 * 64 * 16 * 16 * 4  # bytes of a map
    peaks = {}
    for name in ("relu", "torch", "gammabeta"):
        step = Step(variant(name, training.model), training, "fp32")
        peaks[name] = peak_bytes(step.backward) / one
    # With ReLU alone: each of 4 layers keeps its output, and at the peak there are two more: in
    # the forward pass a convolution's output beside it is gone at once, in the backward pass the
    # gradient that comes and the one that goes. A batch norm keeps its input as well: 4 more.
    # What is smaller than a map (the head, statistics, weights' gradients) fits in 0.2.
    assert 6 <= peaks["relu"] < 6.2
    assert 10 <= peaks["torch"] < 10.2
    assert peaks["gammabeta"] < 10.2


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_the_default_net_is_measured_in_both_dtypes(dtype: str) -> None:
    training = Training("net", default(depth=1, width=4), batch=4, size=8)
    step = Step(variant("torch", training.model), training, dtype)
    assert peak_bytes(step.backward) > 4 * 4 * 64 * 2


def test_a_failure_is_passed_on() -> None:
    calls = iter([True, False])

    def call() -> None:
        if not next(calls):
            raise RuntimeError("out of luck")

    with pytest.raises(RuntimeError, match="out of luck"):
        peak_bytes(call)


def test_the_profilers_library_is_kept_silent(capfd: pytest.CaptureFixture[str]) -> None:
    peak_bytes(lambda: nn.ReLU()(torch.ones(3)))
    assert capfd.readouterr() == ("", "")
