"""Apply the residual and the activation that follow normalization in every layer."""

# No `from __future__ import annotations`: `torch.jit.script` reads the types themselves.
from typing import Any

from torch import Tensor, nn
from torch.fx import Proxy

from gammabeta.ops.activations import known_activation


class Epilogue(nn.Module):
    """Adds ``activation=`` to a ``torch.nn`` normalization layer; mixed in before torch's class.

    Attributes:
        activation: a name in `gammabeta.ops.activations.ACTIVATIONS`, or None.
        fuses: what follows the layer in its model, in evaluation and in training, as
            `gammabeta.convert` found it; see `gammabeta.layers.deferred`. None: not known.
    """

    activation: str | None = None
    fuses: tuple[str, str] | None = None

    def _set_activation(self, activation: str | None) -> None:
        self.activation = known_activation(activation)

    def extra_repr(self) -> str:
        """Return torch's description, and the activation if there is one."""
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


def without_tensor(layer: nn.Module, *arguments: Any) -> Any:
    """Handle a call of ``layer`` whose first argument is not a tensor.

    `torch.fx` records each layer of ``torch.nn`` as one node, but traces into gammabeta's layers,
    which read shapes. A call with an `fx` proxy therefore records the node itself.

    Args:
        layer: the layer that was called.
        arguments: the arguments of the call; None at the end for omitted ones.

    Returns:
        The proxy of the call.

    Raises:
        TypeError: no argument is a proxy.
    """
    given = list(arguments)
    while given and given[-1] is None:
        given.pop()
    for argument in given:
        if isinstance(argument, Proxy):
            tracer: Any = argument.tracer
            return tracer.create_proxy(
                "call_module", tracer.path_of_module(layer), tuple(given), {}
            )
    raise TypeError(
        f"input is a {type(arguments[0]).__name__}; {type(layer).__name__} takes a tensor"
    )
