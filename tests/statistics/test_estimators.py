"""The estimators against float64 NumPy, by hand, and in expectation."""

import functools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gammabeta.statistics import Algorithm2, MovingAverage, Pooled
from gammabeta.statistics import moments as moments_module
from gammabeta.statistics.moments import Moments, merge, moments


def batches_of(sizes, seed, shape=(3, 4), mean=0.0, std=1.0):
    rng = np.random.default_rng(seed)
    return [rng.normal(mean, std, (n, *shape)) for n in sizes]


def rows(batch):
    """(n, C, L) → (values of a channel, C)."""
    return np.moveaxis(batch, 1, -1).reshape(-1, batch.shape[1])


def fed(estimator, batches):
    for batch in batches:
        estimator.add(moments(torch.from_numpy(np.ascontiguousarray(batch))))
    return estimator.estimate()


def close(actual, expected, rtol=1e-12):
    # Float64 on both sides: a few hundred roundings of 1e-16 each stay far below 1e-12.
    np.testing.assert_allclose(actual.numpy(), expected, rtol=rtol, atol=1e-13)


@pytest.mark.parametrize("shape", [(3,), (3, 4), (3, 4, 5), (3, 2, 2, 2)])
def test_moments_are_numpys(shape):
    x = batches_of([7], 0, shape, mean=3, std=2)[0]
    measured = moments(torch.from_numpy(x))
    axes = (0, *range(2, x.ndim))
    close(measured.mean, x.mean(axes))
    close(measured.var, x.var(axes))
    assert measured.count == x.size // 3


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_moments_of_a_low_precision_input_are_those_of_its_values(dtype):
    x = (torch.randn(64, 3, 5, generator=torch.Generator().manual_seed(0)) * 300).to(dtype)
    exact = x.double().numpy()
    measured = moments(x)
    assert measured.mean.dtype == measured.var.dtype == torch.float64
    close(measured.mean, exact.mean((0, 2)))
    close(measured.var, exact.var((0, 2)))


def test_moments_far_from_zero_do_not_cancel():
    # The mean is 1e6 σ. E[x²] − E[x]² in float64 would lose 12 of 16 digits; in float32, all.
    x = torch.from_numpy(batches_of([512], 1, (2, 8), mean=1e6, std=1.0)[0])
    exact = x.numpy()
    close(moments(x).var, exact.var((0, 2)), rtol=1e-9)


def test_moments_in_parts_are_moments_of_the_whole(monkeypatch):
    x = torch.from_numpy(batches_of([37], 2, (3, 11), mean=5)[0])
    whole = moments(x)
    monkeypatch.setattr(moments_module, "_CHUNK", 100)  # 3 examples a part, one in the last
    parts = moments(x)
    assert parts.count == whole.count == 37 * 11
    close(parts.mean, whole.mean.numpy())
    close(parts.var, whole.var.numpy())


def test_moments_of_strided_and_expanded_inputs():
    x = torch.from_numpy(batches_of([6], 3, (4, 5, 5))[0])
    for view in (x.to(memory_format=torch.channels_last), x.transpose(0, 1), x[::2, 1:, ::3]):
        exact = view.numpy()
        close(moments(view).mean, exact.mean((0, 2, 3)))
        close(moments(view).var, exact.var((0, 2, 3)))
    expanded = torch.tensor([[1.0], [4.0]], dtype=torch.float64).expand(2, 3)
    close(moments(expanded).mean, [2.5] * 3)


@pytest.mark.parametrize("shape", [(3,), (0, 3), (2, 3, 0), ()])
def test_moments_of_nothing_are_refused(shape):
    with pytest.raises(ValueError, match="x has shape"):
        moments(torch.zeros(shape))


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(1, 9), min_size=1, max_size=6), st.integers(0, 99))
def test_merging_in_any_grouping_is_measuring_together(sizes, seed):
    batches = batches_of(sizes, seed, mean=-2, std=3)
    parts = [moments(torch.from_numpy(batch)) for batch in batches]
    together = np.concatenate([rows(batch) for batch in batches])
    for merged in (functools.reduce(merge, parts), functools.reduce(merge, parts[::-1])):
        assert merged.count == len(together)
        close(merged.mean, together.mean(0))
        close(merged.var, together.var(0))


def test_algorithm_2_for_equal_batches_is_the_papers_line_10():
    batches = batches_of([8] * 5, 4, mean=1)
    mean, var = fed(Algorithm2(), batches)
    m = 8 * 4
    close(mean, np.mean([b.mean((0, 2)) for b in batches], 0))
    close(var, m / (m - 1) * np.mean([b.var((0, 2)) for b in batches], 0))


def test_algorithm_2_weighs_unequal_batches_by_values_and_degrees_of_freedom():
    batches = batches_of([2, 9, 1, 30], 5, mean=1)
    mean, var = fed(Algorithm2(), batches)
    counts = [len(rows(b)) for b in batches]
    close(mean, np.concatenate([rows(b) for b in batches]).mean(0))
    unbiased = [b.var((0, 2), ddof=1) for b in batches]
    close(var, np.average(unbiased, 0, weights=[m - 1 for m in counts]))


def test_a_batch_of_one_value_moves_the_mean_and_not_the_variance():
    estimator = Algorithm2()
    estimator.add(moments(torch.tensor([[0.0], [2.0]])))
    estimator.add(moments(torch.tensor([[7.0]])))
    mean, var = estimator.estimate()
    assert (mean.item(), var.item()) == (3.0, 2.0)


def test_pooled_is_numpy_on_all_samples_whatever_the_cut():
    everything = batches_of([60], 6, mean=4, std=2)[0]
    for sizes in ([60], [20, 40], [1] * 60, [7, 50, 3]):
        mean, var = fed(Pooled(), np.split(everything, np.cumsum(sizes)[:-1]))
        close(mean, rows(everything).mean(0))
        close(var, rows(everything).var(0, ddof=1))


@pytest.mark.parametrize("momentum", [0.1, 0.7, 1.0, None])
def test_the_moving_average_is_torchs(momentum):
    batches = batches_of([5, 8, 3], 7, mean=2)
    norm = torch.nn.BatchNorm1d(3, momentum=momentum, dtype=torch.float64)
    norm.running_mean.copy_(torch.tensor([1.0, -2.0, 3.0]))
    estimator = MovingAverage(norm.running_mean.clone(), norm.running_var.clone(), momentum)
    for batch in batches:
        norm(torch.from_numpy(batch))
    mean, var = fed(estimator, batches)
    close(mean, norm.running_mean.numpy())
    close(var, norm.running_var.numpy())


def test_a_cumulative_average_goes_on_from_the_batches_before():
    estimator = MovingAverage(torch.tensor([6.0]), torch.tensor([1.0]), None, batches=2)
    estimator.add(moments(torch.tensor([[0.0], [0.0]])))
    mean, var = estimator.estimate()  # 6 · 2/3 and 1 · 2/3
    close(mean, [4.0])
    close(var, [2 / 3])


def test_of_one_batch_the_three_agree():
    batch = batches_of([9], 8, mean=3)
    start = torch.zeros(3), torch.ones(3)
    results = [fed(e, batch) for e in (Algorithm2(), Pooled(), MovingAverage(*start, 1.0))]
    for mean, var in results:
        close(mean, rows(batch[0]).mean(0))
        close(var, rows(batch[0]).var(0, ddof=1))


def test_what_cannot_be_estimated_is_refused():
    one = moments(torch.tensor([[7.0]]))
    for estimator in (Algorithm2(), Pooled()):
        with pytest.raises(ValueError, match="variance"):
            estimator.estimate()
        estimator.add(one)
        with pytest.raises(ValueError, match="variance"):
            estimator.estimate()
    with pytest.raises(ValueError, match="1 value"):
        MovingAverage(torch.zeros(1), torch.ones(1), 0.1).add(one)


def test_estimates_are_not_the_estimators_own_tensors():
    for estimator in (Algorithm2(), Pooled(), MovingAverage(torch.zeros(1), torch.ones(1), 0.5)):
        estimator.add(moments(torch.tensor([[0.0], [2.0]])))
        first = [tensor.item() for tensor in estimator.estimate()]
        for tensor in estimator.estimate():
            tensor.fill_(99)
        assert [tensor.item() for tensor in estimator.estimate()] == first


def test_many_batches_far_from_zero_stay_exact():
    # 20,000 batches whose values are 1e8 ± 1: a plain sum of squares would have no digit left.
    estimator, pooled = Algorithm2(), Pooled()
    batch = Moments(2, torch.tensor([1e8]).double(), torch.tensor([1.0]).double())
    for _ in range(20_000):
        estimator.add(batch)
        pooled.add(batch)
    assert estimator.estimate()[0].item() == pooled.estimate()[0].item() == 1e8
    close(estimator.estimate()[1], [2.0])  # 2/(2 − 1) · 1
    close(pooled.estimate()[1], [40_000 / 39_999], rtol=1e-10)


# Biases, by simulation. Each run draws R independent data sets as R channels, so that the mean over
# channels of an estimate estimates its expectation with a standard error of (std over channels)/√R;
# the checks allow five of them. Data sets are fixed by the seed, so a check passes always or never.

RUNS = 20_000


def draws(examples, positions, between, seed):
    """(examples, RUNS, positions), variance 1, of which ``between`` lies between examples."""
    rng = np.random.default_rng(seed)
    own = rng.normal(0, np.sqrt(between), (examples, RUNS, 1))
    return own + rng.normal(0, np.sqrt(1 - between), (examples, RUNS, positions))


def expects(estimate, expected):
    values = estimate.numpy()
    error = values.std() / np.sqrt(RUNS)
    assert abs(values.mean() - expected) < 5 * error
    return error


@pytest.mark.parametrize("estimator", [Algorithm2, Pooled])
def test_independent_values_give_unbiased_estimates(estimator):
    mean, var = fed(estimator(), np.split(draws(9, 1, 0.0, 10), [2, 5]))
    expects(mean, 0.0)
    error = expects(var, 1.0)
    # The same check would catch the biased variance, which is 2/3 or 8/9 of this.
    assert error < 0.01


def test_the_bias_for_values_that_are_alike_is_as_stated():
    n, p, b, rho = 4, 6, 5, 0.5
    batches = np.split(draws(n * b, p, rho, 11), b)
    mean, var = fed(Algorithm2(), batches)
    expects(mean, 0.0)
    error = expects(var, 1 - rho * (p - 1) / (n * p - 1))  # 0.891: far from 1
    assert error < 0.005
    _, var = fed(Pooled(), batches)
    expects(var, 1 - rho * (p - 1) / (n * b * p - 1))  # 0.979


def test_the_moving_average_keeps_a_share_of_its_start():
    momentum, count = 0.2, 6
    start = torch.full((RUNS,), 5.0), torch.full((RUNS,), 9.0)
    estimator = MovingAverage(*start, momentum)
    mean, var = fed(estimator, np.split(draws(4 * count, 1, 0.0, 12), count))
    left = (1 - momentum) ** count
    expects(mean, 5.0 * left)
    expects(var, 1 + (9.0 - 1) * left)
