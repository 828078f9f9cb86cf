"""Compute x̂, the normalized input of a layer before γ and β."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gammabeta.layers.probe import feature_dim
from gammabeta.layers.traits import traits


def standardized(norm: nn.Module, x: Tensor) -> Tensor:
    """Return x̂ of ``norm`` for its input ``x``: each statistic over the axes the layer uses.

    Args:
        norm: a layer that `gammabeta.layers.traits.traits` knows; its training mode decides whose
            statistics are used. Its parameters and buffers are not touched.
        x: the input of ``norm``.

    Returns:
        x̂, shaped as ``x``, at least float32. Batch renorm's is the corrected one, by the moving
        averages as they are now; masked batch norm's treats all of ``x`` as real values.

    Raises:
        TypeError: what ``norm`` computes is unknown.
    """
    what = traits(norm, x)
    if not what.normalizes:
        raise TypeError(
            f"norm is a {type(norm).__name__}; give one of torch's normalization "
            "layers, or a module that computes the same formula"
            + (f": {what.stranger}" if what.stranger else "")
        )
    x = x.to(torch.promote_types(x.dtype, torch.float32))
    if what.finding is not None and what.finding.formula is not None:
        return what.finding.formula.x_hat(x, what.dim, norm)
    natural = feature_dim(norm)
    if what.dim == 0:
        return _standardized(norm, x.unsqueeze(0), what.family).squeeze(0)
    if what.dim != natural:
        return _standardized(norm, x.movedim(what.dim, natural), what.family).movedim(
            natural, what.dim
        )
    return _standardized(norm, x, what.family)


def _standardized(norm: Any, x: Tensor, family: str) -> Tensor:
    """The same, of features where torch's layer has them."""
    if family == "group":
        return F.group_norm(x, norm.num_groups, eps=norm.eps)
    if family == "rms":
        return F.rms_norm(x, list(norm.normalized_shape), eps=norm.eps)
    if family == "layer":
        return F.layer_norm(x, norm.normalized_shape, eps=norm.eps)
    fixed = family == "frozen" or not norm.training
    if fixed and norm.running_mean is not None and norm.running_var is not None:
        mean, var = norm.running_mean.to(x.dtype), norm.running_var.to(x.dtype)
        return F.batch_norm(x, mean, var, eps=norm.eps)
    if family == "instance":
        return F.instance_norm(x, eps=norm.eps)
    if family == "ghost":
        parts = torch.split(x, norm.virtual_batches(x.shape[0]))
        return torch.cat(
            [F.batch_norm(part, None, None, training=True, eps=norm.eps) for part in parts]
        )
    if family == "batch-renorm":
        _, _, r, d = norm.correction(x)
        return F.batch_norm(x, None, None, r, d, training=True, eps=norm.eps)
    return F.batch_norm(x, None, None, training=True, eps=norm.eps)
