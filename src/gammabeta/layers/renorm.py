"""Batch renormalization over 1, 2 and 3 spatial dims (Ioffe 2017)."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from gammabeta import ops
from gammabeta.layers.allocated import check_allocated
from gammabeta.layers.batch import _FusedBatchNorm
from gammabeta.layers.epilogue import check_residual, without_tensor


class _BatchRenorm(_FusedBatchNorm):
    """Base class of the batch renorms: schedule, forward and moving averages."""

    # An instance of nn.BatchNorm1d/2d/3d, because parameters, buffers and inference are batch
    # norm's: third-party code may freeze it, exempt it from weight decay or fold it into the
    # convolution before it, and is right to. The exception is
    # nn.SyncBatchNorm.convert_sync_batchnorm, which would make it plain batch norm: it raises.

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.01,
        affine: bool = True,
        track_running_stats: bool = True,
        device: Any = None,
        dtype: torch.dtype | None = None,
        *,
        bias: bool = True,
        r_max: float = 3.0,
        d_max: float = 5.0,
        warmup_steps: int = 5_000,
        r_steps: int = 40_000,
        d_steps: int = 25_000,
        activation: str | None = None,
        on_nonfinite: str = "refuse",
    ) -> None:
        if not track_running_stats:
            raise ValueError(
                "track_running_stats=False: batch renormalization corrects towards the running "
                "statistics; give True, or use BatchNorm"
            )
        if not 1 <= r_max < math.inf:
            raise ValueError(f"r_max={r_max}: it bounds r in [1 / r_max, r_max]; give 1 or more")
        if not 0 <= d_max < math.inf:
            raise ValueError(f"d_max={d_max}: it bounds d in [-d_max, d_max]; give 0 or more")
        for name, end in (("r_steps", r_steps), ("d_steps", d_steps)):
            if not 0 <= warmup_steps <= end:
                raise ValueError(
                    f"warmup_steps={warmup_steps}, {name}={end}: the bounds widen from the first "
                    f"step to the second; give 0 <= warmup_steps <= {name}"
                )
        super().__init__(
            num_features,
            eps,
            momentum,
            affine,
            track_running_stats,
            device,
            dtype,
            bias=bias,
            activation=activation,
            on_nonfinite=on_nonfinite,
        )
        self.r_max, self.d_max = r_max, d_max
        self.warmup_steps, self.r_steps, self.d_steps = warmup_steps, r_steps, d_steps

    def limits(self, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
        """Return the bounds r_max and d_max of the next training batch, two scalars."""
        return (
            1 + (self.r_max - 1) * self._progress(self.r_steps, dtype),
            self.d_max * self._progress(self.d_steps, dtype),
        )

    def _progress(self, end: int, dtype: torch.dtype) -> Tensor:
        """Return the progress of the schedule from ``warmup_steps`` (0) to ``end`` (1)."""
        # A tensor, not a number: reading it on the host would wait for the device at every step.
        seen = self._averages()[2]
        if end == self.warmup_steps:
            return (seen >= end).to(dtype)
        return ((seen - self.warmup_steps).to(dtype) / (end - self.warmup_steps)).clamp(0, 1)

    def forward(self, input: Tensor, residual: Tensor | None = None) -> Tensor:
        """Return ``activation(batch_renorm(input) + residual)``.

        Args:
            input: (N, C, ...) as torch's batch norm of the same number of dims takes it.
            residual: added before the activation; has the shape of ``input``.

        Raises:
            ValueError: wrong number of dims or of features, a residual of another shape, or (in
                training) one value per feature.
        """
        if not isinstance(input, Tensor):
            return without_tensor(self, input, residual)
        check_allocated(self, input=input, residual=residual)
        self._check_input_dim(input)  # type: ignore[no-untyped-call]
        check_residual(input, residual)
        self._check_features(input)
        per_feature = input.numel() // max(self.num_features, 1)
        if not self.training or per_feature == 0:  # an empty batch has nothing to average
            return ops.normalize(
                ops.Call(
                    ops.BATCH,
                    input,
                    self.weight,
                    self.bias,
                    self.eps,
                    self.activation,
                    residual,
                    running_mean=self.running_mean,
                    running_var=self.running_var,
                    training=False,
                )
            )
        if per_feature == 1:
            raise ValueError(
                f"input has one value per feature (shape {tuple(input.shape)}), too few for a "
                "batch variance; train on more than one example, or call eval()"
            )
        mean, std, r, d = self.correction(input)
        # γ (x̂ r + d) + β = (γ r) x̂ + (γ d + β): batch norm's own kernel with another γ and β.
        weight = r if self.weight is None else self.weight * r
        bias = d if self.weight is None else self.weight * d
        dtype = self._averages()[0].dtype
        bias = (bias if self.bias is None else bias + self.bias).to(dtype)
        call = ops.Call(
            ops.BATCH, input, weight.to(dtype), bias, self.eps, self.activation, residual
        )
        y = ops.normalize(call)
        self._average(mean, std)
        return y

    @torch.no_grad()  # r and d are constants of the backward pass (stop_gradient)
    def correction(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return μ_B, σ_B = √(σ²_B + ε), r and d for the mini-batch ``x``, each (C,).

        They are float32 or wider; the layer is not changed.
        """
        running_mean, running_var, _ = self._averages()
        exact = torch.promote_types(x.dtype, torch.float32)
        var, mean = torch.var_mean(x.to(exact), (0, *range(2, x.dim())), correction=0)
        std, running_std = (var + self.eps).sqrt(), (running_var.to(exact) + self.eps).sqrt()
        r_max, d_max = self.limits(exact)
        r = (std / running_std).clamp(1 / r_max, r_max)
        d = ((mean - running_mean) / running_std).clamp(-d_max, d_max)
        return mean, std, r, d

    @torch.no_grad()
    def _average(self, mean: Tensor, std: Tensor) -> None:
        """Update the averages of μ_B and σ_B, unless the guard rejects the batch."""
        seen = self._averages()[2]
        running_mean, running_var = self._statistics(True)
        if running_mean is None or running_var is None:
            return
        factor = 1 / (seen + 1).to(mean.dtype) if self.momentum is None else self.momentum
        # The paper averages σ, not σ². Its square less ε is kept, so that evaluation, which
        # divides by √(running_var + ε), divides by exactly the averaged σ.
        running_std = (running_var.to(std.dtype) + self.eps).sqrt()
        moved_std = running_std + factor * (std - running_std)
        # By ``.data``, as torch's own update: the version counters stay, so that a backward pass
        # through an earlier evaluation still runs.
        running_mean.data.copy_(running_mean + factor * (mean - running_mean))
        running_var.data.copy_((moved_std**2 - self.eps).clamp(min=0))
        self._commit(running_mean, running_var, seen)

    def _averages(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return running mean, running variance and count, which this layer always has."""
        mean, var, seen = self.running_mean, self.running_var, self.num_batches_tracked
        if mean is None or var is None or seen is None:
            raise TypeError(
                "running_mean, running_var or num_batches_tracked was set to None; the correction "
                "needs them"
            )
        return mean, var, seen

    def extra_repr(self) -> str:
        """Batch norm's description, and the bounds."""
        return f"{super().extra_repr()}, r_max={self.r_max}, d_max={self.d_max}"


class BatchRenorm1d(_BatchRenorm, nn.BatchNorm1d):
    r"""Batch renormalization of (N, C) or (N, C, L), with an optional residual and activation.

    In training ``y = activation(γ · ((x − μ_B) / σ_B · r + d) + β + residual)`` with
    ``r = clip(σ_B / σ, 1/r_max, r_max)`` and ``d = clip((μ_B − μ) / σ, −d_max, d_max)``, both
    constants of the backward pass. Unclipped, that is ``γ · (x − μ) / σ + β``: what evaluation
    computes, whatever the rest of the batch. μ_B, σ_B = √(σ²_B + ε) are the mini-batch's; μ, σ
    their moving averages before this batch.

    **Schedule.** The bounds are 1 and 0 (plain batch norm) for the first ``warmup_steps`` training
    batches, then widen linearly, r's until batch ``r_steps`` and d's until batch ``d_steps``.
    ``num_batches_tracked`` counts, so a checkpoint resumes the schedule, and
    ``reset_running_stats`` restarts it, because the running statistics start again too.

    It is a `torch.nn.BatchNorm1d`: same parameters, buffers, ``state_dict`` and evaluation.

    Args:
        num_features: C.
        eps: ε, added to the variance.
        momentum: α, weight of the newest batch in the moving averages; None for a cumulative one.
        affine: whether γ and β are learned.
        track_running_stats: must be True; exists for compatibility with batch norm's signature.
        device: of parameters and buffers.
        dtype: of parameters and buffers.
        bias: whether the layer has a β.
        r_max: final bound of r, 1 or more.
        d_max: final bound of d, 0 or more.
        warmup_steps: training batches of plain batch norm.
        r_steps: training batch at which r's bound is ``r_max``.
        d_steps: training batch at which d's bound is ``d_max``.
        activation: a name as in `BatchNorm1d`, or None.
        on_nonfinite: how to handle a non-finite batch, as in `BatchNorm1d`.

    Raises:
        ValueError: an argument outside the ranges above; ``track_running_stats=False``.

    Numerics:
        As in the paper, σ is the average of σ_B, which uses the biased variance; ``running_var``
        holds σ² − ε. Torch's batch norm instead averages the unbiased variance, so the two
        layers' ``running_var`` differ by about m/(m − 1): with small batches that factor is what
        would make r differ from 1 for no reason. r, d and the averages are computed in float32
        or wider. A batch is a training forward pass: with gradient accumulation the schedule
        counts micro-batches. A batch with a NaN or infinity changes neither averages nor schedule.

    Source:
        Ioffe 2017, arXiv:1702.03275, Algorithm 1. The bounds 3 and 5, reached at 40k and 25k
        steps after 5k steps of batch norm, are those of the paper's ImageNet experiment as four
        independent public implementations give them (chainer's pull request 2302 among them);
        α = 0.01 is what TensorFlow's default ``renorm_momentum`` of 0.99 says; ε is torch's. So
        long a schedule suits a run as long as that: scale it to yours.

    Example:
        >>> layer = BatchRenorm1d(3, warmup_steps=0, r_steps=0, d_steps=0)
        >>> x = torch.randn(8, 3)
        >>> evaluated = layer.eval()(x)
        >>> torch.allclose(layer.train()(x), evaluated, atol=1e-6)
        True
    """


class BatchRenorm2d(_BatchRenorm, nn.BatchNorm2d):
    r"""Batch renormalization of (N, C, H, W), with an optional residual and activation.

    Each feature map has one μ, σ, r, d, γ and β, over batch and positions. Arguments, formula and
    numerics are those of `BatchRenorm1d`; it is a `torch.nn.BatchNorm2d`.

    Example:
        >>> layer = BatchRenorm2d(4, warmup_steps=10, r_steps=20, d_steps=20)
        >>> layer(torch.randn(2, 4, 5, 5)).shape, [float(v) for v in layer.limits()]
        (torch.Size([2, 4, 5, 5]), [1.0, 0.0])
    """


class BatchRenorm3d(_BatchRenorm, nn.BatchNorm3d):
    r"""Batch renormalization of (N, C, D, H, W), with an optional residual and activation.

    Arguments, formula and numerics are those of `BatchRenorm1d`; it is a `torch.nn.BatchNorm3d`.

    Example:
        >>> BatchRenorm3d(4)(torch.randn(2, 4, 3, 5, 5)).shape
        torch.Size([2, 4, 3, 5, 5])
    """
