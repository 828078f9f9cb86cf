"""x̂: what a normalization layer makes of its input before γ and β."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm

from gammabeta.layers.frozen import FrozenBatchNorm
from gammabeta.layers.ghost import _GhostBatchNorm
from gammabeta.layers.renorm import _BatchRenorm

NORMS = (_BatchNorm, _InstanceNorm, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm, FrozenBatchNorm)
"""The layers whose x̂ is known; gammabeta's are subclasses of these."""


def standardized(norm: nn.Module, x: Tensor) -> Tensor:
    """Return x̂ of ``norm`` for its input ``x``: each statistic over the axes the layer uses.

    Args:
        norm: one of `NORMS`; its training mode decides whose statistics are used. Its parameters
            and buffers are not touched.
        x: what ``norm`` is called with.

    Returns:
        x̂, shaped as ``x``, at least float32. Batch renorm's is the corrected one, by the moving
        averages as they are now; masked batch norm's takes all of ``x`` for real.

    Raises:
        TypeError: ``norm`` is not a layer whose x̂ is known.
    """
    x = x.to(torch.promote_types(x.dtype, torch.float32))
    if isinstance(norm, FrozenBatchNorm):
        return F.batch_norm(x, norm.running_mean, norm.running_var, eps=norm.eps)
    if isinstance(norm, _BatchNorm):
        if norm.training or norm.running_mean is None or norm.running_var is None:
            if isinstance(norm, _GhostBatchNorm):
                parts = torch.split(x, norm.virtual_batches(x.shape[0]))
                return torch.cat(
                    [F.batch_norm(p, None, None, training=True, eps=norm.eps) for p in parts]
                )
            if isinstance(norm, _BatchRenorm):
                _, _, r, d = norm.correction(x)
                return F.batch_norm(x, None, None, r, d, training=True, eps=norm.eps)
            return F.batch_norm(x, None, None, training=True, eps=norm.eps)
        return F.batch_norm(x, norm.running_mean, norm.running_var, eps=norm.eps)
    if isinstance(norm, _InstanceNorm):
        if norm.training or norm.running_mean is None or norm.running_var is None:
            return F.instance_norm(x, eps=norm.eps)
        return F.batch_norm(x, norm.running_mean, norm.running_var, eps=norm.eps)
    if isinstance(norm, nn.GroupNorm):
        return F.group_norm(x, norm.num_groups, eps=norm.eps)
    if isinstance(norm, nn.LayerNorm):
        return F.layer_norm(x, norm.normalized_shape, eps=norm.eps)
    if isinstance(norm, nn.RMSNorm):
        return F.rms_norm(x, list(norm.normalized_shape), eps=norm.eps)
    raise TypeError(f"norm is a {type(norm).__name__}; x̂ is known for torch's normalization layers")
