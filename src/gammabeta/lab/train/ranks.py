"""This process among others, and communication with them."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


@dataclass(frozen=True)
class Ranks:
    """This process among those that train together.

    Attributes:
        rank: number of this process, from 0.
        count: number of processes; 1 if training is not distributed.
        device: device of this process.
    """

    rank: int
    count: int
    device: torch.device

    @property
    def first(self) -> bool:
        """Whether this process is the one that writes and prints."""
        return self.rank == 0

    def sum(self, numbers: list[float]) -> list[float]:
        """Return the sums over all ranks, the same on each."""
        if self.count == 1:
            return numbers
        held = torch.tensor(numbers, dtype=torch.float64, device=self.device)
        dist.all_reduce(held)
        return held.tolist()

    def mean_(self, tensors: list[Tensor]) -> None:
        """Set each tensor to its mean over all ranks."""
        if self.count > 1:
            for tensor in tensors:
                dist.all_reduce(tensor)
                tensor.div_(self.count)

    def gather(self, held: Any) -> list[Any]:
        """Return the values of all ranks, in order, on the first rank; empty on the others.

        All values must be on the CPU.
        """
        if self.count == 1:
            return [held]
        found: list[Any] | None = [None] * self.count if self.first else None
        dist.gather_object(held, found)
        return found or []

    def agree(self, problem: Exception | None) -> None:
        """Raise on every rank if one has a problem, so that no rank waits forever.

        Raises:
            Exception: this rank's ``problem``, if it is the first rank or the only one.
            RankError: on the first rank another's problem; on the others an empty message, since
                one process says it.
        """
        if self.count > 1:
            problems: list[str | None] = [None] * self.count
            dist.all_gather_object(problems, None if problem is None else str(problem))
            found = next((text for text in problems if text is not None), None)
            if found is not None and not (self.first and problem is not None):
                raise RankError(found if self.first else "")
        if problem is not None:
            raise problem


class RankError(ValueError):
    """A problem that ends the run on all ranks; the message is empty on all but the first."""


@contextlib.contextmanager
def ranks(device: str) -> Iterator[Ranks]:
    """Join the processes that ``torchrun`` started, or run alone without it.

    GPUs communicate through NCCL, CPUs through gloo. An existing process group is used as it is.

    Args:
        device: ``"cpu"``, ``"cuda"``, or ``"auto"`` for a GPU if there is one.

    Raises:
        ValueError: the device is not available.
    """
    count = int(os.environ.get("WORLD_SIZE", "1"))
    local = int(os.environ.get("LOCAL_RANK", "0"))
    chosen = _device(device, local)
    if count == 1 and not dist.is_initialized():
        yield Ranks(0, 1, chosen)
        return
    ours = not dist.is_initialized()
    if ours:
        dist.init_process_group("nccl" if chosen.type == "cuda" else "gloo")
    try:
        yield Ranks(dist.get_rank(), dist.get_world_size(), chosen)
    finally:
        if ours:
            dist.destroy_process_group()
            # `DistributedDataParallel` leaks its reducer, and with it the group's threads. One that
            # lets go of its last tensor needs the interpreter; if that has begun to end meanwhile,
            # the process aborts ("terminate called without an active exception").
            time.sleep(0.2)


def _device(name: str, local: int) -> torch.device:
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ValueError(f"device={name!r} is not known; use cpu, cuda or auto") from None
    if device.type == "cuda":
        if not torch.cuda.is_available():
            raise ValueError(f"device={name!r} is not here: torch sees no GPU; give --device cpu")
        if local >= torch.cuda.device_count():
            raise ValueError(
                f"device={name!r}: rank {local} of this machine has no GPU, "
                f"{torch.cuda.device_count()} are here; start one process for each"
            )
        if device.index is None:
            device = torch.device("cuda", local)
        torch.cuda.set_device(device)
    elif device.type != "cpu":
        raise ValueError(f"device={name!r} is not supported; use cpu, cuda or auto")
    return device
