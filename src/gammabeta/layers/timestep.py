"""Batch normalization with separate statistics for each timestep (Cooijmans et al. 2016)."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from gammabeta.layers.guard import Guarded


class Statistics(NamedTuple):
    """What one or several timesteps of a training batch give to the running averages.

    Attributes:
        mean: (T, C).
        var: unbiased, (T, C).
        enters: (T,) bool: of a batch, whether the timestep had two sequences; of the averages
            after it, whether they are finite too.
    """

    mean: Tensor
    var: Tensor
    enters: Tensor


class TimestepBatchNorm(Guarded):
    """Batch norm of (T, N, C) over N: γ and β shared by all timesteps, statistics by none.

    ``y_t = γ · (z_t − μ_t) / √(σ²_t + ε) + β``. The last timestep trained stands for all later
    ones. A part of `RecurrentBatchNormLSTM`, which says how to use it.

    Args:
        num_features: C.
        max_length: timesteps that have running statistics of their own.
        eps: ε, added to the variance.
        momentum: weight of the newest batch in the running averages; None for cumulative ones.
        gamma: γ at first.
        bias: whether there is a β.
        device: of parameters and buffers.
        dtype: of parameters and buffers.
        on_nonfinite: as in `BatchNorm1d`; what does not enter is the timestep, and what is counted
            is the batch.
    """

    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor

    def __init__(
        self,
        num_features: int,
        max_length: int,
        eps: float,
        momentum: float | None,
        gamma: float,
        bias: bool,
        device: Any = None,
        dtype: torch.dtype | None = None,
        on_nonfinite: str = "refuse",
    ) -> None:
        super().__init__()
        self.num_features, self.max_length = num_features, max_length
        self.eps, self.momentum, self.gamma = eps, momentum, gamma
        self.weight = nn.Parameter(torch.empty(num_features, device=device, dtype=dtype))
        self.bias = (
            nn.Parameter(torch.empty(num_features, device=device, dtype=dtype)) if bias else None
        )
        shape = (max_length, num_features)
        self.register_buffer("running_mean", torch.empty(shape, device=device, dtype=dtype))
        self.register_buffer("running_var", torch.empty(shape, device=device, dtype=dtype))
        self.register_buffer(
            "num_batches_tracked", torch.zeros(max_length, dtype=torch.long, device=device)
        )
        self.reset_parameters()
        self._set_on_nonfinite(on_nonfinite)

    def reset_running_stats(self) -> None:
        """Forget the running averages: mean 0, variance 1, no batches, none refused."""
        self.running_mean.zero_()
        self.running_var.fill_(1)
        self.num_batches_tracked.zero_()
        self._forget()

    def reset_parameters(self) -> None:
        """Forget the running averages; set γ to its first value and β to 0."""
        self.reset_running_stats()
        nn.init.constant_(self.weight, self.gamma)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def population(self, length: int) -> tuple[Tensor, Tensor]:
        """Return the running mean and variance of timesteps 0 … length − 1, each (length, C)."""
        steps = torch.arange(self.max_length, device=self.running_mean.device)
        # The last timestep that was trained, which need not be the last there is room for.
        last = torch.where(self.num_batches_tracked > 0, steps, 0).amax(0)
        used = torch.arange(length, device=steps.device).clamp(max=last)
        return self.running_mean[used], self.running_var[used]

    def forward(
        self, z: Tensor, mean: Tensor, var: Tensor, live: Tensor | None = None
    ) -> tuple[Tensor, Statistics | None]:
        """Normalize some timesteps.

        Args:
            z: (T, N, C).
            mean: the running mean of these timesteps, (T, C): `population`, sliced.
            var: their running variance, (T, C).
            live: (T, N) bool, False where a sequence has ended; None for True everywhere.

        Returns:
            y, shaped as z and in its dtype, and in training what these timesteps give to the
            running averages.
        """
        exact = z.to(torch.promote_types(z.dtype, torch.float32))
        mean, var = mean.to(exact.dtype).unsqueeze(1), var.to(exact.dtype).unsqueeze(1)
        statistics = None
        if self.training and z.shape[1] > 0:
            if live is None:
                batch_var, batch_mean = torch.var_mean(exact, 1, correction=0, keepdim=True)
                n = torch.full_like(batch_mean[..., :1], z.shape[1])
            else:
                runs = live.unsqueeze(2)
                n = runs.sum(1, keepdim=True)  # (T, 1, 1)
                counted = torch.where(runs, exact, 0)
                batch_mean = counted.sum(1, keepdim=True) / n.clamp(min=1)
                squares = torch.where(runs, exact - batch_mean, 0).square()
                batch_var = squares.sum(1, keepdim=True) / n.clamp(min=1)
            # A sequence that outlives all others has nothing to be averaged with: it is
            # normalized as in evaluation.
            several = n > 1
            mean = torch.where(several, batch_mean, mean)
            var = torch.where(several, batch_var, var)
            statistics = Statistics(
                batch_mean.detach().squeeze(1),
                (batch_var * n / (n - 1).clamp(min=1)).detach().squeeze(1),
                several.expand_as(batch_mean)[:, 0, 0],
            )
        y = (exact - mean) * torch.rsqrt(var + self.eps) * self.weight
        if self.bias is not None:
            y = y + self.bias
        return y.to(z.dtype), statistics

    @torch.no_grad()
    def averages(self, batch: Statistics) -> Statistics:
        """Return the running averages of timesteps 0, 1, … with ``batch``; nothing is changed yet.

        Timesteps past ``max_length`` are dropped. The guard counts a batch that has a timestep
        whose averages would not be finite.

        Raises:
            NonFiniteBatchError: there is one, and ``on_nonfinite="raise"``.
        """
        mean, var, several = (part[: self.max_length] for part in batch)
        length = mean.shape[0]
        factor: float | Tensor = 1.0 if self.momentum is None else self.momentum
        if self.momentum is None:
            factor = 1 / (self.num_batches_tracked[:length] + 1).unsqueeze(1).to(mean.dtype)
        old_mean, old_var = self.running_mean[:length], self.running_var[:length]
        # As the buffers are to hold them: what is finite may overflow in their dtype.
        mean = (old_mean + factor * (mean - old_mean)).to(old_mean.dtype)
        var = (old_var + factor * (var - old_var)).to(old_var.dtype)
        enters = several
        if self._on_guard(mean):
            enters = several & (mean.isfinite() & var.isfinite()).all(1)
            self._judge((enters == several).all())
        return Statistics(mean, var, enters)

    @torch.no_grad()
    def write(self, averages: Statistics) -> None:
        """Make what `averages` returned the running averages."""
        length, enters = len(averages.mean), averages.enters.unsqueeze(1)
        for running, new in (
            (self.running_mean[:length], averages.mean),
            (self.running_var[:length], averages.var),
        ):
            running.copy_(torch.where(enters, new, running))
        self.num_batches_tracked[:length].add_(averages.enters)

    def extra_repr(self) -> str:
        """The arguments, in torch's manner."""
        return (
            f"{self.num_features}, max_length={self.max_length}, eps={self.eps}, "
            f"momentum={self.momentum}"
        )
