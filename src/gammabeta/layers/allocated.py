"""Check that tensors have storage, for the layers that are written in torch's operators.

Sharding frees the storage of parameters between uses. Some of torch's operators do not check for
that and crash the process.
"""

from __future__ import annotations

from torch import Tensor, nn

from gammabeta.ops.allocated import in_memory


def check_allocated(layer: nn.Module, **inputs: Tensor | None) -> None:
    """Raise unless ``inputs`` and the parameters and buffers of ``layer`` hold values.

    Args:
        layer: the layer that is called; its submodules are checked too.
        inputs: the arguments of the call, by name.

    Raises:
        RuntimeError: the storage of one of them was freed; the message names it.
    """
    in_memory(**inputs, **layer._parameters, **layer._buffers)
    for name, part in layer._modules.items():
        if part is not None:
            held = (*part._parameters.items(), *part._buffers.items())
            in_memory(**{f"{name}.{key}": t for key, t in held})
