"""Say why a layer cannot take part in folding, from the layer alone."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.jit import ScriptModule
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torch.nn.parameter import is_lazy
from torch.nn.utils.parametrize import is_parametrized, type_before_parametrizations

from gammabeta.conversion.graph.norms import eps_of, is_fixed, is_norm, probed
from gammabeta.conversion.graph.shadow import HOOKS
from gammabeta.layers.traits import has_own_forward, lineage, synchronizes

_TENSORS = frozenset({"weight", "bias"})
_STATISTICS = frozenset({"running_mean", "running_var", "num_batches_tracked"})


def is_host(module: nn.Module) -> bool:
    """Whether ``module`` is by its class a layer that a norm can be folded into."""
    return isinstance(module, (nn.Linear, _ConvNd))


def dims_of(module: nn.Module) -> int | None:
    """Return the number of spatial dims of a norm or host; 0 for a linear layer, None for any."""
    if isinstance(module, nn.Linear):
        return 0
    if synchronizes(module):
        return None
    cls = type_before_parametrizations(module).__mro__
    names = [kind.__name__ for kind in cls]
    return next((int(name[-2]) for name in names if name[-2:] in ("1d", "2d", "3d")), None)


def inputs_of(host: Any) -> int:
    """Return the number of channels that ``host`` takes."""
    return int(host.in_features if isinstance(host, nn.Linear) else host.in_channels)


def outputs_of(host: Any) -> int:
    """Return the number of channels that ``host`` gives."""
    return int(host.out_features if isinstance(host, nn.Linear) else host.out_channels)


def is_transposed(host: nn.Module) -> bool:
    """Whether ``host`` is a transposed convolution."""
    return isinstance(host, _ConvTransposeNd)


def reason_norm(norm: Any) -> str:
    """Why the batch norm ``norm`` cannot be folded; "" if nothing of its own is in the way."""
    if norm.training and not is_fixed(norm):
        return "it is in training mode and normalizes by the batch; call eval()"
    known = probed(norm) is not None
    reason = _reason_of_any(norm, _TENSORS, _STATISTICS, known)
    if reason:
        return reason
    if norm.running_mean is None or norm.running_var is None:
        return "it has no running statistics, so it normalizes by the batch in evaluation too"
    if not bool(norm.running_mean.isfinite().all() & norm.running_var.isfinite().all()):
        return "its running statistics are not finite"
    if bool((norm.running_var < 0).any()):
        return "its running variance is negative"
    if not bool((norm.running_var.double() + eps_of(norm) > 0).all()):
        return "its running variance is 0 and so is eps"
    return ""


def reason_host(host: Any) -> str:
    """Why nothing can be folded into the convolution or linear layer ``host``; "" if it can."""
    return _reason_of_any(host, _TENSORS, frozenset(), False)


def reason_kind(module: nn.Module) -> str:
    """Why a norm of another kind cannot be folded; "" if ``module`` is none."""
    cls = type_before_parametrizations(module)
    if isinstance(module, ScriptModule):
        compiled = str(getattr(module, "original_name", ""))
        return "torch.jit has compiled it" if "BatchNorm" in compiled else ""
    if is_norm(module):
        return ""
    if lineage(module):
        return f"{cls.__name__} normalizes by its input in evaluation too"
    if "BatchNorm" in cls.__name__:
        return f"{cls.__name__} is no batch norm of torch's or gammabeta's"
    return ""


def _reason_of_any(
    module: Any, parameters: frozenset[str], buffers: frozenset[str], known: bool
) -> str:
    """What of ``module`` would be lost, or may do more than its class says."""
    name = type_before_parametrizations(module).__name__
    if any(map(is_lazy, (*module._parameters.values(), *module._buffers.values()))):
        return "it is uninitialized; call the model on a batch first"
    if "forward" in module.__dict__:
        return "its forward was replaced on the object"
    if is_parametrized(module):
        return "it is parametrized; torch.nn.utils.parametrize.remove_parametrizations() first"
    if has_own_forward(module) and not known:
        return f"{name} is a subclass with a forward of its own"
    if any(
        "weight_norm" in type(h).__name__.lower() or "WeightNorm" in type(h).__name__
        for h in module._forward_pre_hooks.values()
    ):
        return "it has weight norm; torch.nn.utils.remove_weight_norm() first"
    own = module._parameters.keys() - parameters - buffers
    own |= module._buffers.keys() - parameters - buffers
    if own:
        pruned = any(key.endswith(("_orig", "_mask")) for key in own)
        return (
            "it is pruned; torch.nn.utils.prune.remove() first"
            if pruned
            else (f"it has a tensor of its own, {sorted(own)[0]!r}")
        )
    if _hooked(module):
        return "it has hooks, which would be lost or see other values; remove them first"
    if module._modules and not known:
        return "it has modules inside"
    if any(_hooked(part) for part in module.modules()):
        return "it has a module inside that has hooks; remove them first"
    return _reason_of_tensors(module)


def _hooked(module: nn.Module) -> bool:
    return any(module.__dict__.get(hooks) for hooks in HOOKS)


def _reason_of_tensors(module: nn.Module) -> str:
    for name, tensor in (*module._parameters.items(), *module._buffers.items()):
        if tensor is None or name == "num_batches_tracked":
            continue
        if type(tensor) not in (Tensor, nn.Parameter, nn.Buffer):
            return f"its {name} is a {type(tensor).__name__}"
        if tensor.is_meta:
            return f"its {name} has no values (device 'meta')"
        if not tensor.is_floating_point() or tensor.layout is not torch.strided:
            return f"its {name} is of type {tensor.dtype}, {tensor.layout}"
        if name in _TENSORS and not bool(tensor.isfinite().all()):
            return f"its {name} is not finite"
    return ""
