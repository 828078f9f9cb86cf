"""What is normalized: formats (dtype and layout), operations, and one case's tensors."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from gammabeta.lab.bench.shapes import Shape

FORMATS = {
    "fp32-nchw": (torch.float32, False),
    "fp32-channels_last": (torch.float32, True),
    "bf16-channels_last": (torch.bfloat16, True),
}
"""Name → dtype of the data (parameters stay float32, as under autocast), and layout."""

OPS = ("bn", "bn+relu", "bn+add+relu")

_TENSORS = {"copy": 2, "relu": 5, "bn": 5, "bn+relu": 5, "bn+add+relu": 7}


def fits(shape: Shape, name: str) -> bool:
    """Whether the format ``name`` is one for ``shape``: (N, C) has one layout only.

    Example:
        >>> fits((64, 100), "fp32-nchw"), fits((64, 100), "fp32-channels_last")
        (True, False)
    """
    return len(shape) == 4 or not FORMATS[name][1]


def bytes_moved(what: str, shape: Shape, name: str) -> int:
    """Return how many bytes ``what`` must move, forward and backward.

    The forward pass reads its inputs and writes its output; the backward pass reads the upstream
    gradient and one tensor that the forward pass kept, and writes a gradient an input. Each once,
    as if a cache held whatever is needed again; parameters and statistics do not count.

    Args:
        what: of `OPS`, ``"relu"`` or ``"copy"`` (one read, one write).
        shape: of the input.
        name: of `FORMATS`.

    Example:
        >>> bytes_moved("bn+add+relu", (2, 3), "fp32-nchw")  # in 2 + 2, out 1 + 2
        168
    """
    return _TENSORS[what] * math.prod(shape) * FORMATS[name][0].itemsize


@dataclass(frozen=True)
class Inputs:
    """One case's tensors, which all contenders share.

    Attributes:
        x: the input; it wants a gradient.
        residual: of the same shape; it wants one too.
        upstream: the gradient with respect to the output.
        format: name of the format, of `FORMATS`.
    """

    x: Tensor
    residual: Tensor
    upstream: Tensor
    format: str

    @property
    def channels_last(self) -> bool:
        """Whether the channels of a position lie side by side in memory."""
        return FORMATS[self.format][1]


def draw(shape: Shape, name: str, seed: int = 0) -> Inputs:
    """Draw the tensors of a case.

    Args:
        shape: (N, C) or (N, C, H, W).
        name: of `FORMATS`.
        seed: of the values, which are standard normal.

    Example:
        >>> draw((2, 3, 4, 4), "bf16-channels_last").x.dtype
        torch.bfloat16
    """
    dtype, channels_last = FORMATS[name]
    layout = torch.channels_last if channels_last else torch.contiguous_format
    generator = torch.Generator().manual_seed(seed)
    x, residual, upstream = (
        torch.randn(shape, generator=generator).to(dtype).contiguous(memory_format=layout)
        for _ in range(3)
    )
    return Inputs(x.requires_grad_(), residual.requires_grad_(), upstream, name)
