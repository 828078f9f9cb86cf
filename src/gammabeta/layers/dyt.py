"""Dynamic tanh: a replacement for layer norm without statistics (Zhu et al. 2025)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from gammabeta.layers.allocated import check_allocated
from gammabeta.layers.epilogue import Epilogue, check_residual, without_tensor
from gammabeta.ops.torch.norms import finish


class DynamicTanh(Epilogue):
    r"""Dynamic tanh over the last dims, with an optional residual and activation.

    ``y = activation(γ · tanh(α x) + β + residual)``, elementwise: one learned α for the layer, γ
    and β shaped ``normalized_shape``. It has no statistics, so it is the same in training and
    evaluation and couples neither examples nor features; what it shares with `LayerNorm`, whose
    place and arguments it takes, is that it squashes extreme values.

    Args:
        normalized_shape: the sizes of the last dims of x; an int for one dim.
        alpha: initial α. The paper's 0.5 suits models other than large language models; there
            it sets larger values before attention than elsewhere, smaller ones for wider models.
        elementwise_affine: whether γ and β are learned.
        bias: whether the layer has a β.
        device: of the parameters.
        dtype: of the parameters.
        activation: a name as in `BatchNorm1d`, or None.

    Raises:
        ValueError: empty ``normalized_shape``, ``alpha`` not above 0, unknown ``activation``; in
            ``forward``, last dims other than ``normalized_shape`` or a residual not shaped as x.

    Numerics:
        Computed in float32 or wider; y has the dtype of x.

    Source:
        Zhu, Chen, He, LeCun & Liu 2025, arXiv:2503.10622, equation 1 and algorithm 1. α₀ = 0.5,
        γ = 1, β = 0 at first and the parameters' names and shapes (``alpha`` (1,), ``weight``,
        ``bias``) agree with its authors' published code, so its checkpoints load. Their layer
        for channels-first maps is not included: move the channels last.

    Example:
        >>> layer = DynamicTanh(16)
        >>> y = layer(torch.randn(2, 7, 16))
        >>> y.shape, layer.alpha.item()
        (torch.Size([2, 7, 16]), 0.5)
    """

    def __init__(
        self,
        normalized_shape: int | Sequence[int],
        alpha: float = 0.5,
        elementwise_affine: bool = True,
        bias: bool = True,
        device: Any = None,
        dtype: torch.dtype | None = None,
        *,
        activation: str | None = None,
    ) -> None:
        super().__init__()
        shape = (
            (normalized_shape,) if isinstance(normalized_shape, int) else tuple(normalized_shape)
        )
        if not shape or not all(isinstance(size, int) and size >= 1 for size in shape):
            raise ValueError(
                f"normalized_shape={normalized_shape!r}: give the sizes of the last dims of x, "
                "such as 64 or (8, 8)"
            )
        if not alpha > 0:
            raise ValueError(f"alpha={alpha}: it scales x inside tanh; give above 0, such as 0.5")
        self.normalized_shape, self.alpha_init = shape, alpha
        self.elementwise_affine = elementwise_affine
        self.alpha = nn.Parameter(torch.empty(1, device=device, dtype=dtype))
        self.weight = (
            nn.Parameter(torch.empty(shape, device=device, dtype=dtype))
            if elementwise_affine
            else None
        )
        self.bias = (
            nn.Parameter(torch.empty(shape, device=device, dtype=dtype))
            if elementwise_affine and bias
            else None
        )
        self.reset_parameters()
        self._set_activation(activation)

    def reset_parameters(self) -> None:
        """Set α to its first value, γ to 1 and β to 0."""
        nn.init.constant_(self.alpha, self.alpha_init)
        if self.weight is not None:
            nn.init.ones_(self.weight)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        """Return ``activation(γ tanh(α x) + β + residual)``; x: (..., *normalized_shape)."""
        if not isinstance(x, Tensor):
            return without_tensor(self, x, residual)
        check_allocated(self, input=x, residual=residual)
        if tuple(x.shape[-len(self.normalized_shape) :]) != self.normalized_shape:
            raise ValueError(
                f"x has shape {tuple(x.shape)}; its last dims need to be normalized_shape="
                f"{self.normalized_shape}"
            )
        check_residual(x, residual)
        y = torch.tanh(self.alpha * x.to(torch.promote_types(x.dtype, torch.float32)))
        if self.weight is not None:
            y = y * self.weight
        if self.bias is not None:
            y = y + self.bias
        return finish(y.to(x.dtype), self.activation, residual)

    def extra_repr(self) -> str:
        """The arguments, in torch's manner."""
        return (
            f"{self.normalized_shape}, alpha={self.alpha_init}, "
            f"elementwise_affine={self.elementwise_affine}" + super().extra_repr()
        )
