"""What Inception is built of: a convolution with its normalization and activation, a module."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from gammabeta.lab.models.inception_table import Module
from gammabeta.layers import BatchNorm1d, BatchNorm2d
from gammabeta.layers.epilogue import without_tensor
from gammabeta.ops.activations import MODULES

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
        if not isinstance(x, Tensor):
            traced: Tensor = without_tensor(self, x)
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


def norm_and_activation(
    channels: int,
    size: int,
    *,
    norm: str,
    activation: str,
    per_activation: bool = False,
    momentum: float = 0.1,
) -> nn.Module:
    """Return what follows a convolution: batch norm and the activation in one, or the latter alone.

    Args:
        channels: of the maps.
        size: height and width of the maps; used for ``per_activation`` only.
        norm: of `NORMS`.
        activation: of `ACTIVATIONS`.
        per_activation: a γ and β for each activation in place of each map.
        momentum: of the running averages.

    Example:
        >>> norm_and_activation(8, 14, norm="none", activation="relu")
        ReLU()
    """
    if norm == "none":
        return ACTIVATIONS[activation]()
    if per_activation:
        shape = (channels, size, size)
        return PerActivationBatchNorm2d(shape, activation=activation, momentum=momentum)
    return BatchNorm2d(channels, activation=activation, momentum=momentum)


class ConvNorm(nn.Module):
    """A convolution, its normalization, the activation.

    With batch norm the convolution has no bias, whose work β does.

    Args:
        inputs: channels in.
        outputs: channels out.
        kernel: 1, 3 or 7; padded so that stride 1 keeps the size.
        size: height and width of the maps that come out.
        stride: 1 or 2.
        norm: as of `norm_and_activation`.
        activation: as of `norm_and_activation`.
        per_activation: as of `norm_and_activation`.
        momentum: as of `norm_and_activation`.
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
        self.norm = norm_and_activation(
            *(outputs, size),
            norm=norm,
            activation=activation,
            per_activation=per_activation,
            momentum=momentum,
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return the activated maps: (N, inputs, H, W) → (N, outputs, H/stride, W/stride)."""
        if self.depthwise is not None:
            x = self.depthwise(x)
        y: Tensor = self.norm(self.conv(x))
        return y


class InceptionModule(nn.Module):
    """Four branches over the same maps, their outputs side by side.

    1×1; 1×1 then 3×3; 1×1 then twice 3×3; pooling then 1×1. With stride 2 there is no 1×1
    branch, and the pooling hands its maps on as they are.

    What is the same work is done once. The two 1×1 that reduce the maps are one convolution; and
    as every channel is normalized by itself, the branches' last normalizations are one, of all
    their maps side by side.

    Args:
        row: of the table, its channels scaled.
        inputs: channels in.
        size: height and width of the maps that come in.
        norm: as of `norm_and_activation`.
        activation: as of `norm_and_activation`.
        per_activation: as of `norm_and_activation`.
        momentum: as of `norm_and_activation`.

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
        follows: dict[str, Any] = {
            "norm": norm,
            "activation": activation,
            "per_activation": per_activation,
            "momentum": momentum,
        }

        def conv(inputs: int, outputs: int, kernel: int, stride: int = 1) -> nn.Conv2d:
            return nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=norm == "none")

        self.reduced = [row.reduce, row.double_reduce]
        self.one = conv(inputs, row.one, 1) if row.one else None
        self.reduce = ConvNorm(inputs, sum(self.reduced), 1, size, **follows)
        self.three = conv(row.reduce, row.three, 3, row.stride)
        self.double_first = ConvNorm(row.double_reduce, row.double, 3, size, **follows)
        self.double_second = conv(row.double, row.double, 3, row.stride)
        self.pool: nn.Module
        if row.pool == "avg":
            self.pool = nn.AvgPool2d(3, row.stride, 1, count_include_pad=False)
        else:
            self.pool = nn.MaxPool2d(3, row.stride, 1)
        self.project = conv(inputs, row.project, 1) if row.project else None
        convolved = row.outputs(inputs) - (0 if row.project else inputs)
        self.norm = norm_and_activation(convolved, out, **follows)

    def forward(self, x: Tensor) -> Tensor:
        """Return the branches' maps: (N, inputs, H, W) → (N, row.outputs(inputs), …)."""
        three, double = self.reduce(x).split(self.reduced, 1)
        pooled = self.pool(x)
        maps = [] if self.one is None else [self.one(x)]
        maps += [self.three(three), self.double_second(self.double_first(double))]
        if self.project is not None:
            maps.append(self.project(pooled))
        y: Tensor = self.norm(torch.cat(maps, 1))
        return y if self.project is not None else torch.cat([y, pooled], 1)

    def weights(self) -> Iterator[Tensor]:
        """Yield the convolutions' weights as the table lists them: a view for each of its cells."""
        if self.one is not None:
            yield self.one.weight
        reduce, double_reduce = torch.split(self.reduce.conv.weight, self.reduced)
        yield reduce
        yield self.three.weight
        yield double_reduce
        yield self.double_first.conv.weight
        yield self.double_second.weight
        if self.project is not None:
            yield self.project.weight
