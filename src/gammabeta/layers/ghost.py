"""Ghost batch normalization: statistics over virtual batches (Hoffer, Hubara & Soudry 2017)."""

from __future__ import annotations

from typing import Any, SupportsIndex

import torch
from torch import Tensor, nn

from gammabeta.layers.allocated import check_allocated
from gammabeta.layers.batch import _FusedBatchNorm
from gammabeta.layers.epilogue import check_residual, without_tensor


class _GhostBatchNorm(_FusedBatchNorm):
    """Base class of the ghost batch norms: split the batch, normalize each part."""

    # An instance of nn.BatchNorm1d/2d/3d: it is batch norm, called on parts of the batch, so
    # whatever third-party code does to a batch norm (freeze, fold, exempt from weight decay,
    # recompute statistics) is right for it. The exception is
    # nn.SyncBatchNorm.convert_sync_batchnorm, which makes the batch larger, not smaller: it raises.

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
        virtual_batch_size: int = 32,
        activation: str | None = None,
        on_nonfinite: str = "refuse",
    ) -> None:
        if not isinstance(virtual_batch_size, SupportsIndex) or virtual_batch_size < 1:
            raise ValueError(
                f"virtual_batch_size={virtual_batch_size!r}: a virtual batch has at least one "
                "example; give 1 or more, a whole number"
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
        self.virtual_batch_size = virtual_batch_size

    def virtual_batches(self, batch_size: int) -> list[int]:
        """Return how many examples each virtual batch of a batch of ``batch_size`` has.

        Their number is the least that keeps each within ``virtual_batch_size``, and they differ by
        one example at most. None is a single example, unless ``virtual_batch_size`` or the batch
        is 1: where a split would leave one alone, it joins another.
        """
        number = -(-batch_size // self.virtual_batch_size)
        if self.virtual_batch_size > 1:
            number = min(number, batch_size // 2)
        number = max(number, 1)
        size, larger = divmod(batch_size, number)
        return [size + 1] * larger + [size] * (number - larger)

    def forward(self, input: Tensor, residual: Tensor | None = None) -> Tensor:
        """Return ``activation(ghost_batch_norm(input) + residual)``.

        Args:
            input: (N, C, ...) as torch's batch norm of the same number of dims takes it.
            residual: added before the activation; has the shape of ``input``.

        Raises:
            ValueError: wrong number of dims or of features, a residual of another shape, or (in
                training) a virtual batch with one value per feature.
        """
        if not isinstance(input, Tensor):
            return without_tensor(self, input, residual)
        check_allocated(self, input=input, residual=residual)
        if not self.training and self.running_mean is not None:
            return super().forward(input, residual)
        # Complete all checks before the first virtual batch updates the running statistics.
        self._check_input_dim(input)  # type: ignore[no-untyped-call]
        check_residual(input, residual)
        self._check_features(input)
        sizes = self.virtual_batches(input.shape[0])
        if len(sizes) == 1:
            return super().forward(input, residual)
        if self.training and sizes[-1] * input[0, 0].numel() == 1:
            raise ValueError(
                f"virtual_batch_size={self.virtual_batch_size} leaves one value per feature of "
                f"input (shape {tuple(input.shape)}), too few for a variance; give 2 or more"
            )
        residuals = [None] * len(sizes) if residual is None else torch.split(residual, sizes)
        buffers = list(self.buffers(recurse=False)) if self.training else []
        before = [buffer.clone() for buffer in buffers]
        try:
            return torch.cat(
                [
                    super(_GhostBatchNorm, self).forward(part, part_residual)
                    for part, part_residual in zip(
                        torch.split(input, sizes), residuals, strict=True
                    )
                ]
            )
        except BaseException:  # earlier virtual batches have already updated the averages
            for buffer, value in zip(buffers, before, strict=True):
                buffer.data.copy_(value)
            raise

    def mini_batches(self, input: Tensor, residual: Tensor | None = None) -> list[Tensor]:
        """Return the tensors whose statistics a call uses, for `gammabeta.calibrate`."""
        return list(torch.split(input, self.virtual_batches(input.shape[0])))

    def extra_repr(self) -> str:
        """Batch norm's description, and the virtual batch size."""
        return f"{super().extra_repr()}, virtual_batch_size={self.virtual_batch_size}"


class GhostBatchNorm1d(_GhostBatchNorm, nn.BatchNorm1d):
    r"""Ghost batch normalization of (N, C) or (N, C, L), with optional residual and activation.

    ``y = activation(γ · (x − μ_v) / √(σ²_v + ε) + β + residual)``, where μ_v and σ²_v are, in
    training, the mean and biased variance of the *virtual batch* v that the example is in: the
    batch is cut into runs of at most ``virtual_batch_size`` consecutive examples. Evaluation is
    batch norm's, with running averages; so is everything when one virtual batch holds the batch.

    It is a `torch.nn.BatchNorm1d`: same parameters, buffers and ``state_dict``.

    Args:
        num_features: C.
        eps: ε, added to the variance.
        momentum: weight of the newest *virtual* batch in the running averages; None for a
            cumulative one.
        affine: whether γ and β are learned.
        track_running_stats: whether to maintain running averages; if not, evaluation also uses
            virtual batches.
        device: of parameters and buffers.
        dtype: of parameters and buffers.
        bias: whether the layer has a β.
        virtual_batch_size: most examples in a virtual batch. A batch that it does not divide is
            split as evenly as possible (33 at 32 is 17 + 16, not 32 + 1); see `virtual_batches`.
        activation: a name as in `BatchNorm1d`, or None.
        on_nonfinite: how to handle a non-finite batch, as in `BatchNorm1d`.

    Raises:
        ValueError: ``virtual_batch_size`` below 1; unknown ``activation``.

    Numerics:
        Each virtual batch in turn updates the running averages, with the weights of Algorithm 1 of
        the paper. With k virtual batches per step the averages forget k times faster; lower
        ``momentum`` accordingly if that matters. ``num_batches_tracked`` counts virtual batches.
        Each ``running_var`` term is unbiased (divisor n − 1), so smaller virtual batches do not
        shrink it.

    Source:
        Hoffer, Hubara & Soudry 2017, arXiv:1705.08741, Algorithm 1; their code's virtual batch is
        128 of 2048 examples, each a forward pass of its own. As a regularizer for ordinary
        batches (Summers & Dinneen 2020, arXiv:1906.03548) smaller ones are usual: the default 32
        is that of the public library composer.

    Example:
        >>> layer = GhostBatchNorm1d(3, virtual_batch_size=4)
        >>> y = layer(torch.randn(8, 3))
        >>> bool(y[:4].mean(0).abs().max() < 1e-5), layer.virtual_batches(9)
        (True, [3, 3, 3])
    """


class GhostBatchNorm2d(_GhostBatchNorm, nn.BatchNorm2d):
    r"""Ghost batch normalization of (N, C, H, W), with an optional residual and activation.

    Statistics over the examples of a virtual batch and all positions; with
    ``virtual_batch_size=1`` that is instance norm in training. Arguments, formula and numerics
    are those of `GhostBatchNorm1d`; it is a `torch.nn.BatchNorm2d`.

    Example:
        >>> GhostBatchNorm2d(4, virtual_batch_size=2)(torch.randn(4, 4, 5, 5)).shape
        torch.Size([4, 4, 5, 5])
    """


class GhostBatchNorm3d(_GhostBatchNorm, nn.BatchNorm3d):
    r"""Ghost batch normalization of (N, C, D, H, W), with an optional residual and activation.

    Arguments, formula and numerics are those of `GhostBatchNorm1d`; it is a
    `torch.nn.BatchNorm3d`.

    Example:
        >>> GhostBatchNorm3d(4, virtual_batch_size=2)(torch.randn(4, 4, 3, 5, 5)).shape
        torch.Size([4, 4, 3, 5, 5])
    """
