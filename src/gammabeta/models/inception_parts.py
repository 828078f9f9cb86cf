"""What Inception is built of: a convolution with its normalization and activation, a module."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.fx import Proxy

from gammabeta.kernels.activations import MODULES
from gammabeta.layers import BatchNorm1d, BatchNorm2d
from gammabeta.layers.epilogue import traced_whole
from gammabeta.models.inception_table import Module

NORMS = ("batch", "none")
ACTIVATIONS = {name: module for module, name in MODULES.items()}


class PerActivationBatchNorm2d(nn.Module):
    """Batch norm of (N, C, H, W) with statistics, γ and β of every activation of its own.

    Where `BatchNorm2d` treats the positions of a map alike, this one has C·H·W features, as fully
    connected layers do; it therefore takes maps of one size only.

    Args:
        shape: (C, H, W).
        activation: as of `BatchNorm1d`.
        momentum: of the running averages.

    Source:
        Ioffe & Szegedy 2015, arXiv:1502.03167, section 4.2.3: "non-convolutional, per-activation"
        batch norm in the last hidden layers of some members of the ensemble.

    Example:
        >>> layer = PerActivationBatchNorm2d((2, 3, 3), activation="relu")
        >>> layer(torch.randn(8, 2, 3, 3)).shape, layer.norm.weight.shape
        (torch.Size([8, 2, 3, 3]), torch.Size([18]))
    """

    def __init__(
        self, shape: tuple[int, int, int], *, activation: str | None = None, momentum: float = 0.1
    ) -> None:
        super().__init__()
        self.shape = shape
        self.norm = BatchNorm1d(math.prod(shape), activation=activation, momentum=momentum)

    def forward(self, x: Tensor) -> Tensor:
        """Return the normalized and activated ``x``: (N, C, H, W) → the same shape.

        Raises:
            ValueError: C, H, W are not ``shape``.
        """
        if isinstance(x, Proxy):
            traced: Tensor = traced_whole(self, x, None)
            return traced
        if x.shape[1:] != self.shape:
            raise ValueError(
                f"x has shape {tuple(x.shape)}; a norm of each activation needs maps of the size "
                f"it was made for, (N, {', '.join(map(str, self.shape))})"
            )
        y: Tensor = self.norm(x.flatten(1))
        return y.reshape(-1, *self.shape)

    def extra_repr(self) -> str:
        """The shape it takes."""
        return f"shape={self.shape}"


class ConvNorm(nn.Module):
    """A convolution, its normalization, the activation.

    With batch norm the convolution has no bias, whose work β does, and the activation is computed
    by the batch norm; without, it has one, and the activation is a module.

    Args:
        inputs: channels in.
        outputs: channels out.
        kernel: 1, 3 or 7; padded so that stride 1 keeps the size.
        size: height and width of the maps that come out; used for ``per_activation`` only.
        stride: 1 or 2.
        norm: of `NORMS`.
        activation: of `ACTIVATIONS`.
        per_activation: a γ and β for each activation in place of each map.
        momentum: of the running averages.
        depthwise: channels of a depthwise convolution in place of a full one, which a 1×1
            convolution follows (a separable convolution); 0 for a full one.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int,
        size: int,
        *,
        stride: int = 1,
        norm: str = "batch",
        activation: str = "relu",
        per_activation: bool = False,
        momentum: float = 0.1,
        depthwise: int = 0,
    ) -> None:
        super().__init__()
        bias = norm == "none"
        self.depthwise: nn.Conv2d | None = None
        if depthwise:
            self.depthwise = nn.Conv2d(
                inputs, depthwise, kernel, stride, kernel // 2, groups=inputs, bias=False
            )
            self.conv = nn.Conv2d(depthwise, outputs, 1, bias=bias)
        else:
            self.conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=bias)
        self.norm: nn.Module | None = None
        self.activation: nn.Module | None = None
        if norm == "none":
            self.activation = ACTIVATIONS[activation]()
        elif per_activation:
            shape = (outputs, size, size)
            self.norm = PerActivationBatchNorm2d(shape, activation=activation, momentum=momentum)
        else:
            self.norm = BatchNorm2d(outputs, activation=activation, momentum=momentum)

    def forward(self, x: Tensor) -> Tensor:
        """Return the activated maps: (N, inputs, H, W) → (N, outputs, H/stride, W/stride)."""
        if self.depthwise is not None:
            x = self.depthwise(x)
        x = self.conv(x)
        if self.norm is not None:
            x = self.norm(x)
        if self.activation is not None:
            x = self.activation(x)
        return x


class InceptionModule(nn.Module):
    """Four branches over the same maps, their outputs side by side.

    1×1; 1×1 then 3×3; 1×1 then twice 3×3; pooling then 1×1. With stride 2 there is no 1×1
    branch, and the pooling hands its maps on as they are.

    Args:
        row: of the table, its channels scaled.
        inputs: channels in.
        size: height and width of the maps that come in.
        norm: as of `ConvNorm`.
        activation: as of `ConvNorm`.
        per_activation: as of `ConvNorm`.
        momentum: as of `ConvNorm`.

    Numerics:
        Average pooling divides by the number of positions that are there, not by 9, at the
        border; the paper does not say which.
    """

    def __init__(
        self,
        row: Module,
        inputs: int,
        size: int,
        *,
        norm: str = "batch",
        activation: str = "relu",
        per_activation: bool = False,
        momentum: float = 0.1,
    ) -> None:
        super().__init__()
        out = row.out_size(size)

        def conv(inputs: int, outputs: int, kernel: int, size: int, stride: int = 1) -> ConvNorm:
            return ConvNorm(
                *(inputs, outputs, kernel, size),
                stride=stride,
                norm=norm,
                activation=activation,
                per_activation=per_activation,
                momentum=momentum,
            )

        self.one = conv(inputs, row.one, 1, size) if row.one else None
        self.three = nn.Sequential(
            conv(inputs, row.reduce, 1, size), conv(row.reduce, row.three, 3, out, row.stride)
        )
        self.double_three = nn.Sequential(
            conv(inputs, row.double_reduce, 1, size),
            conv(row.double_reduce, row.double, 3, size),
            conv(row.double, row.double, 3, out, row.stride),
        )
        self.pool: nn.Module
        if row.pool == "avg":
            self.pool = nn.AvgPool2d(3, row.stride, 1, count_include_pad=False)
        else:
            self.pool = nn.MaxPool2d(3, row.stride, 1)
        self.project = conv(inputs, row.project, 1, out) if row.project else None

    def forward(self, x: Tensor) -> Tensor:
        """Return the branches' maps: (N, inputs, H, W) → (N, row.outputs(inputs), …)."""
        branches = [] if self.one is None else [self.one(x)]
        pooled = self.pool(x)
        branches += [
            self.three(x),
            self.double_three(x),
            pooled if self.project is None else self.project(pooled),
        ]
        return torch.cat(branches, 1)
