"""Refuse what has lost its memory, in the layers that are written in torch's operators.

Sharding frees the storage of parameters between uses. Some of torch's operators do not look, and
end the process.
"""

from __future__ import annotations

from torch import Tensor, nn

from gammabeta.ops.allocated import in_memory


def check_allocated(layer: nn.Module, **inputs: Tensor | None) -> None:
    """Raise unless ``inputs`` and the parameters and buffers of ``layer`` hold values.

    Args:
        layer: the layer that is called; parts of it are looked at too.
        inputs: what it is called with, by the names of its arguments.

    Raises:
        RuntimeError: the storage of one of them was freed; it is called by its name.
    """
    in_memory(**inputs, **layer._parameters, **layer._buffers)
    for name, part in layer._modules.items():
        if part is not None:
            held = (*part._parameters.items(), *part._buffers.items())
            in_memory(**{f"{name}.{key}": t for key, t in held})
