"""What a module with a ``forward`` of its own computes, found out by trying it.

People subclass torch's norms to add an activation, to normalize channels that come last, to cast;
and they write norms from scratch. A class is no promise of any of that, so copies of the module are
called on random input, and outputs and gradients are compared with what the module would compute by
its class (in either layout and with each activation after it) or by a formula of `formulas`. What
equals none of these is a stranger.

Only copies are called, on the CPU, outside of all modes and random states of the process. What is
too large, takes more than its input, or does more than compute is not called at all.
"""

from __future__ import annotations

import copy
import inspect
import math
import random
import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.jit import ScriptModule
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm
from torch.nn.parameter import is_lazy
from torch.utils import _python_dispatch

from gammabeta.layers.code import code_of
from gammabeta.layers.epilogue import Epilogue
from gammabeta.layers.formulas import Formula, features, fit
from gammabeta.layers.frozen import FrozenBatchNorm
from gammabeta.ops.activations import ACTIVATIONS

NORMS = (_BatchNorm, _InstanceNorm, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm, FrozenBatchNorm)
"""The classes whose formula is known; gammabeta's layers are subclasses of these."""

_WITH_STATISTICS = (_BatchNorm, _InstanceNorm, FrozenBatchNorm, nn.GroupNorm)
"""Those whose subclasses compute what the class says, or are strangers."""

_Fitting = Callable[[nn.Module, bool, torch.dtype], "list[Finding]"]

_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
_CLOSE = {torch.float64: 1e-9, torch.float32: 2e-5}
"""What is equal: far above rounding, far below what another formula differs by. float32 is for
layers that cast to it."""

_GAIN = 16.0
"""Of γ and β, so that an activation shows all that it does."""

_MOST = 2**17
"""Values of a tensor that is tried."""

_MORE_THAN_COMPUTING = frozenset(
    {"print", "open", "write", "append", "extend", "save", "add_scalar"}
)
_COMPUTES_A_NORM = frozenset({"mean", "var", "std", "rsqrt", "var_mean", "std_mean", "normalize"})
"""One of these, or a word with "norm" in it, is in the code of any norm written by hand."""


@dataclass(frozen=True)
class Finding:
    """What a probe found a layer to compute.

    Attributes:
        dim: the dim of its input that indexes the features: 1, or −1 for the last.
        activation: the name of what it applies afterwards, or None.
        formula: how x̂ is made; None where it is what the layer's class says.
    """

    dim: int
    activation: str | None = None
    formula: Formula | None = None


def probe(layer: nn.Module) -> Finding | None:
    """Find out what ``layer`` computes.

    Args:
        layer: a layer whose class has a ``forward`` of its own; derived from torch's norms, or a
            `candidate`. Copies of it are called, without hooks; the layer and the random states
            stay as they are.

    Returns:
        What it computes, in training and in evaluation; None where it is none of what is known, or
        cannot be copied or called.

    Example:
        >>> class ReluNorm(nn.BatchNorm2d):
        ...     def forward(self, x):
        ...         return torch.relu(super().forward(x))
        >>> probe(ReluNorm(4))
        Finding(dim=1, activation='relu', formula=None)
    """
    try:
        if reason_untried(layer):
            return None
        with apart():
            ways: list[tuple[_Fitting, torch.dtype]] = []
            if isinstance(layer, NORMS):
                ways += [(_fitting, dtype) for dtype in _CLOSE]
            if not isinstance(layer, _WITH_STATISTICS):  # such as a layer norm with γ = 1 + weight
                ways += [(_fitting_by_hand, torch.float32)]
            for fitting, dtype in ways:
                both = [fitting(layer, training, dtype) for training in (False, True)]
                for finding in both[0]:
                    if finding in both[1]:
                        return finding
    except Exception:  # whatever a stranger's code may raise: it remains a stranger
        pass
    return None


def candidate(module: nn.Module) -> bool:
    """Whether ``module``, derived from none of torch's norms, may be a norm written by hand.

    It may if it has one or two tensors of one size, or "norm" in its class's name; if its parts
    have no tensors and are no norms themselves; and if its code has the words that a norm needs.
    """
    cls = type(module)
    if isinstance(module, (ScriptModule, *NORMS)) or cls.__module__.split(".")[0] == "torch":
        return False
    if any(isinstance(m, NORMS) or _tensors(m) for m in module.modules() if m is not module):
        return False
    named = "norm" in cls.__name__.lower()
    if not (_tensors(module) or named) or (size := features(module)) is None or size < 2:
        return False
    return named or any(w in _COMPUTES_A_NORM or "norm" in w for w in code_of(module).names)


def reason_of_tensors(module: nn.Module) -> str:
    """Why the tensors of ``module`` keep it from being tried; "" if they do not."""
    tensors = (*module.parameters(), *module.buffers())
    if any(is_lazy(t) or t.is_meta for t in tensors):
        return "has tensors without values"
    if any(type(t) not in (Tensor, nn.Parameter) for t in tensors):
        return "has tensors of an unsupported type"  # sharded: random values may need a collective
    if any(t.numel() > _MOST for t in tensors):
        return "is too large for a trial run"
    return ""


def reason_untried(module: nn.Module) -> str:
    """Why ``module`` is not tried; "" if it may be."""
    why = reason_of_tensors(module)
    if why:
        return why
    code = code_of(module)
    more = sorted(code.names & _MORE_THAN_COMPUTING)
    if code.shares:
        return "refers to a module or tensor that a copy would share"
    if more:
        return f"has side effects ({more[0]})"
    own = ("residual",) if isinstance(module, Epilogue) else ()
    optional = [
        name
        for name, parameter in list(inspect.signature(module.forward).parameters.items())[1:]
        if parameter.default is not parameter.empty and name not in own
    ]
    return f"has more arguments than its input ({optional[0]})" if optional else ""


def _tensors(module: nn.Module) -> list[Tensor]:
    return [t for t in (*module._parameters.values(), *module._buffers.values()) if t is not None]


@contextmanager
def apart() -> Iterator[None]:
    """A place where nothing of the process is seen or changed: modes, random states, warnings."""
    python, array = random.getstate(), numpy.random.get_state()
    try:
        with ExitStack() as stack:
            stack.callback(torch.set_rng_state, torch.get_rng_state())
            torch.default_generator.manual_seed(0)  # torch.manual_seed would seed devices, too
            stack.enter_context(warnings.catch_warnings())
            warnings.simplefilter("ignore")
            stack.enter_context(_python_dispatch._disable_current_modes())
            stack.enter_context(torch.device("cpu"))
            stack.enter_context(torch.autocast("cpu", enabled=False))
            stack.enter_context(torch.inference_mode(False))
            stack.enter_context(torch.enable_grad())
            yield
    finally:
        random.setstate(python)
        numpy.random.set_state(array)


class Alone(_python_dispatch.TorchDispatchMode):  # type: ignore[no-untyped-call]
    """No call reaches other processes, which may not be calling."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if "c10d" in func.namespace:
            raise RuntimeError(f"{func} communicates with other processes")
        return func(*args, **(kwargs or {}))


def _fitting_by_hand(layer: nn.Module, training: bool, dtype: torch.dtype) -> list[Finding]:
    """The findings by `formulas` that agree with what a copy of ``layer`` computes in a mode."""
    pristine = trial(layer, dtype).train(training)
    c = features(pristine) or 0
    shapes: list[tuple[int, tuple[int, ...]]] = [(-1, (3, 2, c))]
    shapes += [(1, (4, c, *_around(c, n))) for n in (2, 1)]
    return [
        Finding(dim, name, formula)
        for dim, name, formula in fit(pristine, partial(_called, pristine), shapes)
    ]


def _called(pristine: nn.Module, x: Tensor, g: Tensor) -> tuple[Tensor, Tensor]:
    """What a copy of ``pristine`` gives for ``x``, and ``g`` times its derivative."""
    x = x.clone().requires_grad_()
    with Alone():  # type: ignore[no-untyped-call]
        y = copy.deepcopy(pristine).forward(x)  # past the hooks of all modules
        if not isinstance(y, Tensor) or y.shape != x.shape:
            raise TypeError("the output does not have the shape of the input")
        (slope,) = torch.autograd.grad(y, x, g)
    return y.detach(), slope


def _fitting(
    layer: nn.Module, training: bool, dtype: torch.dtype, gain: float = 1.0
) -> list[Finding]:
    """The findings that agree with what a copy of ``layer`` computes in a mode.

    Args:
        layer: it is not called.
        training: the mode.
        dtype: of the trial.
        gain: γ and β are multiplied by it.
    """
    pristine = trial(layer, dtype, gain).train(training)
    natural = feature_dim(pristine)
    found: list[Finding] = []
    for dim, shape in _shapes(pristine):
        x = torch.randn(shape, dtype=dtype) * 2 + 0.5
        g = torch.randn_like(x)
        try:
            y, slope = _called(pristine, x, g)
        except Exception:  # it takes no input of that shape
            continue
        own = x.clone().requires_grad_()
        norm = _by_class(copy.deepcopy(pristine))
        z = norm(own if dim == natural else own.movedim(dim, natural))
        z = z if dim == natural else z.movedim(natural, dim)
        for name in (None, *ACTIVATIONS):
            want = z if name is None else ACTIVATIONS[name](z)
            (its,) = torch.autograd.grad(want, own, g, retain_graph=True)
            if _same(y, want) and _same(slope, its):
                found.append(Finding(dim, name))
    if len(found) > 1 and gain == 1.0:  # such as ReLU and ReLU6, where no value is above 6
        clearly = _fitting(layer, training, dtype, _GAIN)
        found = [finding for finding in found if finding in clearly]
    return found


def feature_dim(norm: nn.Module) -> int:
    """The dim of the features of a layer of torch's, by its class: −1 or 1."""
    return -1 if isinstance(norm, (nn.LayerNorm, nn.RMSNorm)) else 1


def trial(layer: nn.Module, dtype: torch.dtype, gain: float = 1.0) -> Any:
    """A copy of ``layer`` on the CPU, without hooks, its γ, β and statistics uncommon.

    Args:
        layer: it is not changed.
        dtype: of the copy.
        gain: γ and β are multiplied by it.
    """
    copied = copy.deepcopy(layer)
    for module in copied.modules():
        for name in _HOOKS:
            module.__dict__[name] = OrderedDict()
    copied = copied.to("cpu", dtype)
    with torch.no_grad():
        for parameter in copied.parameters():
            parameter.copy_((torch.rand_like(parameter) + 0.5) * gain)
        for name, buffer in copied.named_buffers():
            if buffer.is_floating_point():
                buffer.copy_(torch.rand_like(buffer) + (0.5 if name.endswith("var") else -0.5))
    return copied.requires_grad_(False)


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
    if isinstance(layer, FrozenBatchNorm):
        mean, var = layer.running_mean, layer.running_var
        return lambda x: F.batch_norm(x, mean, var, weight, bias, False, 0.0, layer.eps)
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
    return f"Norm{dims}d" in str(type(layer).__mro__)


def _same(a: Tensor, b: Tensor) -> bool:
    if a.shape != b.shape or a.dtype is not b.dtype:
        return False
    off = (a - b).abs().max().item()
    return math.isfinite(off) and off <= _CLOSE[b.dtype] * max(1.0, b.abs().max().item())
