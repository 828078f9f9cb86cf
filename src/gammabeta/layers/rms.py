"""Root mean square layer normalization (Zhang & Sennrich 2019)."""

# No `from __future__ import annotations`: `torch.jit.script` reads the types themselves.
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gammabeta import ops
from gammabeta.layers.deferred import complete
from gammabeta.layers.epilogue import Epilogue, check_residual, without_tensor
from gammabeta.layers.held import held
from gammabeta.ops.torch.norms import finish


class RMSNorm(Epilogue, nn.RMSNorm):
    r"""Root mean square normalization over the last dims, with optional residual and activation.

    ``y = activation(γ · x / √(mean(x²) + ε) + residual)``: layer norm without the mean and β.

    It is a `torch.nn.RMSNorm`: same arguments, parameters and ``state_dict``.

    Args:
        normalized_shape: the sizes of the last dims of x; an int for one dim.
        eps: ε, added to the mean square; None for the machine epsilon of the arithmetic: x's dtype,
            but float32 for float16 and bfloat16.
        elementwise_affine: whether γ, shaped ``normalized_shape``, is learned.
        device: of the parameter.
        dtype: of the parameter.
        activation: a name as in `BatchNorm1d`, or None.

    Raises:
        ValueError: unknown ``activation``; in ``forward``, a residual not shaped as x.

    Source:
        Zhang & Sennrich 2019, arXiv:1910.07467, equation 4.

    Example:
        >>> y = RMSNorm(16)(3 + 5 * torch.randn(2, 16))
        >>> torch.allclose(y.square().mean(-1), torch.ones(2))
        True
    """

    def __init__(
        self,
        normalized_shape: int | Sequence[int],
        eps: float | None = None,
        elementwise_affine: bool = True,
        device: Any = None,
        dtype: torch.dtype | None = None,
        *,
        activation: str | None = None,
    ) -> None:
        super().__init__(normalized_shape, eps, elementwise_affine, device, dtype)
        self._set_activation(activation)

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        """Return ``activation(rms_norm(x) + residual)``; x: (..., *normalized_shape)."""
        if torch.jit.is_scripting():  # type: ignore[attr-defined]
            y = F.rms_norm(x, list(self.normalized_shape), self.weight, self.eps)
            return finish(y, self.activation, residual)
        if not isinstance(x, Tensor):
            return without_tensor(self, x, residual)
        check_residual(x, residual)
        parameters = self._parameters
        call = ops.Call(
            ops.RMS,
            x,
            held(parameters, "weight", self),
            None,
            self.eps,
            self.activation,
            residual,
            normalized_shape=self.normalized_shape,
        )
        return complete(self, call)
