"""Which modules are batch norms that may be folded, and what they compute in evaluation.

Torch's classes and gammabeta's, by their class; other people's, if a probe has found that they
compute batch norm, followed by at most one activation.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.jit import ScriptModule

from gammabeta.layers.traits import Traits, affine, has_own_forward, lineage, traits


def is_norm(module: nn.Module) -> bool:
    """Whether ``module`` is a batch norm, whatever may be wrong with it.

    Example:
        >>> is_norm(nn.BatchNorm2d(4)), is_norm(nn.LayerNorm(4))
        (True, False)
    """
    return bool({"batch", "frozen"} & {*lineage(module)}) or probed(module) is not None


def probed(module: nn.Module) -> Traits | None:
    """Return what a probe found of somebody's batch norm; None if it is none, or of torch's.

    Example:
        >>> class Doubled(nn.BatchNorm2d):
        ...     def forward(self, x):
        ...         return 2 * super().forward(x)
        >>> probed(Doubled(4)), probed(nn.BatchNorm2d(4))
        (None, None)
    """
    if isinstance(module, ScriptModule) or "forward" in module.__dict__:
        return None
    if module._buffers.get("running_mean") is None or not has_own_forward(module):
        return None
    if lineage(module)[:1] not in ((), ("batch",)):
        return None
    its = traits(module)
    if its.family not in ("batch", "frozen") or not its.normalizes or its.dim != 1:
        return None
    if its.finding is None:
        return None
    formula = its.finding.formula
    odd = formula is not None and (formula.outside or formula.unbiased or formula.unit)
    return None if odd else its


def is_fixed(norm: nn.Module) -> bool:
    """Whether ``norm`` normalizes by its running statistics in training mode, too."""
    its = probed(norm)
    return "frozen" in (lineage(norm) if its is None else (its.family,))


def activation_of(norm: Any) -> str | None:
    """Return the name of the activation that ``norm`` applies, or None."""
    its = probed(norm)
    return getattr(norm, "activation", None) if its is None else its.activation


def channels_of(norm: Any) -> int:
    """Return the number of channels of ``norm``, which has running statistics."""
    return int(norm.running_mean.numel())


def eps_of(norm: Any) -> float:
    """Return the number that ``norm`` adds to the variance."""
    its = probed(norm)
    formula = None if its is None or its.finding is None else its.finding.formula
    return float(norm.eps if formula is None else formula.eps)


def gamma_beta(norm: nn.Module) -> tuple[Tensor | None, Tensor | None]:
    """Return γ and β of ``norm``; None where it has none."""
    return affine(norm)
