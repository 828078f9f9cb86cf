"""What modules say of a forward pass: which one is at work, and what functions do not show.

Norms of gammabeta's own kernels, norms written out by hand and activations written out by hand are
made of functions that say nothing alone. Hooks before and after the module show them.
"""

from __future__ import annotations

import weakref
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from gammabeta.layers.deferred import KNOWS
from gammabeta.layers.standardized import standardized
from gammabeta.layers.traits import Traits, affine, is_ours, traits
from gammabeta.signal.functions import first_tensor
from gammabeta.signal.rows import Row, Scale
from gammabeta.signal.sampling import take

if TYPE_CHECKING:
    from gammabeta.signal.capture import Capture

_NO_ACTIVATION = (nn.Identity, nn.Flatten, nn.Unflatten, nn.modules.dropout._DropoutNd)


@dataclass
class Known:
    """What was found out about modules in earlier frames.

    Attributes:
        traits: module → what it is.
        elementwise: module → whether it looks like an activation.
    """

    traits: weakref.WeakKeyDictionary[nn.Module, Traits] = field(
        default_factory=weakref.WeakKeyDictionary
    )
    elementwise: weakref.WeakKeyDictionary[nn.Module, bool] = field(
        default_factory=weakref.WeakKeyDictionary
    )


class Modules:
    """The hooks of a `Capture` on modules.

    Args:
        capture: where the rows are.
        known: what was found out in earlier frames; more is added.
    """

    def __init__(self, capture: Capture, known: Known) -> None:
        self._capture = capture
        self._known = known
        self._calls: list[_Call] = []

    def ask(self, module: nn.Module) -> None:
        """Find out what ``module`` is, once. A copy of it may be called for this."""
        if module in self._known.traits:
            return
        leaf = next(module.children(), None) is None
        if leaf or "norm" in type(module).__name__.lower():
            self._known.traits[module] = traits(module)

    def hooks(self, module: nn.Module) -> list[RemovableHandle]:
        """Put hooks on ``module``."""
        return [
            module.register_forward_pre_hook(self.before, with_kwargs=True),
            module.register_forward_hook(self.after, with_kwargs=True, always_call=True),
        ]

    def before(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        """Note that ``module`` is at work, and what it is called with."""
        capture = self._capture
        if module in capture.names and not torch.compiler.is_compiling():  # else a copy
            capture.stack.append(module)
            capture.guarded(self._note, module, args, kwargs)

    def after(self, module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        """Measure what the functions inside ``module`` did not show."""
        capture = self._capture
        if torch.compiler.is_compiling() or module not in capture.stack:
            return
        while capture.stack and capture.stack[-1] is not module:  # they raised
            capture.stack.pop()
        call = None
        while self._calls and len(self._calls) >= len(capture.stack):
            call = self._calls.pop()
        if call is not None and call.module is module and output is not None:
            with torch.no_grad():
                capture.guarded(self._close, call, output)
        if call is not None:
            call.forget()
        if capture.stack:
            capture.stack.pop()

    setattr(after, KNOWS, True)  # what it measures it does not compute for the model

    def is_inside_leaf(self, x: Tensor) -> bool:
        """Whether a module without parts is at work on something else than ``x``, its input."""
        call = self._calls[-1] if self._calls else None
        return call is not None and len(self._calls) > 1 and call.leaf and call.x is not x

    def _note(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        x = args[0] if args else next(iter(kwargs.values()), None)
        leaf = next(module.children(), None) is None
        what = self._known.traits.get(module)
        call = _Call(module, x if isinstance(x, Tensor) else None, leaf, what)
        while len(self._calls) < len(self._capture.stack) - 1:  # an earlier note failed
            self._calls.append(_Call(module, None, False, None))
        self._calls.append(call)
        if what is not None and what.normalizes and call.x is not None:
            if what.family == "instance":  # its input may have no batch dim
                what = call.traits = traits(module, call.x)
            call.affine = affine(module)
            if is_ours(type(module)):
                call.residual = args[1] if len(args) > 1 else kwargs.get("residual")
        elif what is not None and what.stranger:
            self._capture.strangers[self._capture.names[module]] = what.stranger
        call.rows = len(self._capture.rows)

    def _close(self, call: _Call, output: Any) -> None:
        capture, x = self._capture, call.x
        y = first_tensor(output)
        if y is None:
            return
        row, stage = capture.recognize(y)
        if isinstance(output, Tensor) and row is not None:  # a function was seen to compute it
            if stage == "affine" and x is not None:
                self._whole_if_zero(call, row, x)
            return
        if call.traits is not None and call.traits.normalizes and x is not None:
            self._norm(call, x, y)
        elif call.leaf and x is not None and isinstance(output, Tensor):
            self._leaf(call, x, y)
        elif call.leaf and _has_weights(call.module):
            capture.unknown(call.module, y)

    def _leaf(self, call: _Call, x: Tensor, y: Tensor) -> None:
        """Measure a module without parts whose functions are not known."""
        capture = self._capture
        row, stage = capture.recognize(x)
        if isinstance(call.module, _NO_ACTIVATION):
            if row is not None:
                capture.remember(y, row, stage)
        elif (
            row is not None
            and row.activation is None
            and stage in (row.preactivation, "z")
            and y.shape == x.shape
            and y is not x
            and self._is_elementwise(call.module, x, y)
        ):
            capture.activation(type(call.module).__name__.lower(), x, y)
        elif _has_weights(call.module) and len(capture.rows) == call.rows:
            capture.unknown(call.module, y)

    def _is_elementwise(self, module: nn.Module, x: Tensor, y: Tensor) -> bool:
        if module not in self._known.elementwise:
            self._known.elementwise[module] = _is_elementwise(x, y)
        return self._known.elementwise[module]

    def norm_output(self, x: Tensor, y: Tensor, weight: Any, bias: Any, dim: int) -> Row:
        """Measure the output ``y`` of a norm of ``x``, before any activation."""
        capture = self._capture
        row = self._row_of_norm(x, weight, dim)
        row.normed = True
        row.norm = self._calls[-1] if self._calls else None
        gamma = weight if isinstance(weight, Tensor) else None
        beta = bias if isinstance(bias, Tensor) else None
        for parameter in (gamma, beta):
            if parameter is not None:
                capture.norms[id(parameter)] = row.name
        capture.measure(row, "affine", y, dim)
        if all(p is None or p.dim() == 1 for p in (gamma, beta)):
            row.scale = Scale(_copy(gamma), _copy(beta))
        return row

    def _row_of_norm(self, x: Tensor, weight: Any, dim: int) -> Row:
        """Return the row that a norm of ``x`` belongs to; a new one if none ends with ``x``."""
        capture = self._capture
        row, stage = capture.recognize(x)
        if row is not None and stage == "z" and not (row.normed or row.activation or row.embeds):
            return row
        known = capture.name_of(weight)
        return capture.start(capture.row_of(known) if known else capture.place() or "norm", x, dim)

    def _norm(self, call: _Call, x: Tensor, y: Tensor) -> None:
        """Measure a norm by its module: its own kernel, or a formula written out by hand."""
        capture, what = self._capture, call.traits
        if what is None:
            return
        weight, bias = call.affine
        if what.activation is None and call.residual is None:
            row = self.norm_output(x, y, weight, bias, what.dim)
            self._whole_if_zero(call, row, x)
            return
        found, _ = capture.recognize(x)
        inside = found is not None and found.norm is call  # a function in it was seen
        row = found if found is not None and inside else self._row_of_norm(x, weight, what.dim)
        row.normed = True
        for parameter in (weight, bias):
            if parameter is not None:
                capture.norms[id(parameter)] = row.name
        self._fused(call, row, x, y)

    def _fused(self, call: _Call, row: Row, x: Tensor, y: Tensor) -> None:
        """Measure a norm with a fused activation, or residual; compute what lies inside."""
        capture, what = self._capture, call.traits
        if what is None:
            return
        x_hat = _x_hat(call.module, x)
        if x_hat is None:
            return
        if row.again:
            return
        row.signals["normalized"] = capture.sample(x_hat, what.dim)
        gamma, beta = (_along(p, x_hat, what.dim) for p in call.affine)
        inner = x_hat if gamma is None else x_hat * gamma
        inner = inner if beta is None else inner + beta
        row.signals["affine"] = capture.sample(inner, what.dim)
        if isinstance(call.residual, Tensor) and what.activation is not None:
            row.signals["residual"] = capture.sample(inner + call.residual, what.dim)
        row.activation = what.activation
        stage = "activation" if what.activation else "residual"
        capture.measure(row, stage, y, what.dim)

    def _whole_if_zero(self, call: _Call, row: Row | None, x: Tensor) -> None:
        """Compute x̂ itself where γ is 0 somewhere, so that the output does not tell it."""
        if row is None or row.again or row.scale is None or row.scale.gamma is None:
            return
        if x.device.type != "cpu":  # asking would wait for the device
            return
        if call.traits is None or not call.traits.normalizes or "normalized" in row.signals:
            return
        if bool((row.scale.gamma == 0).any()):
            x_hat = _x_hat(call.module, x)
            if x_hat is not None and "affine" in row.signals:
                dim = row.signals["affine"].dim
                row.signals["normalized"] = self._capture.sample(x_hat, dim)


class _Call:
    """A call of a module that has not returned."""

    def __init__(
        self, module: nn.Module, x: Tensor | None, leaf: bool, what: Traits | None
    ) -> None:
        self.module = module
        self.x = x
        self.leaf = leaf
        self.traits = what
        self.affine: tuple[Tensor | None, Tensor | None] = (None, None)
        self.residual: Any = None
        self.rows = 0

    def forget(self) -> None:
        """Let go of the tensors: a row remembers its call, and would keep the graph alive."""
        self.x = self.residual = None
        self.affine = (None, None)


_NOT_FUNCTIONS = (
    nn.MultiheadAttention,
    nn.TransformerEncoderLayer,
    nn.TransformerDecoderLayer,
)


def is_function(module: nn.Module) -> bool:
    """Whether a module is torch's own and only calls one function, which the mode sees."""
    home = type(module).__module__
    return (
        home.startswith("torch.nn.modules.")
        and "forward" not in vars(module)
        and not isinstance(module, _NOT_FUNCTIONS)
    )


def _has_weights(module: nn.Module) -> bool:
    return next(module.parameters(recurse=False), None) is not None


def _x_hat(norm: nn.Module, x: Tensor) -> Tensor | None:
    with torch.no_grad(), torch.autocast(x.device.type, enabled=False):
        try:
            return standardized(norm, x)
        except (TypeError, ValueError, RuntimeError):
            return None


def _copy(parameter: Tensor | None) -> Tensor | None:
    return None if parameter is None else parameter.detach().clone()


def _along(parameter: Tensor | None, x: Tensor, dim: int) -> Tensor | None:
    """Return a view of γ or β that broadcasts along the features of ``x``."""
    if parameter is None or dim == -1:
        return parameter
    return parameter.reshape(-1, *(1,) * (x.dim() - 1 - dim))


def _is_elementwise(x: Tensor, y: Tensor) -> bool:
    """Whether ``y`` looks like a function of ``x``, value by value, and not like a dropout.

    The sampled values are sorted by x. A function's values then change little from one to the
    next, however steep it is: their changes add up to a few times their range.
    """
    a, b = take(x).cpu().numpy(), take(y).cpu().numpy()
    if len(a) != len(b) or x.stride() != y.stride() or len(a) < 8:
        return True
    order = np.argsort(a)
    a, b = a[order], b[order]
    kept = np.isfinite(a) & np.isfinite(b)
    a, b = a[kept], b[kept]
    reach = float(b.max() - b.min()) if len(b) else 0.0
    return reach == 0.0 or float(np.abs(np.diff(b)).sum()) <= 6 * reach
