"""Inception as the paper has it, with batch normalization and without.

The network of section 4.2 and figure 5, with its size and parts as arguments. Two networks built
with the same seed start from the same weights whatever their normalization.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor, nn

from gammabeta.lab.models.inception_parts import ACTIVATIONS, NORMS, ConvNorm, InceptionModule
from gammabeta.lab.models.inception_table import (
    CHANNELS,
    DEPTH_MULTIPLIER,
    STEM,
    halved,
    modules,
    scaled,
)
from gammabeta.lab.models.local_response import LocalResponseNorm
from gammabeta.names import known

STEMS = {
    "separable": "7×7/2 of depth multiplier 8 and 1×1, pooling /2, 3×3, pooling /2: the paper's; "
    "the modules begin at an eighth of the image",
    "plain": "the same with a full 7×7/2 convolution, as most ports have it",
    "small": "3×3, 1×1, 3×3, pooling /2: the modules begin at half the image (28: 14, 7, 4)",
    "fine": "the same without pooling: the modules begin at the image's size (28: 28, 14, 7, the "
    "paper's own maps), at four times the price",
}
"""What comes before the modules."""

INITS = {
    "he": "normal, variance 2 / fan_in: keeps the size of a signal through ReLUs",
    "glorot": "normal, variance 2 / (fan_in + fan_out)",
}
"""Distributions of the convolutions' weights. The paper does not print its own."""

LARGEST = 1024
"""Of an image's height and width."""

WIDEST = 8
"""Of ``width``."""


def stem_for(input_size: int) -> str:
    """Return the stem that suits images of ``input_size``: maps are large enough to convolve.

    Example:
        >>> [stem_for(size) for size in (224, 96, 32, 28, 8)]
        ['separable', 'separable', 'small', 'small', 'fine']
    """
    if input_size >= 64:
        return "separable"
    return "small" if input_size >= 24 else "fine"


class Inception(nn.Module):
    """The Inception network of the batch-normalization paper.

    A stem, ten modules, the mean over all positions, dropout, a linear classifier. With
    ``norm="batch"`` it is BN-Inception: batch norm after every convolution, before the
    activation, fused with it. With ``norm="none"`` it is the unnormalized baseline: the same
    convolutions with biases.

    Args:
        classes: outputs of the classifier.
        norm: ``"batch"`` or ``"none"``.
        input_size: height and width of the images. Others of about this size will do too, as
            all is convolution, unless ``per_activation`` is set.
        width: multiplies every number of channels; see `inception_table.scaled`.
        stem: of `STEMS`; None for what suits ``input_size`` (`stem_for`).
        channels: ``"written"`` (the table's cells) or ``"printed"`` (its column of outputs).
        activation: ``"relu"``, ``"sigmoid"``, or another that the layers know.
        dropout: probability, before the classifier.
        local_response_norm: normalize across 5 neighbouring maps after the first pooling and
            before the second, as GoogLeNet does.
        in_channels: of the images.
        per_activation: how many of the last modules have a γ and β for each activation (section
            4.2.3).
        seed: of the weights. The global random state is neither read nor moved.
        init: of `INITS`.
        init_scale: multiplies the convolutions' initial weights; the classifier's are not scaled.
        momentum: of batch norm's running averages.

    Raises:
        ValueError: a name that is not known, or a number out of range.

    Numerics:
        Initial weights are normal, of variance 2 / fan_in (`INITS`) for convolutions that an
        activation follows, 1 / fan_in for the depthwise convolution and the classifier, which none
        follows; biases and β start at 0, γ at 1.

    Source:
        Ioffe & Szegedy 2015, arXiv:1502.03167, section 4.2 and figure 5; Szegedy et al. 2014,
        arXiv:1409.4842, for what "Inception" is there (dropout, local response normalization).

    Example:
        >>> net = Inception(10, input_size=28, width=0.125, in_channels=1)
        >>> net(torch.randn(4, 1, 28, 28)).shape, net.stem_kind, net.map_sizes
        (torch.Size([4, 10]), 'small', (14, 7, 4))
        >>> sum(parameter.numel() for parameter in Inception().parameters())
        11278528
    """

    def __init__(
        self,
        classes: int = 1000,
        *,
        norm: str = "batch",
        input_size: int = 224,
        width: float = 1.0,
        stem: str | None = None,
        channels: str = "written",
        activation: str = "relu",
        dropout: float = 0.0,
        local_response_norm: bool = False,
        in_channels: int = 3,
        per_activation: int = 0,
        seed: int = 0,
        init: str = "he",
        init_scale: float = 1.0,
        momentum: float = 0.1,
    ) -> None:
        super().__init__()
        known("norm", norm, NORMS)
        known("channels", channels, CHANNELS)
        known("activation", activation, ACTIVATIONS)
        known("init", init, INITS)
        if stem is not None:
            known("stem", stem, STEMS)
        rows = modules(channels)
        for argument, value, least, most in (
            ("classes", classes, 1, 10**6),
            ("input_size", input_size, 4, LARGEST),
            ("in_channels", in_channels, 1, 4096),
            ("per_activation", per_activation, 0, len(rows)),
        ):
            if not least <= value <= most:
                raise ValueError(f"{argument}={value} must be between {least} and {most}")
        for argument, number, top in (("width", width, WIDEST), ("init_scale", init_scale, 1000)):
            if not 0 < number <= top:
                raise ValueError(f"{argument}={number} must be a positive number, at most {top}")
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout={dropout} must be at least 0 and below 1")
        if per_activation and norm != "batch":
            raise ValueError(f"per_activation={per_activation} needs norm='batch', not {norm!r}")
        self.classes, self.in_channels, self.input_size = classes, in_channels, input_size
        self.stem_kind = stem_for(input_size) if stem is None else stem
        rows = modules(channels, width)
        with torch.random.fork_rng(devices=[]):  # torch's constructors draw; ours are drawn below
            conv = partial(ConvNorm, norm=norm, activation=activation, momentum=momentum)
            self.stem, size = _stem(
                self.stem_kind, in_channels, input_size, width, local_response_norm, conv
            )
            self.inception = nn.ModuleDict()
            inputs, sizes = scaled(STEM[-1], width), [size]
            for index, row in enumerate(rows):
                self.inception[row.name] = InceptionModule(
                    row,
                    inputs,
                    size,
                    norm=norm,
                    activation=activation,
                    per_activation=index >= len(rows) - per_activation,
                    momentum=momentum,
                )
                inputs, size = row.outputs(inputs), row.out_size(size)
                if row.stride == 2:
                    sizes.append(size)
            self.dropout = nn.Dropout(dropout)
            self.classifier = nn.Linear(inputs, classes)
        self.map_sizes = tuple(sizes)
        self._draw(seed, init, init_scale)

    def forward(self, x: Tensor) -> Tensor:
        """Return class scores: x (N, in_channels, H, W) → (N, classes)."""
        x = self.stem(x)
        for module in self.inception.values():
            x = module(x)
        y: Tensor = self.classifier(self.dropout(x.mean((2, 3))))
        return y

    @torch.no_grad()
    def _draw(self, seed: int, init: str, scale: float) -> None:
        """Draw the weights on the CPU, so that every device starts from the same ones."""
        generator = torch.Generator().manual_seed(seed)
        for weight, activated in self._weights():
            fan_in = weight[0].numel()
            if not activated:
                std = math.sqrt(1 / fan_in)
            elif init == "he":
                std = math.sqrt(2 / fan_in)
            else:
                std = math.sqrt(2 / (fan_in + weight[:, 0].numel()))
            if weight.dim() == 4:
                std *= scale
            drawn = torch.randn(weight.shape, generator=generator, device="cpu")
            weight.copy_(drawn.mul_(std))
        for module in self.modules():
            if isinstance(module, (nn.Conv2d, nn.Linear)) and module.bias is not None:
                module.bias.zero_()

    def _weights(self) -> Iterator[tuple[Tensor, bool]]:
        """Every weight in the table's order, and whether an activation follows."""
        for module in self.stem:
            if isinstance(module, ConvNorm):
                if module.depthwise is not None:
                    yield module.depthwise.weight, False
                yield module.conv.weight, True
        for module in self.modules():
            if isinstance(module, InceptionModule):
                for weight in module.weights():
                    yield weight, True
        yield self.classifier.weight, False


def _stem(
    kind: str,
    in_channels: int,
    input_size: int,
    width: float,
    local_response_norm: bool,
    conv: Callable[..., ConvNorm],
) -> tuple[nn.Sequential, int]:
    """What comes before the modules, and the size of the maps that it gives."""
    first, second, third = (scaled(channels, width) for channels in STEM)

    def lrn() -> list[nn.Module]:
        return [LocalResponseNorm()] if local_response_norm else []

    layers: list[nn.Module]
    size = input_size
    if kind in ("separable", "plain"):
        depthwise = DEPTH_MULTIPLIER * in_channels if kind == "separable" else 0
        size = halved(size)
        layers = [
            conv(in_channels, first, 7, size, stride=2, depthwise=depthwise),
            nn.MaxPool2d(3, 2, 1),
        ]
        size = halved(size)
    else:
        layers = [conv(in_channels, first, 3, size)]
    layers += [
        *lrn(),
        conv(first, second, 1, size),
        conv(second, third, 3, size),
        *lrn(),
    ]
    if kind != "fine":
        layers.append(nn.MaxPool2d(3, 2, 1))
        size = halved(size)
    return nn.Sequential(*layers), size
