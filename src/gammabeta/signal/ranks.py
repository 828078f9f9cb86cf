"""Which process of a distributed training this is."""

from __future__ import annotations

import os
from pathlib import Path

import torch.distributed


def rank() -> int:
    """Return the number of this process: 0 for the first one, or if there is only one."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank()
    if int(_number("WORLD_SIZE") or 1) > 1:  # started by torchrun, not yet initialized
        return int(_number("RANK") or 0)
    return 0


def path_of(path: Path, rank: int) -> Path:
    """Return the path of another rank's record beside that of rank 0.

    Example:
        >>> path_of(Path("runs/first.sqlite"), 3).name
        'first.rank3.sqlite'
    """
    return path if rank == 0 else path.with_suffix(f".rank{rank}{path.suffix}")


def _number(name: str) -> str:
    value = os.environ.get(name, "")
    return value if value.isdecimal() else ""
