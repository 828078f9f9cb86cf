"""The values of a tensor, saved and put back into the same tensor."""

from __future__ import annotations

import torch
from torch import Tensor


class Contents:
    """The values of ``tensor`` at this moment; `restore` writes them back, bit by bit.

    It works on tensors that torch does not let one write to in the usual way: made under
    `torch.inference_mode`, expanded (several elements share memory), requiring a gradient, sparse,
    or of a subclass with a ``__torch_function__`` of its own.

    Args:
        tensor: what is saved.

    Numerics:
        Restoring leaves the tensor's version counter alone: the values are those that a pending
        backward pass saved.

    Example:
        >>> tensor = torch.zeros(1).expand(3)
        >>> contents = Contents(tensor)
        >>> _ = tensor[:1].fill_(7)
        >>> contents.restore()
        >>> tensor
        tensor([0., 0., 0.])
    """

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor
        self._shape, self._dtype = tensor.shape, tensor.dtype
        with torch.no_grad(), torch._C.DisableTorchFunctionSubclass():
            self._before = _distinct(tensor.detach()).clone()

    def restore(self) -> None:
        """Write the values back."""
        tensor = self.tensor
        with (
            torch.no_grad(),
            torch.inference_mode(tensor.is_inference()),
            torch._C.DisableTorchFunctionSubclass(),
        ):
            if tensor.shape != self._shape or tensor.dtype != self._dtype:  # resized, or replaced
                tensor.data = self._before.clone().expand(self._shape)
            elif tensor.layout is not torch.strided:  # its data are another tensor's
                tensor.copy_(self._before)
            else:
                _distinct(tensor.data).copy_(self._before)


def overlaps(tensor: Tensor) -> bool:
    """Whether several elements of ``tensor`` share memory, as `Tensor.expand` makes them.

    Example:
        >>> overlaps(torch.zeros(1).expand(3)), overlaps(torch.zeros(3))
        (True, False)
    """
    return _distinct(tensor).shape != tensor.shape


def _distinct(tensor: Tensor) -> Tensor:
    """The part of ``tensor`` whose elements have memory of their own: all, unless expanded."""
    if tensor.layout is not torch.strided or tensor.is_nested:
        return tensor
    for dim, stride in enumerate(tensor.stride()):
        if stride == 0 and tensor.shape[dim] > 1:
            tensor = tensor.narrow(dim, 0, 1)
    return tensor
