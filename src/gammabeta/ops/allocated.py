"""Tensors whose memory is gone: found before an operator reads from nowhere.

Sharding frees the storage of parameters between uses. Torch raises for most of them, but some of
its operators do not look, and end the process.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import Parameter

from gammabeta.ops.lean import LeanOutput
from gammabeta.ops.spec import Call

PLAIN = frozenset({Tensor, Parameter, LeanOutput})
"""Classes whose values are where their address is; of a subclass nobody knows."""

_is_compiling = torch.compiler.is_compiling
_transform = torch._C._functorch.peek_interpreter_stack
_dispatch_modes = torch._C._len_torch_dispatch_stack


class NoMemoryError(Exception):
    """A tensor has no values at its address."""


def refuse_freed(**tensors: Tensor | None) -> None:
    """Raise for a tensor that has lost its memory. A tensor of zeros never had any: it is torch's.

    Raises:
        RuntimeError: the storage of one of ``tensors`` was freed; its keyword names it.
    """
    for name, t in tensors.items():
        if (
            t is None
            or t.layout is not torch.strided
            or not t.numel()
            or t._is_zerotensor()
            or t.untyped_storage().data_ptr()
        ):
            continue
        raise RuntimeError(
            f"{name} has shape {tuple(t.shape)}, but its storage was freed and holds no values; "
            "gather sharded parameters before the layer is called"
        )


def check_call(call: Call) -> None:
    """Raise unless what ``call`` reads is in memory.

    Raises:
        RuntimeError: the storage of a plain CPU tensor was freed.
    """
    if _is_compiling():
        return
    try:
        for t in (
            call.x,
            call.weight,
            call.bias,
            call.running_mean,
            call.running_var,
            call.residual,
        ):
            if t is not None and (not t.data_ptr() or t.storage_offset()):
                break
        else:
            return
    except Exception:  # a tensor without an address: fake, sparse, of a subclass
        pass
    in_memory(**call.tensors())


def in_memory(**tensors: Tensor | None) -> None:
    """Raise unless each plain CPU tensor among ``tensors`` has memory.

    Raises:
        RuntimeError: the storage of one was freed; its keyword names it.
    """
    if _is_compiling() or _transform() is not None or _dispatch_modes():
        return
    for t in tensors.values():
        if t is None or type(t) not in PLAIN or not t.is_cpu or t.layout is not torch.strided:
            continue
        if not t.data_ptr() or t.storage_offset():
            refuse_freed(**tensors)
            return
