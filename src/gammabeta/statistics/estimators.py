"""Population statistics: three estimators of the mean and variance a batch norm uses in evaluation.

Each estimator takes the `Moments` of one mini-batch after another and estimates,
per channel, the population's mean E[x] and variance Var[x]. Below, mini-batch b has m_b values a
channel (for a convolution: examples × positions), mean μ_b and biased variance σ²_b (divisor m_b);
B mini-batches have M = Σ m_b values. All arithmetic is float64.

=================  ======================================  =====================================
estimator          E[x]                                    Var[x]
=================  ======================================  =====================================
`Algorithm2`       Σ m_b μ_b / M                           Σ m_b σ²_b / Σ (m_b − 1)
`Pooled`           Σ m_b μ_b / M                           Σ m_b (σ²_b + (μ_b − E[x])²) / (M − 1)
`MovingAverage`    (1 − α) E[x] + α μ_b, batch after       (1 − α) Var[x] + α m_b/(m_b − 1) σ²_b
                   batch
=================  ======================================  =====================================

Fed one batch only, `Algorithm2`, `Pooled` and `MovingAverage` with α = 1 agree.
"""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from gammabeta.statistics.moments import Moments, merge, where_float64_is

METHODS = ("algorithm2", "pooled", "moving_average")
"""What `gammabeta.calibrate` calls `Algorithm2`, `Pooled` and `MovingAverage`."""


class Estimator(Protocol):
    """What the three estimators have in common."""

    @property
    def batches(self) -> int:
        """Mini-batches taken so far, B."""

    @property
    def values(self) -> int:
        """Values a channel has had so far, M."""

    def add(self, batch: Moments) -> None:
        """Take one mini-batch more."""

    def estimate(self) -> tuple[Tensor, Tensor]:
        """Return E[x] and Var[x], (C,) float64, of the mini-batches taken so far."""


class Algorithm2:
    """The paper's estimator: the mean of batch means, and of batch variances times m/(m − 1).

    ``E[x] = Σ m_b μ_b / M``, ``Var[x] = Σ m_b σ²_b / Σ (m_b − 1)``: a batch's mean weighs as many
    values as it has, its unbiased variance as many degrees of freedom. For batches of one size m
    this is the paper's E[x] = 1/B Σ μ_b, Var[x] = m/(m−1) · 1/B Σ σ²_b; the paper leaves unequal
    batches open, and these weights keep both estimates unbiased with the least variance.

    Bias:
        None, in mean and variance, if the values are independent. If values of one batch are
        alike (the positions of one image), E[x] is still unbiased but Var[x] is too small: it
        sees the spread within batches only, and batch means spread by more than σ²/m. With n
        examples of p values a batch and a share ρ of σ² between examples, its expectation is
        σ² (1 − ρ (p − 1)/(np − 1)), about σ² (1 − ρ/n), however many batches there are.

    Source:
        Ioffe & Szegedy 2015, arXiv:1502.03167, Algorithm 2, line 10.

    Example:
        >>> import torch
        >>> from gammabeta.statistics.moments import moments
        >>> estimator = Algorithm2()
        >>> estimator.add(moments(torch.tensor([[0.0], [2.0]])))  # μ = 1, σ² = 1
        >>> estimator.add(moments(torch.tensor([[4.0], [8.0]])))  # μ = 6, σ² = 4
        >>> mean, var = estimator.estimate()  # (1 + 6)/2 and 2/(2 − 1) · (1 + 4)/2
        >>> mean.item(), var.item()
        (3.5, 5.0)
    """

    def __init__(self) -> None:
        self.batches = 0
        self.values = 0
        self._mean: Tensor | None = None
        self._squares: Tensor | None = None  # Σ m_b σ²_b

    def add(self, batch: Moments) -> None:
        """Take one mini-batch more."""
        self.batches += 1
        self.values += batch.count
        if self._mean is None or self._squares is None:
            self._mean, self._squares = batch.mean.clone(), batch.var * batch.count
            return
        self._mean += (batch.mean - self._mean) * (batch.count / self.values)
        self._squares += batch.var * batch.count

    def estimate(self) -> tuple[Tensor, Tensor]:
        """Return E[x] and Var[x], (C,) float64.

        Raises:
            ValueError: no batch had two values, so that nothing is known of the variance.
        """
        freedom = self.values - self.batches
        if self._mean is None or self._squares is None or freedom < 1:
            raise ValueError(
                f"{self.batches} batches have {self.values} values per channel in total; a "
                "variance within batches needs one batch of 2 values or more"
            )
        return self._mean.clone(), self._squares / freedom


class Pooled:
    """The estimator over all samples at once, as if they had been one batch.

    ``E[x] = Σ m_b μ_b / M``, ``Var[x] = Σ m_b (σ²_b + (μ_b − E[x])²) / (M − 1)``, whatever the
    cut into batches.

    Bias:
        None, in mean and variance, if the values are independent. If values of one example are
        alike, Var[x] has the expectation given for `Algorithm2` with n now the number of all
        examples, so its bias vanishes with more batches. In a deep network it also counts how far
        the mini-batch statistics of the layers below move batch means, which evaluation does not
        have.

    Source:
        Wu & Johnson 2021, arXiv:2105.07576, section 3 ("PreciseBN"), with divisor M − 1, as
        torch's ``running_var`` has it.

    Example:
        >>> import torch
        >>> from gammabeta.statistics.moments import moments
        >>> estimator = Pooled()
        >>> estimator.add(moments(torch.tensor([[0.0], [2.0]])))
        >>> estimator.add(moments(torch.tensor([[4.0], [8.0]])))
        >>> mean, var = estimator.estimate()
        >>> mean.item(), var.item() == torch.tensor([0.0, 2, 4, 8]).double().var().item()
        (3.5, True)
    """

    def __init__(self) -> None:
        self.batches = 0
        self._all: Moments | None = None

    @property
    def values(self) -> int:
        """Values a channel has had so far, M."""
        return 0 if self._all is None else self._all.count

    def add(self, batch: Moments) -> None:
        """Take one mini-batch more."""
        self.batches += 1
        self._all = batch if self._all is None else merge(self._all, batch)

    def estimate(self) -> tuple[Tensor, Tensor]:
        """Return E[x] and Var[x], (C,) float64.

        Raises:
            ValueError: fewer than two values in all.
        """
        if self._all is None or self._all.count < 2:
            raise ValueError(
                f"{self.values} values per channel in total; a variance needs 2 or more"
            )
        count = self._all.count
        return self._all.mean.clone(), self._all.var * (count / (count - 1))


class MovingAverage:
    """The training-time stand-in: each batch replaces a share α of what is known.

    ``E[x] ← (1 − α) E[x] + α μ_b``, ``Var[x] ← (1 − α) Var[x] + α m_b/(m_b − 1) σ²_b``: torch's
    rule, in float64. ``momentum=None`` is torch's cumulative average, α = 1/t at the t-th batch.

    Args:
        mean: E[x] before the first batch, (C,).
        var: Var[x] before the first batch, (C,).
        momentum: α, or None.
        batches: t before the first batch; read for ``momentum=None`` only.

    Bias:
        After B batches (1 − α)^B of what it started from is left: its expectation is
        E[x] + (1 − α)^B (start − E[x]), and so for the variance, whose terms are those of
        `Algorithm2` and miss what that misses. It averages over about 2/α − 1 batches however
        many it is given, so its own spread does not vanish.

    Source:
        Ioffe & Szegedy 2015, arXiv:1502.03167, section 3.1, last paragraph; torch's
        ``momentum``.

    Example:
        >>> import torch
        >>> from gammabeta.statistics.moments import moments
        >>> estimator = MovingAverage(torch.zeros(1), torch.ones(1), momentum=0.5)
        >>> estimator.add(moments(torch.tensor([[4.0], [8.0]])))  # μ = 6, unbiased variance 8
        >>> mean, var = estimator.estimate()
        >>> mean.item(), var.item()
        (3.0, 4.5)
    """

    def __init__(self, mean: Tensor, var: Tensor, momentum: float | None, batches: int = 0) -> None:
        self.batches = 0
        self.values = 0
        self._mean, self._var = where_float64_is(mean).double(), where_float64_is(var).double()
        self._momentum = momentum
        self._before = batches

    def add(self, batch: Moments) -> None:
        """Take one mini-batch more.

        Raises:
            ValueError: the batch has one value a channel, whose variance says nothing.
        """
        if batch.count < 2:
            raise ValueError("a batch has 1 value per channel; its variance needs 2 or more")
        self.batches += 1
        self.values += batch.count
        share = self._momentum
        if share is None:
            share = 1 / (self._before + self.batches)
        unbiased = batch.var * (batch.count / (batch.count - 1))
        self._mean = (1 - share) * self._mean + share * batch.mean
        self._var = (1 - share) * self._var + share * unbiased

    def estimate(self) -> tuple[Tensor, Tensor]:
        """Return E[x] and Var[x], (C,) float64."""
        return self._mean.clone(), self._var.clone()
