"""What a proof finds out: classes that compute almost what they seem to compute."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import gammabeta as gb
from gammabeta.conversion.adopting import proof
from gammabeta.conversion.adopting.proof import prove
from gammabeta.conversion.adopting.recipe import Adoption
from gammabeta.layers import findings
from gammabeta.layers.traits import traits
from tests.conversion import their_norms as theirs

DIFFERS = "the kernels do not compute the same to the last digits"


def rms(x: Tensor, eps: float = 1e-6) -> Tensor:
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps)


class Base(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(6))


class Limited(Base):
    """Of finite values only."""

    def forward(self, x: Tensor) -> Tensor:
        limited = torch.where(x.isfinite(), x.clamp(-100, 100), x)
        return self.weight * rms(limited)


class Floored(Base):
    def forward(self, x: Tensor) -> Tensor:
        return self.weight * x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True).clamp(min=1e-13))


class WithoutNaN(Base):
    def forward(self, x: Tensor) -> Tensor:
        return self.weight * rms(x.nan_to_num(0.0))


class Counting(Base):
    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return self.weight * rms(x)


class Drawing(Base):
    def forward(self, x: Tensor) -> Tensor:
        torch.rand(1)
        return self.weight * rms(x)


class WithoutGradient(Base):
    """γ is used and not learned."""

    def forward(self, x: Tensor) -> Tensor:
        return self.weight.detach() * rms(x)


class Renormalizing(theirs.BatchNormAct2d):
    """It moves its running variance by another estimate."""

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.running_var.mul_(0.99)
        return super().forward(x)


@pytest.mark.parametrize("make", [Limited, Floored, WithoutNaN, Counting, Drawing, WithoutGradient])
def test_almost_a_norm_is_left(make: Any) -> None:
    assert traits(make()).family == "rms"  # near enough to look at, not to replace
    assert prove(make(), []) == DIFFERS
    reports: list[Any] = []
    model = nn.Sequential(make(), nn.LayerNorm(6))
    gb.convert(model, report=reports.append)
    assert type(model[0]) is make
    assert DIFFERS in reports[0].left[0].reason


def covered(module: nn.Module) -> frozenset[Any]:
    found = prove(module, [])
    assert isinstance(found, Adoption), found
    return found.covered


def test_a_mode_in_which_it_differs_is_not_covered() -> None:
    assert {one[-1] for one in covered(Renormalizing(6))} == {False}
    assert {one[-1] for one in covered(theirs.BatchNormAct2d(6))} == {False, True}


class GroupNormReLU6(theirs.GroupNormAct):
    def __init__(self) -> None:
        super().__init__(6, act=nn.ReLU6)


@pytest.mark.parametrize("make", [GroupNormReLU6, lambda: theirs.BatchNormAct2d(2, nn.ReLU6)])
def test_activations_that_differ_in_large_values_only(make: Any) -> None:
    module = make().eval()
    with torch.no_grad():
        module.weight.fill_(20.0)
    converted = gb.convert(copy.deepcopy(module), report=lambda its: None)
    x = torch.randn(8, module.weight.numel(), 64, 64)
    for training in (False, True):
        module.train(training), converted.train(training)
        want = module(x)
        torch.testing.assert_close(converted(x), want, rtol=1e-5, atol=1e-5)
        assert want.max().item() == 6.0


def test_values_that_cannot_show_the_activation() -> None:
    bounded = theirs.BatchNormAct2d(2, nn.ReLU6, affine=False, track_running_stats=False)
    assert "too small to tell its activation" in str(prove(bounded, []))


def test_a_memory_layout_in_which_it_differs_is_not_covered() -> None:
    assert {one[3] for one in covered(theirs.LayerNorm2dByHand(6))} == {"channels_last"}
    assert {one[3] for one in covered(theirs.LayerNorm2d(6))} == {"contiguous", "channels_last"}


def test_dtypes_in_which_it_differs_are_not_covered() -> None:
    f16, b16, f32, f64 = torch.float16, torch.bfloat16, torch.float32, torch.float64
    pairs = {one[:2] for one in covered(theirs.RMSNorm(6)) if one[4] is None}
    assert pairs == {(f32, f32), (b16, b16), (f16, f16)}
    pairs = {one[:2] for one in covered(theirs.OffsetRMSNorm(6)) if one[4] is None}
    assert pairs == {(f32, f32), (b16, b16), (f16, f16), (b16, f32), (f16, f32)}
    pairs = {one[:2] for one in covered(theirs.BatchNormAct2d(6)) if one[4] is None}
    assert pairs == {(f32, f32), (b16, b16), (f16, f16), (b16, f32), (f16, f32), (f64, f64)}
    # In float16 its squares overflow.
    pairs = {one[:2] for one in covered(theirs.LayerNormByHand(6))}
    assert (f32, f32) in pairs
    assert (f16, f16) not in pairs


def test_another_size_is_proved_by_fewer_trials(monkeypatch: pytest.MonkeyPatch) -> None:
    trials: list[Any] = []
    agrees = proof._agrees
    monkeypatch.setattr(proof, "_agrees", lambda *args: trials.append(args) or agrees(*args))
    first = prove(theirs.BatchNormAct2d(6), [])
    assert isinstance(first, Adoption)
    many = len(trials)
    trials.clear()
    assert prove(theirs.BatchNormAct2d(10), [first]) is first
    assert 0 < len(trials) < many / 2
    assert prove(theirs.BatchNormAct2d(6, nn.SiLU), [first]) != first


def test_as_good_as_theirs() -> None:
    exact = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    theirs_, ours = exact.float() * (1 + 1e-6), exact.float() * (1 - 1e-6)
    f32 = torch.float32
    assert proof._as_good(ours, theirs_, exact, f32)
    assert not proof._as_good(exact.float() * (1 + 1e-5), theirs_, exact, f32)
    assert not proof._as_good(ours, exact.float() * (1 + 1e-4), exact, f32)
    assert not proof._as_good(ours, theirs_.double(), exact, f32)
    holed = theirs_.clone()
    holed[0] = torch.nan
    assert not proof._as_good(ours, holed, exact, f32)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_to_the_last_digit(dtype: torch.dtype) -> None:
    x = torch.tensor([1.0, 2.0, -4.0], dtype=dtype)
    ulp = torch.finfo(dtype).eps
    assert proof._as_rounded(x * (1 + ulp), x)
    assert not proof._as_rounded(x * (1 + 2 * ulp), x)


def test_traits_of_an_adopted_module_take_no_new_probe(monkeypatch: pytest.MonkeyPatch) -> None:
    module = gb.convert(theirs.RMSNorm(7))

    def never(layer: nn.Module) -> None:
        raise AssertionError("probed again")

    monkeypatch.setattr(findings, "probe", never)
    assert traits(module).family == "rms"
