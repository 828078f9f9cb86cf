"""Synchronized batch normalization with the activation of the layer it was made from."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from gammabeta.layers.epilogue import Epilogue, check_residual, without_tensor
from gammabeta.ops.torch.norms import finish


class SyncBatchNormActivation(Epilogue, nn.SyncBatchNorm):
    """Return ``activation(sync_batch_norm(input) + residual)``.

    ``nn.SyncBatchNorm.convert_sync_batchnorm`` makes it of a batch norm with ``activation=``.
    Arguments, parameters and buffers are `torch.nn.SyncBatchNorm`'s.

    Args:
        arguments: `torch.nn.SyncBatchNorm`'s.
        activation: a name as in `BatchNorm1d`, or None.
        options: `torch.nn.SyncBatchNorm`'s.

    Example:
        >>> import torch
        >>> layer = SyncBatchNormActivation(3, activation="relu").eval()
        >>> bool((layer(torch.randn(8, 3)) >= 0).all())
        True
    """

    def __init__(self, *arguments: Any, activation: str | None = None, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._set_activation(activation)

    def forward(self, input: Tensor, residual: Tensor | None = None) -> Tensor:
        """Return the output for (N, C, ...)."""
        if not isinstance(input, Tensor):
            proxied: Tensor = without_tensor(self, input, residual)
            return proxied
        check_residual(input, residual)
        return finish(super().forward(input), self.activation, residual)
