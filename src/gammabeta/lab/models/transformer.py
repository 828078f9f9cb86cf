"""A small vision transformer whose normalization can be exchanged."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gammabeta.layers import BatchNorm1d, DynamicTanh, LayerNorm, RMSNorm
from gammabeta.names import known


class TokenBatchNorm(nn.Module):
    """Batch norm of tokens (N, T, C): over all tokens of all examples, for each feature.

    Args:
        width: C.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = BatchNorm1d(width)

    def forward(self, x: Tensor) -> Tensor:
        """Return BN(x), shaped as x: (N, T, C)."""
        return self.norm(x.flatten(0, 1)).view_as(x)  # type: ignore[no-any-return]


TOKEN_NORMS: dict[str, Callable[[int], nn.Module]] = {
    "layer": LayerNorm,
    "rms": RMSNorm,
    "batch": TokenBatchNorm,
    "dyt": DynamicTanh,
    "none": lambda width: nn.Identity(),
}


class Block(nn.Module):
    """Attention and a perceptron, each behind its norm, each added to what it was given.

    ``x ← x + attention(norm(x))``, ``x ← x + mlp(norm(x))``: the "pre-norm" order.

    Args:
        width: features of a token.
        heads: of attention; a divisor of ``width``.
        norm: one of `TOKEN_NORMS`.
    """

    def __init__(self, width: int, heads: int, norm: str) -> None:
        super().__init__()
        self.heads = heads
        self.norm_attention = TOKEN_NORMS[norm](width)
        self.queries = nn.Linear(width, 3 * width)
        self.mix = nn.Linear(width, width)
        self.norm_mlp = TOKEN_NORMS[norm](width)
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return the tokens, (N, T, width), after this block."""
        n, t, width = x.shape
        parts = self.queries(self.norm_attention(x)).view(n, t, 3, self.heads, width // self.heads)
        query, key, value = parts.permute(2, 0, 3, 1, 4)
        seen = F.scaled_dot_product_attention(query, key, value)
        x = x + self.mix(seen.transpose(1, 2).reshape(n, t, width))
        y: Tensor = x + self.mlp(self.norm_mlp(x))
        return y


class PatchTransformer(nn.Module):
    """A pre-norm transformer over the patches of an image; the mean token is classified.

    Two of one seed start from the same weights whatever their norm: Glorot normal, biases 0, the
    learned positions N(0, 0.02²).

    Args:
        side: pixels along one side of the images, a multiple of ``patch``.
        classes: outputs.
        patch: pixels along one side of a patch.
        width: features of a token.
        depth: blocks.
        heads: of attention, a divisor of ``width``.
        norm: ``"layer"``, ``"rms"``, ``"batch"``, ``"dyt"`` or ``"none"``; at the end too.
        seed: of the weights. The global random state is neither read nor moved.

    Raises:
        ValueError: an unknown norm, or sizes that do not go together.

    Source:
        Dosovitskiy et al. 2021, arXiv:2010.11929, at a size that trains in a minute.

    Example:
        >>> PatchTransformer(28, 10, norm="dyt")(torch.randn(4, 784)).shape
        torch.Size([4, 10])
    """

    def __init__(
        self,
        side: int,
        classes: int,
        *,
        patch: int = 7,
        width: int = 64,
        depth: int = 4,
        heads: int = 4,
        norm: str = "layer",
        seed: int = 0,
    ) -> None:
        super().__init__()
        known("norm", norm, TOKEN_NORMS)
        for name, value, divisor in (("side", side, patch), ("width", width, heads)):
            if value < 1 or value % divisor:
                raise ValueError(f"{name}={value} must be a positive multiple of {divisor}")
        self.side, self.patch = side, patch
        with torch.random.fork_rng(devices=[]):  # torch's constructors draw; ours are drawn below
            self.embed = nn.Linear(patch * patch, width)
            self.positions = nn.Parameter(torch.empty((side // patch) ** 2, width))
            self.blocks = nn.Sequential(*(Block(width, heads, norm) for _ in range(depth)))
            self.norm = TOKEN_NORMS[norm](width)
            self.classifier = nn.Linear(width, classes)
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for module in self.modules():
                if isinstance(module, nn.Linear):
                    nn.init.xavier_normal_(module.weight, generator=generator)
                    nn.init.zeros_(module.bias)
            self.positions.normal_(0, 0.02, generator=generator)

    def forward(self, x: Tensor) -> Tensor:
        """Return class scores, (N, classes), of images (N, side²) or (N, 1, side, side)."""
        count, patch = self.side // self.patch, self.patch
        cut = x.reshape(len(x), count, patch, count, patch).transpose(2, 3)
        tokens = self.embed(cut.reshape(len(x), count * count, patch * patch)) + self.positions
        scores: Tensor = self.classifier(self.norm(self.blocks(tokens)).mean(1))
        return scores
