"""Layer normalization (Ba, Kiros & Hinton 2016)."""

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


class LayerNorm(Epilogue, nn.LayerNorm):
    r"""Layer normalization over the last dims, with an optional residual and activation.

    ``y = activation(γ · (x − μ) / √(σ² + ε) + β + residual)``, where μ and the biased σ² are
    taken per example (or token) over the dims of ``normalized_shape``; they do not depend on
    the mode or on the rest of the batch.

    It is a `torch.nn.LayerNorm`: same arguments, parameters and ``state_dict``.

    Args:
        normalized_shape: the sizes of the last dims of x; an int for one dim.
        eps: ε, added to the variance.
        elementwise_affine: whether γ and β, shaped ``normalized_shape``, are learned.
        bias: whether the layer has a β.
        device: of the parameters.
        dtype: of the parameters.
        activation: a name as in `BatchNorm1d`, or None.

    Raises:
        ValueError: unknown ``activation``; in ``forward``, a residual not shaped as the input.

    Source:
        Ba, Kiros & Hinton 2016, arXiv:1607.06450, equations 3 and 4.

    Example:
        >>> y = LayerNorm(16)(3 + 5 * torch.randn(2, 7, 16))
        >>> bool(y.mean(-1).abs().max() < 1e-5)
        True
    """

    def __init__(
        self,
        normalized_shape: int | Sequence[int],
        eps: float = 1e-5,
        elementwise_affine: bool = True,
        bias: bool = True,
        device: Any = None,
        dtype: torch.dtype | None = None,
        *,
        activation: str | None = None,
    ) -> None:
        super().__init__(normalized_shape, eps, elementwise_affine, bias, device, dtype)
        self._set_activation(activation)

    def forward(self, input: Tensor, residual: Tensor | None = None) -> Tensor:
        """Return ``activation(layer_norm(x) + residual)``; input: (..., *normalized_shape)."""
        if torch.jit.is_scripting():  # type: ignore[attr-defined]
            y = F.layer_norm(input, list(self.normalized_shape), self.weight, self.bias, self.eps)
            return finish(y, self.activation, residual)
        if not isinstance(input, Tensor):
            return without_tensor(self, input, residual)
        check_residual(input, residual)
        parameters = self._parameters
        call = ops.Call(
            ops.LAYER,
            input,
            held(parameters, "weight", self),
            held(parameters, "bias", self),
            self.eps,
            self.activation,
            residual,
            normalized_shape=self.normalized_shape,
        )
        return complete(self, call)
