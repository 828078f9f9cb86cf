"""What wraps a model to train it on several devices, as it can be seen without running it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from gammabeta.doctor.subject import Norm, Subject, is_within


@dataclass(frozen=True, eq=False)
class Wrapper:
    """A module that trains what is in it on several devices.

    Attributes:
        path: its path.
        module: the wrapper; for `torch.distributed.fsdp.fully_shard`, the module itself.
        size: number of processes; None if unknown.
    """

    path: str
    module: Any
    size: int | None

    def contains(self, path: str) -> bool:
        """Whether the module at ``path`` is in it."""
        return is_within(path, self.path)


def wrapped_by(subject: Subject, *classes: type) -> list[Wrapper]:
    """Return the wrappers of these classes, the outermost first."""
    found = []
    for path, module in subject.modules.items():
        if isinstance(module, classes):
            group = getattr(module, "process_group", None)
            found.append(Wrapper(path, module, group_size(group)))
    return found


def innermost(wrappers: list[Wrapper], norm: Norm) -> Wrapper | None:
    """Return the wrapper nearest to ``norm``."""
    around = [wrapper for wrapper in wrappers if wrapper.contains(norm.path)]
    return max(around, key=lambda wrapper: len(wrapper.path), default=None)


def data_parallel(subject: Subject) -> list[Wrapper]:
    """Return the `DistributedDataParallel` wrappers, by class or by name."""
    return wrapped_by(subject, nn.parallel.DistributedDataParallel)


def logged(wrapper: Wrapper) -> dict[str, Any]:
    """Return what DDP recorded when it was made; {} if that cannot be read."""
    try:
        return dict(wrapper.module._get_ddp_logging_data())
    except Exception:  # it is not part of DDP's public surface
        return {}


def sharded(subject: Subject) -> list[Wrapper]:
    """Return what is sharded by either of torch's two FSDPs."""
    return list(_sharded(subject))


def _sharded(subject: Subject) -> Iterator[Wrapper]:
    for path, module in subject.modules.items():
        names = {cls.__name__ for cls in type(module).__mro__}
        if "FullyShardedDataParallel" in names:
            yield Wrapper(path, module, group_size(getattr(module, "process_group", None)))
        elif "FSDPModule" in names:
            yield Wrapper(path, module, _mesh_size(module))


def group_size(group: Any) -> int | None:
    """Return the number of members of a process group; None if that is unknown."""
    try:
        return None if group is None else int(group.size())
    except Exception:  # a group that has ended, or one of another library
        return None


def _mesh_size(module: nn.Module) -> int | None:
    for parameter in module.parameters():
        mesh = getattr(parameter, "device_mesh", None)
        if mesh is not None:
            return int(mesh.size())
    return None


LOW = (torch.bfloat16, torch.float16)
"""Dtypes that keep 8 or 11 bits of a running statistic."""
