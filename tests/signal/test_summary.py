"""What is measured of a signal, against numpy in float64 and counts done by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from gammabeta.ops.activations import ACTIVATIONS
from gammabeta.signal import axis, summary
from gammabeta.signal.summary import SATURATION, Summary, saturation, summarize


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def agrees_with_numpy(measured: Summary, x: Tensor) -> None:
    """Every field, from the float64 values of x, none sampled away."""
    values = x.double().numpy().ravel()
    finite = values[np.isfinite(values)]
    # Float64 throughout: 1e-12 relative to the largest value is the rounding of a sum of 1e4.
    near = {"rel": 1e-12, "abs": 1e-12 * float(np.abs(finite).max())}
    assert measured.count == values.size
    assert measured.nonfinite == values.size - finite.size
    assert measured.mean == pytest.approx(finite.mean(), **near)
    assert measured.std == pytest.approx(finite.std(), **near)
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


X = drawn(64, 50)
SIGNALS = {
    "normal": X,
    "wide": 200 * X,
    "narrow": 1e-6 * X,
    "far from zero": 1e6 + X,  # mean 1e6 σ: E[x²] − E[x]² would lose every digit in float32
    "far from zero in float64": 1e6 + X.double(),
    "denormal": 1e-40 * X,
    "huge": 1e38 * drawn(64, 50, seed=1).clamp(-3, 3),  # x² overflows float32
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


def test_a_large_signal_is_sampled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(summary, "SAMPLE", 100)
    x = 60 * drawn(1009)  # prime: every stride is coprime to it
    values = x.double().numpy()
    measured = summarize(x)
    sample = values[::11]  # 1009/11 <= 100 < 1009/10
    assert len(sample) <= 100
    # From all values: moments, extremes, counts of what is not finite.
    assert (measured.count, measured.nonfinite) == (1009, 0)
    assert measured.mean == pytest.approx(values.mean(), rel=1e-12)
    assert measured.std == pytest.approx(values.std(), rel=1e-12)
    assert (measured.minimum, measured.maximum) == (values.min(), values.max())
    # From the sample: percentiles and histogram.
    expected = np.percentile(sample, [15, 50, 85])
    assert [measured.p15, measured.p50, measured.p85] == pytest.approx(list(expected), rel=1e-12)
    on_axis = sample[np.abs(sample) <= 100]
    assert measured.histogram.tolist() == (
        np.histogram(on_axis, bins=axis.edges().numpy())[0].tolist()
    )
    assert int(measured.histogram.sum()) + measured.under + measured.over == len(sample)
    assert measured.under == (sample < -100).sum() > 0
    assert measured.over == (sample > 100).sum() > 0


def test_the_sample_is_no_larger_than_promised() -> None:
    for count in (summary.SAMPLE, summary.SAMPLE + 1, 2 * summary.SAMPLE, 3 * summary.SAMPLE - 1):
        measured = summarize(torch.ones(count))
        sampled = int(measured.histogram.sum())
        assert sampled <= summary.SAMPLE
        # At most one value in four fewer: the sample is as large as the limit allows, nearly.
        assert sampled >= summary.SAMPLE // 4
        assert measured.count == count
    assert int(summarize(torch.ones(summary.SAMPLE)).histogram.sum()) == summary.SAMPLE


@pytest.mark.parametrize("shape", [(4096, 256), (64, 64, 16, 16), (3000, 768)], ids=str)
def test_the_sample_takes_every_feature(shape: tuple[int, ...]) -> None:
    """A stride that divides the width would show a few features and hide the others."""
    residue = torch.arange(shape[-1]) % 12
    measured = summarize(residue.float().expand(shape))
    counts = measured.histogram[measured.histogram > 0].double()
    true_share = torch.bincount(residue).double() / shape[-1]
    assert len(counts) == 12
    # As in the whole signal, but for what the last incomplete round leaves over.
    torch.testing.assert_close(counts / counts.sum(), true_share, rtol=0, atol=1e-3)


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


@pytest.mark.parametrize(
    ("activation", "slope"),
    [("sigmoid", 0.018), ("tanh", 0.071), ("relu", 0.0), ("gelu", 0.028), ("silu", 0.028)],
)
def test_the_slope_in_the_zone_is_as_small_as_documented(activation: str, slope: float) -> None:
    low, high = SATURATION[activation]
    assert set(SATURATION) <= set(ACTIVATIONS)
    x = torch.linspace(-60, 60, 24_001, dtype=torch.float64)  # the zones' ends are among them
    x.requires_grad_()
    (slopes,) = torch.autograd.grad(ACTIVATIONS[activation](x).sum(), x)
    inside = (x <= low) | (x >= high)
    assert bool(inside.any())
    assert float(slopes[inside].abs().max()) <= slope
    # and outside it the unit still learns (where relu is not 0, its slope is 1)
    outside = slopes[(x > low + 0.5) & (x < min(high, 60) - 0.5)].abs()
    assert float(outside.max()) > 0.2
