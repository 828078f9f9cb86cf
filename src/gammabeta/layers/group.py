"""Group normalization (Wu & He 2018)."""

# No `from __future__ import annotations`: `torch.jit.script` reads the types themselves.
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gammabeta import ops
from gammabeta.layers.deferred import complete
from gammabeta.layers.epilogue import Epilogue, check_residual, without_tensor
from gammabeta.layers.held import held
from gammabeta.layers.sizes import check_size
from gammabeta.ops.torch.norms import finish


class GroupNorm(Epilogue, nn.GroupNorm):
    r"""Group normalization of (N, C, ...), with an optional residual and activation.

    ``y = activation(γ · (x − μ) / √(σ² + ε) + β + residual)``, where μ and the biased σ² are
    taken per example over C/G channels and all positions; γ and β are per channel. One group is
    layer norm over (C, ...), C groups are instance norm.

    It is a `torch.nn.GroupNorm`: same arguments, parameters and ``state_dict``.

    Args:
        num_groups: G; the paper's default is 32.
        num_channels: C, a multiple of G.
        eps: ε, added to the variance.
        affine: whether γ and β are learned.
        device: of the parameters.
        dtype: of the parameters.
        bias: whether the layer has a β.
        activation: a name as in `BatchNorm1d`, or None.

    Raises:
        ValueError: C is not a multiple of G; unknown ``activation``; in ``forward``, a residual not
            shaped as x.

    Source:
        Wu & He 2018, arXiv:1803.08494, section 3.1.

    Example:
        >>> GroupNorm(2, 6, activation="relu")(torch.randn(1, 6, 4, 4)).shape
        torch.Size([1, 6, 4, 4])
    """

    def __init__(
        self,
        num_groups: int,
        num_channels: int,
        eps: float = 1e-5,
        affine: bool = True,
        device: Any = None,
        dtype: torch.dtype | None = None,
        *,
        bias: bool = True,
        activation: str | None = None,
    ) -> None:
        _check_groups(num_groups)
        super().__init__(num_groups, num_channels, eps, affine, device, dtype, bias=bias)
        self._set_activation(activation)

    def forward(self, input: Tensor, residual: Tensor | None = None) -> Tensor:
        """Return ``activation(group_norm(x) + residual)``; input: (N, C, ...)."""
        if torch.jit.is_scripting():  # type: ignore[attr-defined]
            y = F.group_norm(input, self.num_groups, self.weight, self.bias, self.eps)
            return finish(y, self.activation, residual)
        if not isinstance(input, Tensor):
            return without_tensor(self, input, residual)
        check_residual(input, residual)
        if type(self.num_groups) is not int or self.num_groups < 1:
            _check_groups(self.num_groups)  # an attribute can be set to anything
        parameters = self._parameters
        call = ops.Call(
            ops.GROUP,
            input,
            held(parameters, "weight", self),
            held(parameters, "bias", self),
            self.eps,
            self.activation,
            residual,
            num_groups=self.num_groups,
        )
        return complete(self, call)


def _check_groups(num_groups: object) -> None:
    check_size("num_groups", num_groups, "a number that divides num_channels")
