"""Instance normalization over 1, 2 and 3 spatial dims (Ulyanov, Vedaldi & Lempitsky 2016)."""

# No `from __future__ import annotations`: `torch.jit.script` reads the types themselves.
import warnings
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.instancenorm import _InstanceNorm

from gammabeta import ops
from gammabeta.layers.deferred import complete
from gammabeta.layers.epilogue import Epilogue, check_residual, without_tensor
from gammabeta.layers.guard import Guarded
from gammabeta.ops.torch.norms import finish


class _FusedForward(Guarded, Epilogue, _InstanceNorm):
    """Implement ``forward`` for the three instance norms and their lazy twins."""

    def forward(self, input: Tensor, residual: Tensor | None = None) -> Tensor:
        """Return ``activation(instance_norm(input) + residual)``.

        Args:
            input: (N, C, ...), or (C, ...) for one example, as torch's layer takes it.
            residual: added before the activation; has the shape of ``input``.

        Raises:
            ValueError: wrong number of dims, C is not ``num_features`` in an affine layer, one
                position where its own statistics are to be used, or a residual of another shape.
        """
        if not torch.jit.is_scripting():  # type: ignore[attr-defined]
            if not isinstance(input, Tensor):
                return without_tensor(self, input, residual)
            check_residual(input, residual)
        self._check_input_dim(input)  # type: ignore[no-untyped-call]
        single = input.dim() == self._get_no_batch_dim()  # type: ignore[no-untyped-call]
        channel = 0 if single else 1
        if input.size(channel) != self.num_features:
            self._mismatch(input.size(channel), channel)
        batch = input.unsqueeze(0) if single else input
        if torch.jit.is_scripting():  # type: ignore[attr-defined]
            if residual is not None and single:
                residual = residual.unsqueeze(0)
            y = self._scripted(batch, residual)
        else:
            extra = residual.unsqueeze(0) if single and residual is not None else residual
            y = self._guarded(batch, extra)
        return y.squeeze(0) if single else y

    def _guarded(self, batch: Tensor, residual: Tensor | None) -> Tensor:
        own = self.training or not self.track_running_stats
        empty = batch.size(0) == 0
        updates = own and self.running_mean is not None and not empty
        mean, var = self._statistics(updates)
        call = ops.Call(
            # No example, no statistics. Torch's instance norm indexes γ out of range here; its
            # batch norm gives the empty output, and zero gradients.
            ops.BATCH if empty else ops.INSTANCE,
            batch,
            self.weight,
            self.bias,
            self.eps,
            self.activation,
            residual,
            running_mean=None if empty else mean,
            running_var=None if empty else var,
            training=True if empty else own,  # `empty` is a tensor while torch traces
            momentum=0.0 if self.momentum is None else self.momentum,
        )
        if not updates:
            return complete(self, call)
        y = ops.normalize(call)
        self._commit(mean, var)
        return y

    def _scripted(self, batch: Tensor, residual: Tensor | None) -> Tensor:
        """Compute the output for `torch.jit.script`: torch's operator, without the guard."""
        y = F.instance_norm(
            batch,
            self.running_mean,
            self.running_var,
            self.weight,
            self.bias,
            self.training or not self.track_running_stats,
            self.momentum if self.momentum is not None else 0.0,
            self.eps,
        )
        return finish(y, self.activation, residual)

    def _mismatch(self, size: int, channel: int) -> None:
        """Torch's rule: an error where γ and β have C values, a warning where C is not used."""
        if self.affine:
            raise ValueError(
                f"expected input's size at dim={channel} to match num_features"
                f" ({self.num_features}), but got: {size}."
            )
        warnings.warn(
            f"input's size at dim={channel} is {size} and does not match "
            f"num_features={self.num_features}, which is not used because affine=False",
            stacklevel=2,
        )


class _FusedInstanceNorm(_FusedForward):
    """Base class of the instance norms: torch's arguments and gammabeta's keywords."""

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = False,
        track_running_stats: bool = False,
        device: Any = None,
        dtype: torch.dtype | None = None,
        *,
        bias: bool = True,
        activation: str | None = None,
        on_nonfinite: str = "refuse",
    ) -> None:
        super().__init__(
            num_features,
            eps,
            momentum,  # type: ignore[arg-type]  # torch takes None too: no update
            affine,
            track_running_stats,
            device,
            dtype,
            bias=bias,
        )
        self._set_activation(activation)
        self._set_on_nonfinite(on_nonfinite)


class InstanceNorm1d(_FusedInstanceNorm, nn.InstanceNorm1d):
    r"""Instance normalization of (N, C, L) or (C, L), with an optional residual and activation.

    ``y = activation(γ · (x − μ) / √(σ² + ε) + β + residual)``, where μ and the biased σ² are taken
    per example and channel, over its positions, in training and in evaluation. With
    ``track_running_stats``, evaluation uses running averages instead.

    It is a `torch.nn.InstanceNorm1d`: same arguments, parameters, buffers and ``state_dict``.

    Args:
        num_features: C.
        eps: ε, added to the variance.
        momentum: weight of the newest batch in the running averages; None disables updates.
        affine: whether γ and β are learned; off by default, as in torch.
        track_running_stats: whether to maintain running averages; off by default, as in torch.
        device: of parameters and buffers.
        dtype: of parameters and buffers.
        bias: whether there is a β where ``affine``.
        activation: a name as in `BatchNorm1d`, or None.
        on_nonfinite: as in `BatchNorm1d`; used only with ``track_running_stats``.

    Raises:
        ValueError: unknown ``activation`` or ``on_nonfinite``.

    Numerics:
        Normalization uses the biased variance (divisor L); ``running_var`` averages the mean over
        the batch of the unbiased ones (divisor L − 1), as in torch. ``num_batches_tracked`` stays
        0, as in torch.

    Source:
        Ulyanov, Vedaldi & Lempitsky 2016, arXiv:1607.08022, equation 2.

    Example:
        >>> layer = InstanceNorm1d(3, affine=True, activation="relu")
        >>> x = torch.randn(8, 3, 20)
        >>> layer(x, residual=x).shape, layer(x[0]).shape
        (torch.Size([8, 3, 20]), torch.Size([3, 20]))
    """


class InstanceNorm2d(_FusedInstanceNorm, nn.InstanceNorm2d):
    r"""Instance normalization of (N, C, H, W) or (C, H, W), with residual and activation.

    Arguments, formula and numerics are those of `InstanceNorm1d`, over H·W positions; it is a
    `torch.nn.InstanceNorm2d`.

    Example:
        >>> y = InstanceNorm2d(4)(3 + torch.randn(2, 4, 5, 5))
        >>> bool(y.mean((2, 3)).abs().max() < 1e-5)
        True
    """


class InstanceNorm3d(_FusedInstanceNorm, nn.InstanceNorm3d):
    r"""Instance normalization of (N, C, D, H, W) or (C, D, H, W), with residual and activation.

    Arguments, formula and numerics are those of `InstanceNorm1d`, over D·H·W positions; it is a
    `torch.nn.InstanceNorm3d`.

    Example:
        >>> InstanceNorm3d(4)(torch.randn(2, 4, 3, 5, 5)).shape
        torch.Size([2, 4, 3, 5, 5])
    """
