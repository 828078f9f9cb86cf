"""What is left of a norm that is called with a residual, once its affine map is elsewhere."""

# No `from __future__ import annotations`: `torch.jit.script` reads the types themselves.
import torch
from torch import Tensor, nn

from gammabeta.layers.epilogue import check_residual
from gammabeta.ops.activations import activate, known_activation


class ResidualActivation(nn.Module):
    """Return ``activation(input + residual)``.

    Args:
        activation: a name as in `gammabeta.BatchNorm1d`, or None.

    Example:
        >>> ResidualActivation("relu")(torch.tensor([1.0, -3.0]), torch.tensor([1.0, 2.0]))
        tensor([2., 0.])
    """

    def __init__(self, activation: str | None = None) -> None:
        super().__init__()
        self.activation = known_activation(activation)

    def forward(self, input: Tensor, residual: Tensor | None = None) -> Tensor:
        """Add ``residual``, which has the shape of ``input``, and apply the activation."""
        if not torch.jit.is_scripting():  # type: ignore[attr-defined]
            check_residual(input, residual)
        return activate(input if residual is None else input + residual, self.activation)

    def extra_repr(self) -> str:
        """Return the activation."""
        return "" if self.activation is None else f"activation={self.activation!r}"
