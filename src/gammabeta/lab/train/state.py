"""State of a run besides its weights: random states, and buffers that differ between ranks."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from gammabeta.lab.train.ranks import Ranks


def random_state(device: torch.device) -> dict[str, Any]:
    """Return the global random states of Python, NumPy and torch, as a checkpoint can hold them."""
    version, words, gauss = random.getstate()
    name, keys, position, has_gauss, cached = np.random.get_state(legacy=True)
    held: dict[str, Any] = {
        "python": [version, list(words), gauss],
        "numpy": [str(name), [int(k) for k in keys], position, has_gauss, cached],
        "torch": torch.get_rng_state(),
    }
    if device.type == "cuda":
        held["cuda"] = torch.cuda.get_rng_state(device)
    return held


def set_random_state(held: dict[str, Any], device: torch.device) -> None:
    """Set the global random states to what `random_state` gave.

    Raises:
        Exception: of any kind, if ``held`` is something else; some states may be set by then.
    """
    version, words, gauss = held["python"]
    if not isinstance(gauss, (float, type(None))):
        raise ValueError(f"{gauss!r} is not a random number")
    random.setstate((version, tuple(words), gauss))
    name, keys, position, has_gauss, cached = held["numpy"]
    if not 0 <= position <= len(keys):  # NumPy would read beyond them
        raise ValueError(f"{position} is not a position among {len(keys)} words")
    np.random.set_state((name, np.array(keys, np.uint32), position, has_gauss, cached))
    torch.set_rng_state(held["torch"])
    if device.type == "cuda" and "cuda" in held:
        torch.cuda.set_rng_state(held["cuda"], device)


def can_be_set(held: Any, device: torch.device) -> bool:
    """Return whether ``held`` is what `random_state` gave; the states are left as they are."""
    outside = random_state(device)
    try:
        set_random_state(held, device)
    except (TypeError, ValueError, LookupError, ArithmeticError, AttributeError, RuntimeError):
        return False
    finally:
        set_random_state(outside, device)
    return True


def seed_all(*key: int) -> None:
    """Set the global random states to what ``key`` alone decides."""
    for_torch, for_python, for_numpy = np.random.SeedSequence(key).generate_state(3, np.uint64)
    torch.manual_seed(int(for_torch) >> 1)
    random.seed(int(for_python))
    np.random.seed(int(for_numpy) >> 32)


def buffers_of(model: nn.Module) -> dict[str, Tensor]:
    """Return copies of the buffers, on the CPU."""
    return {name: buffer.detach().cpu().clone() for name, buffer in model.named_buffers()}


@contextlib.contextmanager
def averaged_buffers(model: nn.Module, ranks: Ranks) -> Iterator[None]:
    """Have ``model`` hold the mean of all ranks' floating-point buffers, and then its own again.

    Every rank has to enter. Averages of running means and variances are what one average over all
    ranks' mini-batches would have come to: a moving average is linear.
    """
    if ranks.count == 1:
        yield
        return
    buffers = [buffer for buffer in model.buffers() if buffer.is_floating_point()]
    own = [buffer.detach().clone() for buffer in buffers]
    with torch.no_grad():
        try:
            ranks.mean_(buffers)
            yield
        finally:
            for buffer, value in zip(buffers, own, strict=True):
                buffer.copy_(value)


@contextlib.contextmanager
def warmed_up(model: nn.Module, device: torch.device) -> Iterator[None]:
    """Undo what a few passes without meaning do to buffers and random states.

    `DistributedDataParallel` orders its buckets of gradients by the first backward pass. The order
    decides how sums over ranks round, so a run that is resumed has to have had it from the start.
    """
    kept = random_state(device)
    buffers = [(buffer, buffer.detach().clone()) for buffer in model.buffers()]
    try:
        yield
    finally:
        with torch.no_grad():
            for buffer, value in buffers:
                buffer.copy_(value)
        set_random_state(kept, device)


def synchronized(model: nn.Module, ranks: Ranks) -> nn.Module:
    """Return ``model`` with torch's batch norms turned into its `SyncBatchNorm`.

    Raises:
        ValueError: not on a GPU, where torch has none; or there is one process.
    """
    if ranks.count == 1:
        raise ValueError("sync_bn=True needs more than one process; start them with torchrun")
    if ranks.device.type != "cuda":
        raise ValueError("sync_bn=True needs GPUs: torch's SyncBatchNorm does not run on the CPU")
    made: nn.Module = nn.SyncBatchNorm.convert_sync_batchnorm(model)  # type: ignore[no-untyped-call]
    return made
