"""What a normalization layer with a ``forward`` of its own computes, found out by trying it.

People subclass torch's norms to add an activation, to normalize channels that come last, to cast.
A class is no promise of any of that, so a copy of the layer is called once, on random input in
float64, and its output and gradient are compared with what the layer would compute by its class, in
either layout and with each activation after it. What equals none of these is a stranger.
"""

from __future__ import annotations

import copy
import math
import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm

from gammabeta.ops.activations import ACTIVATIONS

_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
_CLOSE = {torch.float64: 1e-9, torch.float32: 2e-5}
"""What is equal: far above rounding, far below what another formula differs by. float32 is for
layers that cast to it."""


@dataclass(frozen=True)
class Finding:
    """What a probe found a layer to compute.

    Attributes:
        dim: the dim of its input that indexes the features: 1, or −1 for the last.
        activation: the name of what it applies afterwards, or None.
    """

    dim: int
    activation: str | None = None


def probe(layer: nn.Module) -> Finding | None:
    """Find out what ``layer``, of a class derived from torch's norms, computes.

    Args:
        layer: a layer whose class has a ``forward`` of its own. A copy of it is called, without
            its hooks, on the CPU; the layer and the random state stay as they are.

    Returns:
        What it computes, in training and in evaluation; None where it is none of what is known, or
        cannot be copied or called.

    Example:
        >>> class ReluNorm(nn.BatchNorm2d):
        ...     def forward(self, x):
        ...         return torch.relu(super().forward(x))
        >>> probe(ReluNorm(4))
        Finding(dim=1, activation='relu')
    """
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(0)
        try:
            with torch.enable_grad(), torch.inference_mode(False):
                for dtype in _CLOSE:
                    fitting = [_fitting(layer, training, dtype) for training in (False, True)]
                    for finding in fitting[0]:
                        if finding in fitting[1]:
                            return finding
        except Exception:  # whatever a stranger's code may raise: it remains a stranger
            pass
    return None


def _fitting(layer: nn.Module, training: bool, dtype: torch.dtype) -> list[Finding]:
    """The findings that agree with what a copy of ``layer`` computes in a mode."""
    pristine = _trial(layer, dtype).train(training)
    natural = feature_dim(pristine)
    found: list[Finding] = []
    for dim, shape in _shapes(pristine):
        x = (torch.randn(shape, dtype=dtype) * 2 + 0.5).requires_grad_()
        try:
            y = copy.deepcopy(pristine)(x)
        except Exception:  # it takes no input of that shape
            continue
        if not isinstance(y, Tensor) or y.shape != x.shape or not y.requires_grad:
            continue
        g = torch.randn_like(x)
        (slope,) = torch.autograd.grad(y, x, g)
        own = x.detach().requires_grad_()
        norm = _by_class(copy.deepcopy(pristine))
        z = norm(own if dim == natural else own.movedim(dim, natural))
        z = z if dim == natural else z.movedim(natural, dim)
        for name in (None, *ACTIVATIONS):
            want = z if name is None else ACTIVATIONS[name](z)
            (its,) = torch.autograd.grad(want, own, g, retain_graph=True)
            if _same(y, want) and _same(slope, its):
                found.append(Finding(dim, name))
    return found


def feature_dim(norm: nn.Module) -> int:
    """The dim of the features of a layer of torch's, by its class: −1 or 1."""
    return -1 if isinstance(norm, (nn.LayerNorm, nn.RMSNorm)) else 1


def _trial(layer: nn.Module, dtype: torch.dtype) -> Any:
    """A copy of ``layer`` on the CPU, without hooks, its γ, β and statistics uncommon."""
    trial = copy.deepcopy(layer)
    for module in trial.modules():
        for name in _HOOKS:
            module.__dict__[name] = OrderedDict()
    trial = trial.to("cpu", dtype)
    with torch.no_grad():
        for parameter in trial.parameters():
            parameter.copy_(torch.rand_like(parameter) + 0.5)
        for name, buffer in trial.named_buffers():
            if buffer.is_floating_point():
                buffer.copy_(torch.rand_like(buffer) + (0.5 if name.endswith("var") else -0.5))
    return trial.requires_grad_(False)


def _by_class(layer: Any) -> Callable[[Tensor], Tensor]:
    """What a layer of this class computes, of features where torch's layer has them."""
    weight, bias = layer.weight, getattr(layer, "bias", None)
    if isinstance(layer, _BatchNorm):
        mean, var = layer.running_mean, layer.running_var
        by_batch = layer.training or mean is None or var is None

        def batch(x: Tensor) -> Tensor:
            running = (None, None) if by_batch else (mean, var)
            return F.batch_norm(x, *running, weight, bias, by_batch, 0.0, layer.eps)

        return batch
    if isinstance(layer, _InstanceNorm):
        own = layer.training or not layer.track_running_stats
        running = (None, None) if own else (layer.running_mean, layer.running_var)
        return lambda x: F.instance_norm(x, *running, weight, bias, own, 0.0, layer.eps)
    if isinstance(layer, nn.GroupNorm):
        return lambda x: F.group_norm(x, layer.num_groups, weight, bias, layer.eps)
    if isinstance(layer, nn.RMSNorm):
        shape = list(layer.normalized_shape)
        return lambda x: F.rms_norm(x, shape, weight, layer.eps)
    if isinstance(layer, nn.LayerNorm):
        return lambda x: F.layer_norm(x, layer.normalized_shape, weight, bias, layer.eps)
    raise TypeError(type(layer).__name__)


def _shapes(layer: Any) -> Iterator[tuple[int, tuple[int, ...]]]:
    """Shapes of input to try, each with the dim of its features."""
    if isinstance(layer, (nn.LayerNorm, nn.RMSNorm)):
        shape = tuple(layer.normalized_shape)
        yield -1, (3, 2, *shape)
        if len(shape) == 1:
            yield from ((1, (4, *shape, *_around(shape[0], n))) for n in (2, 1))
            yield -1, (4, *_around(shape[0], 2), *shape)
        return
    c = layer.num_channels if isinstance(layer, nn.GroupNorm) else layer.num_features
    dims = next((d for d in (1, 2, 3) if _has_dims(layer, d)), 2)
    if isinstance(layer, _BatchNorm) and dims == 1:
        yield 1, (5, c)
    yield 1, (4, c, *_around(c, dims))
    yield -1, (4, *_around(c, dims), c)


def _around(c: int, dims: int) -> tuple[int, ...]:
    """Sizes of positions, none of which could be taken for ``c`` features."""
    return tuple(n for n in (3, 2, 5, 7) if n != c)[:dims]


def _has_dims(layer: nn.Module, dims: int) -> bool:
    names = [f"{stem}{dims}d" for stem in ("BatchNorm", "InstanceNorm")]
    return isinstance(layer, tuple(getattr(nn, name) for name in names))


def _same(a: Tensor, b: Tensor) -> bool:
    if a.shape != b.shape or a.dtype is not b.dtype:
        return False
    off = (a - b).abs().max().item()
    return math.isfinite(off) and off <= _CLOSE[b.dtype] * max(1.0, b.abs().max().item())
