"""Copy samples from an accelerator to the host without holding up the training."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor


def send(holders: Sequence[tuple[Any, str]]) -> Callable[[], None]:
    """Replace tensors on an accelerator by tensors on the host, copied in one piece.

    The copy is queued after the kernels that compute the tensors, into pinned memory; nothing waits
    for it here.

    Args:
        holders: pairs of an object and the name of its attribute: a float tensor, or None.

    Returns:
        A function that waits until the values have arrived. Until then they are undefined.
    """
    far: dict[torch.device, list[tuple[Any, str, Tensor]]] = {}
    for holder, name in holders:
        x = getattr(holder, name)
        if isinstance(x, Tensor) and x.device.type != "cpu":
            far.setdefault(x.device, []).append((holder, name, x.detach()))
    events = [_send_from(device, found) for device, found in far.items()]

    def wait() -> None:
        for event in events:
            event.synchronize()

    return wait


def _send_from(device: torch.device, found: Sequence[tuple[Any, str, Tensor]]) -> Any:
    packed = torch.cat([x.reshape(-1).float() for *_, x in found])
    host = torch.empty(packed.shape, dtype=packed.dtype, device="cpu", pin_memory=True)
    host.copy_(packed, non_blocking=True)
    event = torch.Event(device.type)
    event.record()
    at = 0
    for holder, name, x in found:
        setattr(holder, name, host[at : at + x.numel()].reshape(x.shape))
        at += x.numel()
    return event
