"""What follows normalization in every layer: an added residual, then an activation."""

# No `from __future__ import annotations`: `torch.jit.script` reads the types themselves.
from typing import Any

from torch import Tensor, nn

from gammabeta.kernels.activations import known_activation


class Epilogue(nn.Module):
    """Adds ``activation=`` to a ``torch.nn`` normalization layer; mixed in before torch's class.

    Attributes:
        activation: a name in `gammabeta.kernels.activations.ACTIVATIONS`, or None.
    """

    activation: str | None = None

    def _set_activation(self, activation: str | None) -> None:
        self.activation = known_activation(activation)

    def extra_repr(self) -> str:
        """Torch's own description, and the activation where there is one."""
        own = super().extra_repr()
        return own if self.activation is None else f"{own}, activation={self.activation!r}"


def check_residual(x: Tensor, residual: Tensor | None) -> None:
    """Raise unless ``residual`` adds to the output for ``x`` without broadcasting."""
    if residual is None:
        return
    if not isinstance(residual, Tensor):
        raise TypeError(f"residual is a {type(residual).__name__}; give a tensor shaped as input")
    if residual.shape != x.shape:
        raise ValueError(
            f"residual has shape {tuple(residual.shape)}; it is added to the normalized input, "
            f"so it needs the input's shape {tuple(x.shape)}"
        )


def traced_whole(layer: nn.Module, x: Any, residual: Any) -> Any:
    """Record a call of ``layer`` as one node, as `torch.fx` does with torch's own layers.

    It knows those by their home, ``torch.nn``, and would trace through ours, which look at shapes.
    """
    arguments = (x,) if residual is None else (x, residual)
    return x.tracer.create_proxy("call_module", x.tracer.path_of_module(layer), arguments, {})
