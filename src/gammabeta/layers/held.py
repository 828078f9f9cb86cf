"""Parameters and buffers of a layer, looked up where they are kept."""

# No `from __future__ import annotations`: `torch.jit.script` reads the types themselves.
from typing import Any

from torch import nn


def held(kept: dict[str, Any], name: str, layer: nn.Module) -> Any:
    """Return ``layer.name`` from ``kept``, its parameters or buffers, if it is there.

    `torch.nn.Module` looks there when all else has failed, which takes a microsecond: as long as a
    tenth of a small norm. A parametrized weight is not there, and is asked of the layer.
    """
    return kept[name] if name in kept else getattr(layer, name)
