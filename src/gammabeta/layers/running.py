"""Whether and where a module keeps running statistics; `traits` passes it on."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn
from torch.jit import ScriptModule
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm
from torch.nn.utils.parametrize import type_before_parametrizations

from gammabeta.layers.frozen import FrozenBatchNorm
from gammabeta.layers.timestep import TimestepBatchNorm


@dataclass(frozen=True)
class Running:
    """Where and of what a module keeps running statistics.

    Attributes:
        of: ``"batch"``, what `torch.nn.modules.batchnorm._BatchNorm` keeps; ``"timestep"``,
            recurrent batch norm's; ``"instance"``; ``"fixed"``, which nothing moves;
            ``"compiled"``, a batch norm's that `torch.jit` has compiled; ``"other"``, what a class
            unknown here keeps.
        mean, var: running_mean and running_var; None if the layer goes by the batch always.
        tracked: num_batches_tracked, or None.
        name: of the class, before it was compiled.
    """

    of: str
    mean: Tensor | None
    var: Tensor | None
    tracked: Tensor | None
    name: str

    @property
    def there(self) -> bool:
        """Whether there are both a mean and a variance."""
        return self.mean is not None and self.var is not None


_KEEPS = (
    (_BatchNorm, "batch"),
    (TimestepBatchNorm, "timestep"),
    (_InstanceNorm, "instance"),
    (FrozenBatchNorm, "fixed"),
)


def running(module: nn.Module) -> Running | None:
    """Say whether and where ``module`` itself keeps running statistics; its parts are not asked.

    Example:
        >>> running(nn.BatchNorm1d(2)).of, running(nn.BatchNorm1d(2)).mean
        ('batch', tensor([0., 0.]))
        >>> running(nn.InstanceNorm1d(2)) is None
        True
    """
    names = ("running_mean", "running_var", "num_batches_tracked")
    mean, var, tracked = (_tensor(module, name) for name in names)
    of = next((of for cls, of in _KEEPS if isinstance(module, cls)), "other")
    name = type_before_parametrizations(module).__name__
    if isinstance(module, ScriptModule):
        name = str(getattr(module, "original_name", name))
        of = "other" if "InstanceNorm" in name or "Frozen" in name else "compiled"
    if of != "batch" and (mean is None or var is None):
        return None
    return Running(of, mean, var, tracked, name)


def _tensor(module: nn.Module, name: str) -> Tensor | None:
    value = getattr(module, name, None)
    return value if isinstance(value, Tensor) else None


def synchronizes(module: nn.Module) -> bool:
    """Whether ``module`` adds up the statistics of all processes, where there are several."""
    return isinstance(module, nn.SyncBatchNorm)
