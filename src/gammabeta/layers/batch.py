"""Batch normalization over 1, 2 and 3 spatial dims (Ioffe & Szegedy 2015, Algorithms 1 and 2)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from gammabeta import kernels
from gammabeta.layers.epilogue import Epilogue


class _FusedBatchNorm(Epilogue, _BatchNorm):
    """What the three batch norms share: torch's construction, one forward."""

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        device: Any = None,
        dtype: torch.dtype | None = None,
        *,
        bias: bool = True,
        activation: str | None = None,
    ) -> None:
        super().__init__(
            num_features, eps, momentum, affine, track_running_stats, device, dtype, bias=bias
        )
        self._set_activation(activation)

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        """Return ``activation(batch_norm(x) + residual)``.

        Args:
            x: (N, C, ...) as torch's layer of the same name takes it.
            residual: added before the activation; the shape of ``x``.

        Raises:
            ValueError: wrong number of dims, a residual of another shape, or (in training) one
                value per feature, whose variance says nothing.
        """
        self._check_input_dim(x)  # type: ignore[no-untyped-call]
        self._check_residual(x, residual)
        factor = 0.0 if self.momentum is None else self.momentum
        if self.training and self.track_running_stats and self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
            if self.momentum is None:  # cumulative average: the t-th batch weighs 1/t
                factor = 1.0 / float(self.num_batches_tracked)
        # Untracked buffers are neither updated in training nor read: torch's own rule.
        tracked = not self.training or self.track_running_stats
        return kernels.batch_norm(
            x,
            self.running_mean if tracked else None,
            self.running_var if tracked else None,
            self.weight,
            self.bias,
            training=self.training or (self.running_mean is None and self.running_var is None),
            momentum=factor,
            eps=self.eps,
            activation=self.activation,
            residual=residual,
        )


class BatchNorm1d(_FusedBatchNorm, nn.BatchNorm1d):
    r"""Batch normalization of (N, C) or (N, C, L), with an optional residual and activation.

    ``y = activation(γ · (x − μ) / √(σ² + ε) + β + residual)``, where μ and σ² are, per feature,
    the mini-batch's mean and biased variance in training, and running averages in evaluation.

    It is a `torch.nn.BatchNorm1d`: same arguments, parameters, buffers and ``state_dict``.

    Args:
        num_features: C.
        eps: ε, added to the variance.
        momentum: weight of the newest batch in the running averages; None for a cumulative one.
        affine: whether γ and β are learned.
        track_running_stats: whether running averages are kept; if not, evaluation too uses the
            mini-batch.
        device: of parameters and buffers.
        dtype: of parameters and buffers.
        bias: whether there is a β.
        activation: ``"relu"``, ``"leaky_relu"``, ``"silu"``, ``"gelu"``, ``"sigmoid"``,
            ``"tanh"`` or None.

    Raises:
        ValueError: unknown ``activation``.

    Numerics:
        Normalization uses the biased variance (divisor m); ``running_var`` averages the unbiased
        one (divisor m − 1), as in torch.

    Source:
        Ioffe & Szegedy 2015, arXiv:1502.03167, section 3.1.

    Example:
        >>> layer = BatchNorm1d(3, activation="relu")
        >>> y = layer(torch.randn(8, 3), residual=torch.ones(8, 3))
        >>> y.shape, bool((y >= 0).all())
        (torch.Size([8, 3]), True)
    """


class BatchNorm2d(_FusedBatchNorm, nn.BatchNorm2d):
    r"""Batch normalization of (N, C, H, W), with an optional residual and activation.

    One γ and β a feature map; μ and σ² over batch and positions, m = N·H·W (section 3.2 of the
    paper). Arguments, formula and numerics are those of `BatchNorm1d`; it is a
    `torch.nn.BatchNorm2d`.

    Example:
        >>> layer = BatchNorm2d(4, activation="relu")
        >>> x = torch.randn(2, 4, 5, 5)
        >>> layer(x, residual=x).shape
        torch.Size([2, 4, 5, 5])
    """


class BatchNorm3d(_FusedBatchNorm, nn.BatchNorm3d):
    r"""Batch normalization of (N, C, D, H, W), with an optional residual and activation.

    Arguments, formula and numerics are those of `BatchNorm1d`; it is a `torch.nn.BatchNorm3d`.

    Example:
        >>> BatchNorm3d(4)(torch.randn(2, 4, 3, 5, 5)).shape
        torch.Size([2, 4, 3, 5, 5])
    """
