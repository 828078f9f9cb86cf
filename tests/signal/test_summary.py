"""What is measured of a signal, against numpy in float64 and counts done by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from gammabeta.ops.activations import ACTIVATIONS
from gammabeta.signal import axis
from gammabeta.signal.sampling import SAMPLE
from gammabeta.signal.summary import (
    EVIDENCE,
    SATURATION,
    Sample,
    Summary,
    columns_of,
    summarize,
)
from tests.signal.recorded import same


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def saturation(
    x: Tensor, activation: str | None, feature_dim: int = 1
) -> tuple[float | None, float | None]:
    """Return the fractions of saturated values and of dead features."""
    measured = summarize(x, activation, feature_dim)
    return measured.saturated, measured.dead


def agrees_with_numpy(measured: Summary, x: Tensor) -> None:
    """Every field, from the float64 values of x, none sampled away."""
    values = x.double().numpy().ravel()
    finite = values[np.isfinite(values)]
    # Float64 throughout: 1e-12 relative to the largest value is the rounding of a sum of 1e4.
    near = {"rel": 1e-12, "abs": 1e-12 * float(np.abs(finite).max())}
    assert measured.count == values.size
    assert measured.nonfinite == values.size - finite.size
    assert measured.mean == pytest.approx(finite.mean(), **near)
    # Deviations from the mean are rounded to the dtype of x: 6e-8 of each, at most.
    rounding = 1e-12 if x.dtype == torch.float64 else 1e-7
    assert measured.std == pytest.approx(finite.std(), rel=rounding, abs=near["abs"])
    p15, p50, p85 = np.percentile(finite, [15, 50, 85])
    assert measured.p15 == pytest.approx(p15, **near)
    assert measured.p50 == pytest.approx(p50, **near)
    assert measured.p85 == pytest.approx(p85, **near)
    assert (measured.minimum, measured.maximum) == (finite.min(), finite.max())
    on_axis = finite[np.abs(finite) <= axis.LIMIT]
    expected = np.histogram(on_axis, bins=axis.edges().numpy())[0]
    assert measured.histogram.tolist() == expected.tolist()
    assert measured.under == (finite < -axis.LIMIT).sum()
    assert measured.over == (finite > axis.LIMIT).sum()
    assert measured.zeros == (finite == 0).sum()
    assert (measured.saturated, measured.dead, measured.gradient) == (None, None, None)
    assert (measured.norm, measured.update) == (None, None)
    assert (measured.sampled, measured.stderr) == (values.size, 0.0)


X = drawn(64, 50)
SIGNALS = {
    "normal": X,
    "wide": 200 * X,
    "narrow": 1e-6 * X,
    "far from zero": 1e6 + X,  # mean 1e6 σ: E[x²] − E[x]² would lose every digit in float32
    "far from zero in float64": 1e6 + X.double(),
    "denormal": 1e-40 * X,
    "huge": 1e38 * drawn(64, 50, seed=1).clamp(-3, 3),  # x² overflows float32
    "the largest of float32": torch.tensor([3.4e38, 3.4e38, 3.4e38, -3.4e38]),
    "rectified": X.relu(),
    "constant": torch.full((7, 3), 2.5),
    "zeros": torch.zeros(7, 3),
    "negative zero": torch.tensor([-0.0, 0.0, 1.0]),
    "one value": torch.tensor([[3.0]]),
    "no dims": torch.tensor(3.0),
    "two values": torch.tensor([1.0, 2.0]),
    "bfloat16": X.bfloat16(),
    "float16": X.half(),
    "transposed": X.t(),
    "expanded": X[:1].expand(9, 50),
    "NaN and infinities": torch.tensor([math.nan, math.inf, -math.inf, 1.0, 2.0, 4.0, math.nan]),
    "one finite": torch.tensor([math.nan, -3.0, math.inf]),
}


@pytest.mark.parametrize("x", SIGNALS.values(), ids=SIGNALS.keys())
def test_numpy_says_the_same(x: Tensor) -> None:
    before = x.clone()
    agrees_with_numpy(summarize(x), x)
    torch.testing.assert_close(x, before, rtol=0, atol=0, equal_nan=True)


@settings(deadline=None)  # of time: a busy machine is no fault
@given(
    st.lists(
        st.floats(width=32, allow_nan=True, allow_infinity=True), min_size=1, max_size=40
    ).filter(lambda values: any(map(math.isfinite, values)))
)
def test_numpy_says_the_same_of_anything(values: list[float]) -> None:
    x = torch.tensor(values)
    agrees_with_numpy(summarize(x), x)


@pytest.mark.parametrize(
    ("x", "nonfinite"),
    [
        (torch.empty(0), 0),
        (torch.empty(4, 0, 3), 0),
        (torch.full((3, 2), math.nan), 6),
        (torch.tensor([math.inf, -math.inf, math.nan]), 3),
    ],
    ids=["empty", "empty with dims", "all NaN", "nothing finite"],
)
def test_nothing_finite(x: Tensor, nonfinite: int) -> None:
    measured = summarize(x)
    assert (measured.count, measured.nonfinite) == (x.numel(), nonfinite)
    for name in ("mean", "std", "p15", "p50", "p85", "minimum", "maximum"):
        assert math.isnan(getattr(measured, name)), name
    assert measured.histogram.shape == (axis.BINS,)
    assert measured.histogram.dtype == torch.int64
    assert int(measured.histogram.sum()) == 0
    assert (measured.under, measured.over, measured.zeros) == (0, 0, 0)


def test_a_known_signal() -> None:
    measured = summarize(torch.tensor([0.0, 1.0, 2.0, 3.0, 4.0]))
    assert (measured.mean, measured.std) == (2.0, pytest.approx(math.sqrt(2), rel=1e-15))
    assert (measured.p15, measured.p50, measured.p85) == (
        pytest.approx(0.6),
        2.0,
        pytest.approx(3.4),
    )
    assert (measured.zeros, int(measured.histogram.sum())) == (1, 5)


def test_a_signal_that_needs_a_gradient_is_measured_without_one() -> None:
    x = drawn(4, 3).requires_grad_()
    y = x * 2
    agrees_with_numpy(summarize(y), y.detach())
    assert x.grad is None


def test_a_large_signal_is_sampled() -> None:
    x = 60 * drawn(99_991)  # prime: every stride is coprime to it
    sample = x.double().numpy()[::13]  # 99991/13 <= 8192 < 99991/12
    measured = summarize(x)
    assert (measured.count, measured.sampled) == (99_991, len(sample))
    assert len(sample) <= SAMPLE
    assert measured.mean == pytest.approx(sample.mean(), rel=1e-12)
    assert measured.std == pytest.approx(sample.std(), rel=1e-7)
    assert (measured.minimum, measured.maximum) == (sample.min(), sample.max())
    expected = np.percentile(sample, [15, 50, 85])
    assert [measured.p15, measured.p50, measured.p85] == pytest.approx(list(expected), rel=1e-12)
    on_axis = sample[np.abs(sample) <= 100]
    assert measured.histogram.tolist() == (
        np.histogram(on_axis, bins=axis.edges().numpy())[0].tolist()
    )
    assert int(measured.histogram.sum()) + measured.under + measured.over == len(sample)
    assert measured.under == (sample < -100).sum() > 0
    assert measured.over == (sample > 100).sum() > 0


def test_what_is_not_finite_is_estimated_of_all_values() -> None:
    x = drawn(99_991)
    x[::4] = math.nan
    sample = x[::13]
    share = float(sample.isnan().double().mean())
    measured = summarize(x)
    assert measured.nonfinite == round(share * 99_991)
    assert measured.nonfinite == pytest.approx(99_991 / 4, rel=0.01)
    assert measured.mean == pytest.approx(float(sample.double().nanmean()), rel=1e-12)
    assert int(measured.histogram.sum()) == int(sample.isfinite().sum())


def test_the_standard_error_of_the_mean() -> None:
    """The sample's means scatter about the true mean as the standard error says."""
    off = []
    for seed in range(200):
        x = 3 + 5 * drawn(20_011, seed=seed)
        measured = summarize(x)
        n = measured.sampled
        assert n is not None
        # Of N values n were drawn without putting back: σ/√n · √(1 − n/N).
        expected = measured.std / math.sqrt(n) * math.sqrt(1 - n / 20_011)
        assert measured.stderr == pytest.approx(expected, rel=1e-9)
        off.append((measured.mean - float(x.double().mean())) / expected)
    # The standard deviation of 200 standard normals is 1 ± 0.05.
    assert float(np.std(off)) == pytest.approx(1, abs=0.2)


def test_the_sample_is_no_larger_than_promised() -> None:
    for count in (SAMPLE, SAMPLE + 1, 2 * SAMPLE, 3 * SAMPLE - 1):
        measured = summarize(torch.ones(count))
        sampled = int(measured.histogram.sum())
        assert sampled == measured.sampled
        assert sampled <= SAMPLE
        # At most three values in four fewer: the sample is as large as the limit allows, nearly.
        assert sampled >= SAMPLE // 4
        assert measured.count == count
    assert int(summarize(torch.ones(SAMPLE)).histogram.sum()) == SAMPLE


@pytest.mark.parametrize("shape", [(4096, 256), (64, 64, 16, 16), (3000, 768)], ids=str)
def test_the_sample_takes_every_feature(shape: tuple[int, ...]) -> None:
    """A stride that divides the width would show a few features and hide the others."""
    residue = torch.arange(shape[-1]) % 12
    measured = summarize(residue.float().expand(shape))
    counts = measured.histogram[measured.histogram > 0].double()
    true_share = torch.bincount(residue).double() / shape[-1]
    assert len(counts) == 12
    # As in the whole signal, but for the last incomplete round: of each feature one value.
    rest = float(torch.bincount(residue).max()) / float(counts.sum())
    torch.testing.assert_close(counts / counts.sum(), true_share, rtol=0, atol=rest)


def test_saturation_by_hand() -> None:
    # tanh saturates outside (−2, 2), the ends included. 3 of 8 values; features 0 and 2 of 4 are
    # not dead: 0 has one saturated example of two, 2 none; 1 (2, −2) is dead, 3 has none.
    x = torch.tensor([[2.0, 2.0, 1.9, 0.0], [0.5, -2.0, -1.9, 1.0]])
    assert saturation(x, "tanh") == (3 / 8, 1 / 4)
    # relu is flat at 0 and below: 4 of 8; no feature with both.
    x = torch.tensor([[0.0, 1.0, -3.0, 2.0], [1.0, -1.0, 1.0, -2.0]])
    assert saturation(x, "relu") == (4 / 8, 0.0)
    assert saturation(-x.abs(), "relu") == (1.0, 1.0)
    assert saturation(torch.tensor([[-4.0, 4.0, 3.99, -3.99]]), "sigmoid") == (0.5, 0.5)


def test_dead_features_of_images_and_of_tokens() -> None:
    x = torch.ones(2, 3, 4, 5)
    x[:, 1] = -1
    x[0, 0, 0, 0] = -1
    assert saturation(x, "relu", feature_dim=1) == (pytest.approx(41 / 120), pytest.approx(1 / 3))
    tokens = x.permute(0, 2, 3, 1)
    assert saturation(tokens, "relu", feature_dim=-1) == (
        pytest.approx(41 / 120),
        pytest.approx(1 / 3),
    )
    # The same tensor along its other dim has no dead feature.
    assert saturation(tokens, "relu", feature_dim=1) == (pytest.approx(41 / 120), 0.0)


@pytest.mark.parametrize(
    ("x", "activation"),
    [
        (torch.ones(2, 3), None),
        (torch.ones(2, 3), "leaky_relu"),  # its slope is never small
        (torch.ones(2, 3), "unheard of"),
        (torch.empty(0, 3), "relu"),
    ],
    ids=["no activation", "no zone", "unknown", "empty"],
)
def test_no_saturation(x: Tensor, activation: str | None) -> None:
    assert saturation(x, activation) == (None, None)


def test_what_is_not_a_number_is_not_saturated() -> None:
    x = torch.tensor([[math.nan, math.inf], [math.nan, -math.inf]])
    assert saturation(x, "tanh") == (0.5, 0.5)


def test_a_signal_of_one_dim() -> None:
    assert saturation(torch.tensor([-1.0, 1.0]), "relu") == (0.5, 0.5)
    assert saturation(torch.tensor(-1.0), "relu") == (1.0, 1.0)


def test_a_unit_is_dead_only_on_evidence() -> None:
    """Of a large signal, a few saturated values of a unit are no proof; more frames add up."""
    units = np.zeros(2, dtype=np.int64)

    def dead(first: list[float], second: list[float]) -> float:
        values = np.array(first + second, dtype=np.float32)
        features = np.array([0] * len(first) + [1] * len(second))
        sample = Sample(values, 10_000, SATURATION["relu"], features, units)
        found = columns_of([0], [sample]).values
        assert found["saturated"][0] == np.mean(values <= 0)
        return float(found["dead"][0])

    few = EVIDENCE // 2
    assert dead([-1.0] * few, [-1.0] * (few - 1)) == 0
    assert dead([-1.0] * (few - 1), [-1.0] * few) == 0  # one value less than the evidence
    assert units.tolist() == [EVIDENCE - 1, EVIDENCE - 1]
    assert dead([-1.0], []) == 0.5
    assert dead([], [-1.0]) == 1
    assert dead([1.0] + [-1.0] * EVIDENCE, []) == 0.5  # it lives
    assert dead([-1.0] * EVIDENCE, [-1.0]) == 1


def test_a_unit_that_is_active_half_of_the_time_is_never_dead() -> None:
    x = drawn(512, 512)  # 8192 of 262144 values: 16 of each unit
    measured = summarize(x, "relu")
    assert measured.sampled is not None
    assert measured.sampled < 16.1 * 512
    assert measured.saturated == pytest.approx(0.5, abs=0.02)
    assert measured.dead == 0


# What is not read off the values alone.


def test_the_gradient_of_a_sample() -> None:
    """A norm of n of N values, scaled by √(N/n); squares of tiny values do not underflow."""
    values = np.zeros(4, dtype=np.float32)
    gradient = np.array([3e-30, 4e-30, 0, 0], dtype=np.float32)
    found = columns_of([7], [Sample(values, 4, gradient=gradient, gradient_count=36)])
    assert found.values["gradient"][0] == pytest.approx(15e-30, rel=1e-6)
    assert found.probes.tolist() == [7]
    without = columns_of([7], [Sample(values, 4)])
    assert math.isnan(without.values["gradient"][0])


def test_the_norm_and_the_update_of_weights() -> None:
    after = np.array([3.0, -4.0], dtype=np.float32)
    before = np.array([3.5, -4.0], dtype=np.float32)
    found = columns_of([0], [Sample(after, 8, before=before, normed=True)]).values
    assert found["norm"][0] == pytest.approx(5 * math.sqrt(8 / 2), rel=1e-7)
    assert found["update"][0] == pytest.approx(0.5 / 5, rel=1e-7)
    zeros = np.zeros(2, dtype=np.float32)
    none = columns_of([0], [Sample(zeros, 2, before=before, normed=True)]).values
    assert none["norm"][0] == 0
    assert math.isnan(none["update"][0])


def test_many_at_once_as_one_by_one() -> None:
    """Signals of one length are computed together: none takes part in another's numbers."""
    holed = drawn(4, 25)
    holed[1, 3], holed[2, 2] = math.nan, math.inf
    signals = [
        *(drawn(100), 50 * drawn(100, seed=1), holed, torch.full((100,), math.nan)),
        *(drawn(33), drawn(100).double(), torch.empty(0), torch.tensor(2.0), 1e30 * drawn(100)),
    ]
    samples = [Sample(x.flatten().numpy(), x.numel()) for x in signals]
    together = columns_of(range(3, 3 + len(signals)), samples).summaries()
    assert list(together) == list(range(3, 3 + len(signals)))
    for x, each in zip(signals, together.values(), strict=True):
        assert same(each, summarize(x), rel=1e-12)


SLOPES = {
    "sigmoid": (torch.sigmoid, 0.018, 0.2),
    "tanh": (torch.tanh, 0.071, 0.2),
    "relu": (torch.relu, 0.0, 1.0),
    "relu6": (F.relu6, 0.0, 1.0),
    "gelu": (F.gelu, 0.028, 0.2),
    "silu": (F.silu, 0.028, 0.2),
    "hardswish": (F.hardswish, 0.0, 0.2),
    "hardsigmoid": (F.hardsigmoid, 0.0, 0.16),
    "hardtanh": (F.hardtanh, 0.0, 1.0),
}
"""Activation → itself, its largest slope in the zone, and one that it reaches outside."""


def test_the_zones_are_of_known_activations() -> None:
    assert set(SATURATION) == set(SLOPES)
    assert set(SATURATION) - set(ACTIVATIONS) == {"hardtanh"}
    x = drawn(100)
    for name in set(SATURATION) & set(ACTIVATIONS):
        torch.testing.assert_close(ACTIVATIONS[name](x), SLOPES[name][0](x))


@pytest.mark.parametrize("activation", SLOPES)
def test_the_slope_in_the_zone_is_as_small_as_documented(activation: str) -> None:
    low, high = SATURATION[activation]
    function, slope, outside_slope = SLOPES[activation]
    x = torch.linspace(-60, 60, 24_001, dtype=torch.float64)  # the zones' ends are among them
    x.requires_grad_()
    (slopes,) = torch.autograd.grad(function(x).sum(), x)
    inside = (x <= low) | (x >= high)
    assert bool(inside.any())
    assert float(slopes[inside].abs().max()) <= slope
    # and outside it the unit still learns
    outside = slopes[(x > low + 0.5) & (x < min(high, 60) - 0.5)].abs()
    assert float(outside.max()) >= outside_slope
