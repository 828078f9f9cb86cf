"""A small convolutional net in the manner of VGG, with any of the norms of the family."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gammabeta.layers import BatchNorm2d, BatchRenorm2d, GhostBatchNorm2d, GroupNorm
from gammabeta.names import known

STAGES = ((16, 16), (32, 32))
GROUPS = 8
"""G of group norm."""
GHOST = 16
"""Examples of a virtual batch of ghost batch norm."""

CONV_NORMS: dict[str, Callable[[int, str | None], nn.Module]] = {
    "none": lambda channels, activation: nn.ReLU() if activation else nn.Identity(),
    "batch": lambda channels, activation: BatchNorm2d(channels, activation=activation),
    "ghost": lambda channels, activation: GhostBatchNorm2d(
        channels, virtual_batch_size=GHOST, activation=activation
    ),
    "renorm": lambda channels, activation: BatchRenorm2d(channels, activation=activation),
    "group": lambda channels, activation: GroupNorm(GROUPS, channels, activation=activation),
    "layer": lambda channels, activation: GroupNorm(1, channels, activation=activation),
}
"""What follows a convolution: the norm, with ReLU or None. Layer norm of maps is over C, H, W."""

INITS: dict[str, Callable[..., Tensor]] = {
    "glorot": nn.init.xavier_normal_,
    "he": partial(nn.init.kaiming_normal_, nonlinearity="relu"),
}
"""Normal distributions of the weights. He's keeps the size of a signal through ReLUs."""


class SmallVGG(nn.Module):
    """Stages of 3×3 convolutions, each with its norm and ReLU; a 2×2 max pool between stages.

    The mean of each map goes to a linear classifier. Two nets of one seed start from the same
    weights whatever their norm; convolutions without a norm have biases, which start at 0.

    Args:
        side: pixels along one side of the images.
        classes: outputs.
        stages: channels of each convolution, stage by stage.
        norm: one of `CONV_NORMS`.
        pool: averages pool × pool pixels of the images before anything else; 1 for no pooling.
        fused: whether norm and ReLU are one module; else each is its own, for what has to look or
            stand between them.
        init: of the convolutions' weights, one of `INITS`; the classifier's are Glorot's.
        seed: of the weights. The global random state is neither read nor moved.

    Raises:
        ValueError: an unknown norm or init, or sizes that do not go together.

    Source:
        After Simonyan & Zisserman 2014, arXiv:1409.1556, at a size that trains in seconds.

    Example:
        >>> SmallVGG(28, 10, pool=2)(torch.randn(4, 784)).shape
        torch.Size([4, 10])
    """

    def __init__(
        self,
        side: int,
        classes: int,
        *,
        stages: Sequence[Sequence[int]] = STAGES,
        norm: str = "batch",
        pool: int = 1,
        fused: bool = True,
        init: str = "glorot",
        seed: int = 0,
    ) -> None:
        super().__init__()
        known("norm", norm, CONV_NORMS)
        known("init", init, INITS)
        if side < pool or side // pool < 2 ** (len(stages) - 1) or not stages:
            raise ValueError(
                f"side={side}, pool={pool} and {len(stages)} stages leave no pixel at the end"
            )
        self.side, self.pool = side, pool
        self.body = nn.Sequential()
        channels = 1
        with torch.random.fork_rng(devices=[]):  # torch's constructors draw; ours are drawn below
            for stage, widths in enumerate(stages):
                if stage:
                    self.body.append(nn.MaxPool2d(2))
                for width in widths:
                    bias = norm == "none"  # a norm's β is one
                    self.body.append(nn.Conv2d(channels, width, 3, padding=1, bias=bias))
                    self.body.append(CONV_NORMS[norm](width, "relu" if fused else None))
                    if not fused:
                        self.body.append(nn.ReLU())
                    channels = width
            self.classifier = nn.Linear(channels, classes)
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for module in self.modules():
                if isinstance(module, (nn.Conv2d, nn.Linear)):
                    draw = INITS[init if isinstance(module, nn.Conv2d) else "glorot"]
                    draw(module.weight, generator=generator)
                    if module.bias is not None:
                        nn.init.zeros_(module.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Return class scores, (N, classes), of images (N, side²) or (N, 1, side, side)."""
        x = x.reshape(len(x), 1, self.side, self.side)
        if self.pool > 1:
            x = F.avg_pool2d(x, self.pool)
        scores: Tensor = self.classifier(self.body(x).mean((2, 3)))
        return scores
