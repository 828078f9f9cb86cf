"""Batch normalization as a fixed affine map, for fine-tuning."""

from __future__ import annotations

from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from gammabeta import ops
from gammabeta.layers.deferred import complete
from gammabeta.layers.epilogue import Epilogue, check_residual, without_tensor
from gammabeta.layers.sizes import check_size

_Frozen = TypeVar("_Frozen", bound="FrozenBatchNorm")


class FrozenBatchNorm(Epilogue):
    """Base class of the frozen batch norms: five buffers and ``forward``."""

    # Not an instance of torch's batch norm, on purpose: code that looks for one means to train
    # it. nn.SyncBatchNorm.convert_sync_batchnorm would bring its statistics back to life,
    # swa_utils.update_bn would reset them, and recipes set requires_grad on its weight. The
    # frozen layers of torchvision and detectron2 are no instances either.

    _input_dims: ClassVar[tuple[int, ...]] = ()

    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor
    weight: Tensor | None
    bias: Tensor | None

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        affine: bool = True,
        device: Any = None,
        dtype: torch.dtype | None = None,
        *,
        bias: bool = True,
        activation: str | None = None,
    ) -> None:
        super().__init__()
        check_size("num_features", num_features, "the number of channels")
        self.num_features, self.eps, self.affine = num_features, eps, affine

        # Buffers, all five: no optimizer, weight decay or requires_grad_ reaches them, while
        # state_dict, device and dtype moves do.
        ones = torch.ones(num_features, device=device, dtype=dtype)
        zeros = torch.zeros(num_features, device=device, dtype=dtype)
        self.register_buffer("weight", ones if affine else None)
        self.register_buffer("bias", zeros if affine and bias else None)
        self.register_buffer("running_mean", zeros.clone())
        self.register_buffer("running_var", ones.clone())
        self.register_buffer("num_batches_tracked", torch.tensor(0, device=device))
        self._set_activation(activation)

    @classmethod
    def from_batch_norm(cls: type[_Frozen], norm: _BatchNorm) -> _Frozen:
        """Return a frozen copy of ``norm``, in its dtype, device and mode; ``norm`` is unchanged.

        Raises:
            TypeError: ``norm`` is not a batch norm.
            ValueError: ``norm`` has no running statistics to freeze.
        """
        if not isinstance(norm, _BatchNorm):
            raise TypeError(f"norm is a {type(norm).__name__}; give one of torch's batch norms")
        if norm.running_mean is None or norm.running_var is None:
            raise ValueError(
                "norm has track_running_stats=False, so there are no statistics to freeze; train "
                "with track_running_stats=True"
            )
        frozen = cls(
            norm.num_features,
            norm.eps,
            norm.weight is not None,
            norm.running_mean.device,
            norm.running_mean.dtype,
            bias=norm.bias is not None,
            activation=getattr(norm, "activation", None),
        )
        frozen.load_state_dict(norm.state_dict())
        return frozen.train(norm.training)

    def forward(self, input: Tensor, residual: Tensor | None = None) -> Tensor:
        """Return ``activation(γ · (x − μ) / √(σ² + ε) + β + residual)`` of ``input``, x.

        Raises:
            ValueError: wrong number of dims or of features, or a residual of another shape.
        """
        if not isinstance(input, Tensor):
            return without_tensor(self, input, residual)
        if input.dim() not in self._input_dims or input.shape[1] != self.num_features:
            dims = " or ".join(str(d) for d in self._input_dims)
            raise ValueError(
                f"input has shape {tuple(input.shape)}; {type(self).__name__} takes (N, C, ...) of "
                f"{dims} dims with C = num_features = {self.num_features}"
            )
        check_residual(input, residual)
        call = ops.Call(
            ops.BATCH,
            input,
            self.weight,
            self.bias,
            self.eps,
            self.activation,
            residual,
            running_mean=self.running_mean,
            running_var=self.running_var,
            training=False,
        )
        return complete(self, call)

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        # torchvision's frozen layers and torch before 0.4.1 save no num_batches_tracked.
        state_dict.setdefault(prefix + "num_batches_tracked", self.num_batches_tracked)
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)

    def extra_repr(self) -> str:
        """The arguments, in torch's manner."""
        return f"{self.num_features}, eps={self.eps}, affine={self.affine}" + super().extra_repr()


class FrozenBatchNorm1d(FrozenBatchNorm):
    r"""Frozen batch normalization of (N, C) or (N, C, L), with optional residual and activation.

    ``y = activation(γ · (x − μ) / √(σ² + ε) + β + residual)`` with fixed γ, β, μ and σ²: batch
    norm's evaluation, also in training mode. All are buffers, so ``model.train()``, an optimizer,
    weight decay and ``requires_grad_`` do not change them. Gradients flow to x.

    The ``state_dict`` has batch norm's keys, and each layer loads the other's. It is *not* a
    `torch.nn.BatchNorm1d`: code that looks for batch norms to synchronize, reset or train must
    not find it.

    Args:
        num_features: C.
        eps: ε, added to the variance.
        affine: whether there are a γ and β.
        device: of the buffers.
        dtype: of the buffers.
        bias: whether the layer has a β.
        activation: a name as in `BatchNorm1d`, or None.

    Raises:
        ValueError: ``num_features`` below 1, unknown ``activation``.

    Numerics:
        The kernel is batch norm's in evaluation; the outputs are bitwise equal.

    Source:
        Ioffe & Szegedy 2015, arXiv:1502.03167, Algorithm 2, line 11. Frozen layers are
        common in detection, where batches of one or two images would spoil pretrained statistics.

    Example:
        >>> norm = torch.nn.BatchNorm1d(3).eval()
        >>> frozen = FrozenBatchNorm1d.from_batch_norm(norm).train()
        >>> x = torch.randn(1, 3)
        >>> torch.equal(frozen(x), norm(x)), list(frozen.parameters())
        (True, [])
    """

    _input_dims = (2, 3)


class FrozenBatchNorm2d(FrozenBatchNorm):
    r"""Frozen batch normalization of (N, C, H, W), with an optional residual and activation.

    Arguments, formula and numerics are those of `FrozenBatchNorm1d`.

    Example:
        >>> FrozenBatchNorm2d(4, activation="relu")(torch.randn(1, 4, 5, 5)).shape
        torch.Size([1, 4, 5, 5])
    """

    _input_dims = (4,)


class FrozenBatchNorm3d(FrozenBatchNorm):
    r"""Frozen batch normalization of (N, C, D, H, W), with an optional residual and activation.

    Arguments, formula and numerics are those of `FrozenBatchNorm1d`.

    Example:
        >>> FrozenBatchNorm3d(4)(torch.randn(1, 4, 2, 5, 5)).shape
        torch.Size([1, 4, 2, 5, 5])
    """

    _input_dims = (5,)
