"""Whether dropout is on in a model."""

from __future__ import annotations

from torch import nn

_RATES = ("p", "dropout", "drop_prob")
"""Where modules keep their rate: `nn.Dropout`, attention and recurrent layers, stochastic depth."""


class Dropouts:
    """The modules of a model that drop values in training mode.

    Args:
        model: the model.
    """

    def __init__(self, model: nn.Module) -> None:
        self._found: list[tuple[nn.Module, str]] = []
        for module in model.modules():
            names = _RATES if isinstance(module, nn.modules.dropout._DropoutNd) else _RATES[1:]
            name = next((n for n in names if isinstance(vars(module).get(n), float)), None)
            if name is not None:
                self._found.append((module, name))

    def drop(self) -> bool:
        """Whether one of them is in training mode, and its rate is not 0."""
        return any(module.training and vars(module).get(name) for module, name in self._found)
