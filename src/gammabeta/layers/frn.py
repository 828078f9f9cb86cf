"""Filter response normalization and its thresholded linear unit (Singh & Krishnan 2019)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from gammabeta.layers.allocated import check_allocated
from gammabeta.layers.epilogue import Epilogue, check_residual, without_tensor
from gammabeta.layers.sizes import check_size
from gammabeta.ops.torch.norms import finish


class FilterResponseNorm2d(Epilogue):
    r"""Filter response normalization of (N, C, H, W), with an optional residual and activation.

    ``y = activation(γ · x / √(ν² + ε) + β + residual)``, where ν² is the mean of x² over the
    positions of one feature map of one example. Nothing is averaged over the batch, no mean is
    subtracted, and evaluation equals training. The paper follows it with `TLU` in place of ReLU:
    without a mean subtracted, zero is no longer the middle, and τ learns where to cut.

    Args:
        num_features: C.
        eps: ε, added to ν².
        affine: whether γ and β are learned.
        learned_eps: whether ε is ``eps + |eps_l|`` with a learned scalar ``eps_l``, 1e-4 at first.
            For 1×1 maps, where x / √(x² + ε) is nearly the sign of x unless ε is sizeable.
        device: of the parameters.
        dtype: of the parameters.
        bias: whether the layer has a β.
        activation: a name as in `BatchNorm1d`, or None.

    Raises:
        ValueError: ``num_features`` below 1, ``eps`` not above 0, unknown ``activation``; in
            ``forward``, x not (N, C, H, W) or a residual not shaped as x.

    Numerics:
        ν² is computed in float32 or wider, since x² overflows float16 from 256 on; y has the
        dtype of x. A map that is zero everywhere gives β.

    Source:
        Singh & Krishnan 2019, arXiv:1911.09737, section 3. ε = 1e-6, γ = 1, β = 0 and τ = 0 at
        first agree with Google Research's public implementation. That ε is learned as |·|, one
        for the layer, and starts at 1e-4 is second-hand (public ports differ: some start at
        ``eps``), so it is off by default.

    Example:
        >>> block = nn.Sequential(FilterResponseNorm2d(4), TLU(4))
        >>> block(torch.randn(1, 4, 5, 5)).shape
        torch.Size([1, 4, 5, 5])
    """

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-6,
        affine: bool = True,
        learned_eps: bool = False,
        device: Any = None,
        dtype: torch.dtype | None = None,
        *,
        bias: bool = True,
        activation: str | None = None,
    ) -> None:
        super().__init__()
        check_size("num_features", num_features, "the number of channels")
        if not eps > 0:
            raise ValueError(f"eps={eps}: it keeps a zero map from dividing by zero; give above 0")
        self.num_features, self.eps = num_features, eps
        self.affine, self.learned_eps = affine, learned_eps

        def parameter(size: int) -> nn.Parameter:
            return nn.Parameter(torch.empty(size, device=device, dtype=dtype))

        self.weight = parameter(num_features) if affine else None
        self.bias = parameter(num_features) if affine and bias else None
        self.eps_l = parameter(1) if learned_eps else None
        self.reset_parameters()
        self._set_activation(activation)

    def reset_parameters(self) -> None:
        """Set γ to 1, β to 0 and the learned part of ε to 1e-4."""
        if self.weight is not None:
            nn.init.ones_(self.weight)
        if self.bias is not None:
            nn.init.zeros_(self.bias)
        if self.eps_l is not None:
            nn.init.constant_(self.eps_l, 1e-4)

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        """Return ``activation(filter_response_norm(x) + residual)``; x: (N, C, H, W)."""
        if not isinstance(x, Tensor):
            return without_tensor(self, x, residual)
        check_allocated(self, input=x, residual=residual)
        if x.dim() != 4 or x.shape[1] != self.num_features:
            raise ValueError(
                f"x has shape {tuple(x.shape)}; filter response normalization takes (N, C, H, W) "
                f"with C = num_features = {self.num_features}"
            )
        check_residual(x, residual)
        exact = x.to(torch.promote_types(x.dtype, torch.float32))
        eps = self.eps if self.eps_l is None else self.eps + self.eps_l.abs()
        y = exact * torch.rsqrt(exact.square().mean((2, 3), keepdim=True) + eps)
        if self.weight is not None:
            y = y * self.weight.view(-1, 1, 1)
        if self.bias is not None:
            y = y + self.bias.view(-1, 1, 1)
        return finish(y.to(x.dtype), self.activation, residual)

    def extra_repr(self) -> str:
        """The arguments, in torch's manner."""
        return (
            f"{self.num_features}, eps={self.eps}, affine={self.affine}, "
            f"learned_eps={self.learned_eps}" + super().extra_repr()
        )


class TLU(nn.Module):
    r"""Thresholded linear unit: ``max(x, τ)`` with a learned τ for each channel.

    ``max(x, τ) = ReLU(x − τ) + τ``. With τ = 0 it is ReLU, with τ = −∞ the identity.

    Args:
        num_features: C, the size of dim 1 of x.
        device: of the parameter.
        dtype: of the parameter.

    Raises:
        ValueError: ``num_features`` below 1; in ``forward``, x without C channels in dim 1.

    Numerics:
        Where x equals τ, torch's maximum gives each half of the gradient.

    Source:
        Singh & Krishnan 2019, arXiv:1911.09737, section 3.2; τ = 0 at first.

    Example:
        >>> unit = TLU(2)
        >>> _ = nn.init.constant_(unit.tau, -1.0)
        >>> unit(torch.tensor([[-3.0, 0.5]])).tolist()
        [[-1.0, 0.5]]
    """

    def __init__(
        self, num_features: int, device: Any = None, dtype: torch.dtype | None = None
    ) -> None:
        super().__init__()
        check_size("num_features", num_features, "the number of channels")
        self.num_features = num_features
        self.tau = nn.Parameter(torch.empty(num_features, device=device, dtype=dtype))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Set τ to 0: ReLU."""
        nn.init.zeros_(self.tau)

    def forward(self, x: Tensor) -> Tensor:
        """Return max(x, τ), shaped as x, (N, C, ...), in its dtype."""
        if not isinstance(x, Tensor):
            return without_tensor(self, x)
        check_allocated(self, input=x)
        if x.dim() < 2 or x.shape[1] != self.num_features:
            raise ValueError(
                f"x has shape {tuple(x.shape)}; TLU takes (N, C, ...) with C = num_features = "
                f"{self.num_features}"
            )
        tau = self.tau.to(x.dtype).view(-1, *[1] * (x.dim() - 2))
        return torch.maximum(x, tau)

    def extra_repr(self) -> str:
        """The number of channels."""
        return f"{self.num_features}"
