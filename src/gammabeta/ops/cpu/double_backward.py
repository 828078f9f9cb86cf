"""The backward pass in torch's own operators: for its derivative, and for transforms of it.

A native backward pass has no graph. Where somebody asks for one (``create_graph=True``) or sends
many gradients through it at once (``is_grads_batched=True``), the layer is computed again from what
was saved, and torch differentiates that.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from gammabeta.ops.torch.norms import finish


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
    slope: float | Tensor,
) -> list[Tensor | None]:
    """Return the gradients of x, weight, bias, residual and slope that are needed; others are None.

    Args:
        norm: in torch's operators, of x, weight and bias.
        g: the gradient of the output.
        x: as the layer got it.
        weight: or None.
        bias: or None.
        residual: like x, where the activation's slope depends on it; else None.
        mask: like x, what a ReLU after a residual let through; then ``activation`` is None.
        needs: which of the five gradients.
        activation: a name in `ACTIVATIONS`, or None.
        slope: the negative slope of ``"leaky_relu"``, or the weight of a PReLU.
    """
    masked = g if mask is None else g * mask
    # Aliases: γ, β and the residual may depend on x, and what leads from one to the other is the
    # engine's to differentiate, once.
    inputs = [
        _alias(t, need)
        for t, need in zip(
            (x, weight, bias, residual, slope if isinstance(slope, Tensor) else None),
            needs[:5],
            strict=True,
        )
    ]
    gradients = gradients_of(
        lambda: finish(
            norm(*inputs[:3]),  # type: ignore[arg-type]
            activation,
            inputs[3],
            slope if inputs[4] is None else inputs[4],  # type: ignore[arg-type]
        ),
        inputs,
        masked,
        needs,
    )
    if needs[3] and residual is None:
        gradients[3] = masked
    return gradients


def _alias(t: Tensor | None, needed: bool) -> Tensor | None:
    if t is None:
        return None
    if t.requires_grad and torch.is_grad_enabled():
        with torch.enable_grad():
            return t.view_as(t)
    return t.detach().requires_grad_(needed)


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
