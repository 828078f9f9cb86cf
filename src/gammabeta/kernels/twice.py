"""The backward pass in torch's own operators: for its derivative, and for transforms of it.

A native backward pass has no graph. Where somebody asks for one (``create_graph=True``) or sends
many gradients through it at once (``is_grads_batched=True``), the layer is computed again from what
was saved, and torch differentiates that.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from gammabeta.kernels.eager import finish


def batch_norm_gradients(
    g: Tensor,
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    residual: Tensor | None,
    statistics: Tensor,
    mask: Tensor | None,
    needs: Sequence[bool],
    *,
    training: bool,
    eps: float,
    activation: str | None,
) -> list[Tensor | None]:
    """Return the gradients of x, weight, bias and residual that are needed; the others are None.

    Args:
        g: the gradient of the output.
        x: (N, C, ...), as the layer got it.
        weight: (C,) or None.
        bias: (C,) or None.
        residual: like x, where the activation's slope depends on it; else None.
        statistics: (2, C) in float64, mean and 1/σ: what evaluation normalizes with.
        mask: like x, what a ReLU after a residual let through; then ``activation`` is None.
        needs: which of the four gradients.
        training: whether the statistics are x's own.
        eps: added to the variance.
        activation: a name in `ACTIVATIONS`, or None.
    """

    def layer() -> Tensor:
        if training:
            y = F.batch_norm(x, None, None, weight, bias, True, 0.0, eps)
        else:
            shape = (1, -1) + (1,) * (x.dim() - 2)
            mean, inverse = statistics.view(2, *shape)
            y = (x - mean) * inverse
            y = y if weight is None else y * weight.view(shape)
            y = (y if bias is None else y + bias.view(shape)).to(x.dtype)
        return finish(y, activation, residual)

    masked = g if mask is None else g * mask
    gradients = gradients_of(layer, (x, weight, bias, residual), masked, needs)
    if needs[3] and residual is None:
        gradients[3] = masked
    return gradients


def norm_gradients(
    norm: Callable[[Tensor, Tensor | None, Tensor | None], Tensor],
    g: Tensor,
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    residual: Tensor | None,
    mask: Tensor | None,
    needs: Sequence[bool],
    activation: str | None,
) -> list[Tensor | None]:
    """Return the gradients as `batch_norm_gradients` does, of a norm without running statistics.

    Args:
        norm: torch's operator, of x, weight and bias.
        g, x, weight, bias, residual, mask, needs, activation: as there.
    """
    masked = g if mask is None else g * mask
    gradients = gradients_of(
        lambda: finish(norm(x, weight, bias), activation, residual),
        (x, weight, bias, residual),
        masked,
        needs,
    )
    if needs[3] and residual is None:
        gradients[3] = masked
    return gradients


def gradients_of(
    layer: Callable[[], Tensor], inputs: Sequence[Tensor | None], g: Tensor, needs: Sequence[bool]
) -> list[Tensor | None]:
    """Differentiate ``layer``, with a graph if gradients are enabled; unneeded ones are None."""
    create_graph = torch.is_grad_enabled()
    wanted = [i for i, t in enumerate(inputs) if t is not None and needs[i]]
    found: list[Tensor | None] = [None] * len(inputs)
    if not wanted:
        return found
    with torch.enable_grad():
        y = layer()
    gradients = torch.autograd.grad(
        y, [t for i in wanted if (t := inputs[i]) is not None], g, create_graph=create_graph
    )
    for i, gradient in zip(wanted, gradients, strict=True):
        found[i] = gradient
    return found
