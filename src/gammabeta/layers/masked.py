"""Batch normalization of padded sequences: statistics over the real values only."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from gammabeta.layers.allocated import check_allocated
from gammabeta.layers.batch import _FusedBatchNorm
from gammabeta.layers.epilogue import check_residual, without_tensor
from gammabeta.ops.torch.norms import finish


class MaskedBatchNorm1d(_FusedBatchNorm, nn.BatchNorm1d):
    r"""Batch normalization of (N, C, L) or (N, C) that ignores masked padding.

    ``y = activation(γ · (x − μ) / √(σ² + ε) + β + residual)`` where ``mask`` is True and 0 where
    it is False. μ and σ² are, per feature, the mean and biased variance of the real values of the
    mini-batch in training, and running averages in evaluation. The values of padding, NaN included,
    have no effect on outputs, statistics or gradients.

    It is a `torch.nn.BatchNorm1d`: same arguments, parameters, buffers and ``state_dict``, and
    the same output without a mask or with one that is all True.

    Args:
        num_features: C.
        eps: ε, added to the variance.
        momentum: weight of the newest batch in the running averages; None for a cumulative one.
        affine: whether γ and β are learned.
        track_running_stats: whether to maintain running averages; if not, evaluation also uses
            the mini-batch.
        device: of parameters and buffers.
        dtype: of parameters and buffers.
        bias: whether the layer has a β.
        activation: a name as in `BatchNorm1d`, or None.
        on_nonfinite: how to handle a non-finite batch, as in `BatchNorm1d`.

    Raises:
        ValueError: unknown ``activation``.

    Numerics:
        m, the number of real values of a feature, varies with the mask; every batch weighs the
        same in the running averages, as in torch. ``running_var`` averages the unbiased variance,
        divisor m − 1. A batch with fewer than two real values, or with a NaN or infinity among
        them, does not change the running averages or ``num_batches_tracked``; a single real value
        gives β, and a batch that is all padding gives zeros. Statistics are computed in float32
        or wider from values shifted by a first estimate of the mean.

    Source:
        Algorithm 1 of Ioffe & Szegedy 2015, arXiv:1502.03167, over the real values. That zero
        padding biases mean and variance towards zero is noted by Cooijmans et al. 2016,
        arXiv:1603.09025, section 5.4.

    Example:
        >>> layer = MaskedBatchNorm1d(3)
        >>> lengths = torch.tensor([5, 2])
        >>> mask = torch.arange(5) < lengths[:, None]  # True where a value is real
        >>> x = torch.randn(2, 3, 5).masked_fill(~mask[:, None], float("nan"))
        >>> y = layer(x, mask)
        >>> bool(y.isfinite().all()), int(y[1, :, 2:].count_nonzero())
        (True, 0)
    """

    # The mask belongs to x, so it comes before the residual.
    def forward(  # type: ignore[override]
        self, input: Tensor, mask: Tensor | None = None, residual: Tensor | None = None
    ) -> Tensor:
        """Return ``activation(batch_norm(input) + residual)`` where ``mask`` is True, 0 elsewhere.

        Args:
            input: (N, C, L) or (N, C).
            mask: bool, (N, L) or (N,), True where input is real; None for everywhere.
            residual: added before the activation; has the shape of ``input``.

        Raises:
            TypeError: ``mask`` is not bool.
            ValueError: wrong number of dims or of features, a mask or residual of another shape,
                or (in training) only one value per feature.
        """
        if not isinstance(input, Tensor):
            return without_tensor(self, input, mask, residual)
        if mask is None:
            return super().forward(input, residual)
        check_allocated(self, input=input, mask=mask)
        self._check_input_dim(input)
        check_residual(input, residual)
        self._check_mask(input, mask)
        real = mask.unsqueeze(1)  # (N, 1, L) or (N, 1)
        dims = (0, 2) if input.dim() == 3 else (0,)
        shape = (1, -1, 1) if input.dim() == 3 else (1, -1)
        # Padding is replaced, not multiplied by 0: NaN · 0 is NaN, in the backward pass too.
        values = torch.where(real, input, 0).to(torch.promote_types(input.dtype, torch.float32))
        if self.training or self.running_mean is None or self.running_var is None:
            count = real.sum()
            m = count.clamp(min=1)
            # The shift is a constant that cancels; it keeps the digits of a mean far from 0.
            shift = (values.detach().sum(dims, keepdim=True) / m).detach()
            centred = torch.where(real, values - shift, 0)
            mean = centred.sum(dims, keepdim=True) / m
            centred = torch.where(real, centred - mean, 0)
            var = centred.square().sum(dims, keepdim=True) / m
            if self.training and self.track_running_stats:
                self._average((shift + mean).flatten(), var.flatten(), count)
        else:
            var = self.running_var.view(shape).to(values.dtype)
            centred = torch.where(real, values - self.running_mean.view(shape), 0)
        y = centred * torch.rsqrt(var + self.eps)
        if self.weight is not None:
            y = y * self.weight.view(shape)
        if self.bias is not None:
            y = y + self.bias.view(shape)
        if residual is not None:
            residual = torch.where(real, residual, 0)
        return torch.where(real, finish(y.to(input.dtype), self.activation, residual), 0)

    def mini_batches(
        self, input: Tensor, mask: Tensor | None = None, residual: Tensor | None = None
    ) -> list[Tensor]:
        """Return the real values that a call normalizes, for `gammabeta.calibrate`."""
        if mask is None:
            return [input]
        real = input.movedim(1, -1)[mask]
        return [real] if len(real) > 1 else []  # as in training, a variance needs two values

    def _check_mask(self, input: Tensor, mask: Tensor) -> None:
        """Raise unless ``mask`` has one bool for each position of ``input``."""
        if not isinstance(mask, Tensor):
            raise TypeError(f"mask is a {type(mask).__name__}; give a bool tensor")
        if mask.dtype != torch.bool:
            raise TypeError(
                f"mask has dtype {mask.dtype}; give bool, True where input is real, such as "
                "mask.bool()"
            )
        expected = (input.shape[0], *input.shape[2:])
        if tuple(mask.shape) != expected:
            raise ValueError(
                f"mask has shape {tuple(mask.shape)}; input of shape {tuple(input.shape)} needs "
                f"{expected}"
            )
        self._check_features(input)
        if self.training and mask.numel() == 1:
            raise ValueError(
                f"input has one value per feature (shape {tuple(input.shape)}), too few for a "
                "batch variance; train on more than one value, or call eval()"
            )

    @torch.no_grad()
    def _average(self, mean: Tensor, var: Tensor, count: Tensor) -> None:
        """Update the running averages if there are two values and the result is finite."""
        running_mean, running_var = self._statistics(True)
        seen = self.num_batches_tracked
        if running_mean is None or running_var is None or seen is None:
            return
        # Decided on the device: reading the count on the host would wait for it at every step.
        several = count > 1
        factor = 1 / (seen + 1).to(mean.dtype) if self.momentum is None else self.momentum
        unbiased = var * count / (count - 1).clamp(min=1)
        running_mean.add_(torch.where(several, factor * (mean - running_mean), 0.0))
        running_var.add_(torch.where(several, factor * (unbiased - running_var), 0.0))
        before = seen.clone()
        self._commit(running_mean, running_var, seen)
        seen.copy_(torch.where(several, seen, before))  # a batch of one value has changed nothing
