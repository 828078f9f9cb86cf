"""What happens inside a forward pass: every call of a norm, and what each module returns."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules import module as hooks
from torch.overrides import TorchFunctionMode

from gammabeta.doctor.examplewise import Trace, rows
from gammabeta.doctor.feature_axis import FeatureAxes
from gammabeta.doctor.producers import ACTIVATIONS, DROPOUTS, Producers
from gammabeta.doctor.subject import Subject
from gammabeta.layers.traits import lineage, mini_batches, traits

if TYPE_CHECKING:
    from gammabeta.doctor.evidence import Pass


@dataclass
class Call:
    """One call of a norm in a pass.

    Attributes:
        layer: its path.
        module: the norm.
        shape: of the input.
        dim: the dim that indexes the features.
        values: number of values of a feature, hence of each statistic of a batch norm.
        mean, var: (C,) float64 by feature over all other dims, the variance biased; None if the
            input has no such dim.
        finite: whether all input values are finite.
        by_batch: whether it normalizes by statistics of the mini-batch in this call.
        number: which distinct input tensor of the pass this is, counted from 0.
        out: its output, summed up.
        halves: of a batch norm: (mean, var) of the first and of the second half of the batch; None
            if the batch cannot be halved.
        source: path of the layer whose output this is; "" if it is not known.
        rows: (N, C) float32 mean of each row of the input's first dim by feature, or None.
        axis: the dim of the input that indexes features according to the layer that made it; None
            if that is not known. See `gammabeta.doctor.feature_axis`.
    """

    layer: str
    module: Any
    shape: tuple[int, ...]
    dim: int
    values: int
    mean: Any
    var: Any
    finite: bool
    by_batch: bool
    number: int = 0
    out: Output | None = None
    halves: tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]] | None = None
    source: str = ""
    rows: Tensor | None = None
    axis: int | None = None


@dataclass
class Output:
    """What a module returned, summed up by feature (dim 1; the last of a 2- or 3-d output).

    An activation's features are in the dim of the layer before it, where that is known.

    Attributes:
        layer: path of the module; of a function, of the innermost module that called it.
        module: the module.
        shape: of the output.
        low, high, mean, var: (C,) float32, over all other dims; the variance biased.
        zeros: (C,) share of values that are exactly 0.
        finite: whether all values are finite.
        max_abs: largest magnitude of the finite values.
        dim: the dim that indexes the features.
        source: path of the layer whose output its input is, perhaps after an activation that was
            called as a function; "" if it is not known.
        function: name of an activation that was called as a function, such as ``"relu"``; "" for
            the output of a module.
        dtype: of the output.
    """

    layer: str
    module: nn.Module
    shape: tuple[int, ...]
    low: Tensor
    high: Tensor
    mean: Tensor
    var: Tensor
    zeros: Tensor
    finite: bool
    max_abs: float
    dim: int = 1
    source: str = ""
    function: str = ""
    dtype: torch.dtype = torch.float32


@dataclass
class Broken:
    """The first output of a pass that has non-finite values.

    Attributes:
        layer: path of the module that made it; "" is the model's own code.
        module: the module, or None.
        nan: whether there is a NaN among them.
        dtype: of the output.
        largest: largest magnitude of the finite values of its input.
        code: whether the module's own code made it, between its parts.
    """

    layer: str
    module: nn.Module | None
    nan: bool
    dtype: torch.dtype
    largest: float
    code: bool


@dataclass
class Functional:
    """A call of a functional norm that no norm module made.

    Attributes:
        layer: path of the innermost module of the model that was at work.
        name: name of the function, such as ``"batch_norm"``.
        training: whether it normalized by the batch.
        running: whether it was given running statistics.
        registered: whether its running statistics (or its weight) belong to the model.
        values: number of values of a feature.
        examples: size of the first dim of its input.
    """

    layer: str
    name: str
    training: bool
    running: bool
    registered: bool
    values: int
    examples: int = 0


Look = Callable[[Call, Tensor], None]
"""Called with each call of a norm and the norm's input."""


@contextmanager
def observing(
    subject: Subject, result: Pass, look: Look | None = None, *, traced: bool = False
) -> Iterator[None]:
    """Fill ``result`` from a forward pass of the subject's model.

    Args:
        subject, result: what is examined, and what is filled.
        look: called with each call of a norm and the norm's input.
        traced: whether ``result.traces`` is filled.
    """
    watcher = _Watcher(subject, result, look, traced)
    handles = [
        hooks.register_module_forward_pre_hook(watcher.before),
        hooks.register_module_forward_hook(watcher.after, always_call=True),
    ]
    try:
        with watcher:
            yield
    finally:
        for handle in handles:
            handle.remove()


_FUNCTIONAL = {
    F.batch_norm: "batch_norm",
    torch.batch_norm: "batch_norm",
    F.instance_norm: "instance_norm",
}


@dataclass(eq=False)
class _Watcher(TorchFunctionMode):
    subject: Subject
    result: Pass
    look: Look | None = None
    traced: bool = False
    axes: FeatureAxes = field(default_factory=FeatureAxes)
    inputs: list[Tensor | None] = field(default_factory=list)
    stack: list[nn.Module] = field(default_factory=list)
    seen: dict[int, int] = field(default_factory=dict)
    kept: list[Tensor] = field(default_factory=list)
    producers: Producers = field(default_factory=Producers)
    sources: list[tuple[str, int | None]] = field(default_factory=list)
    arguments: list[Any] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()
        self.mine = {
            id(tensor)
            for tensors in (self.subject.model.parameters(), self.subject.model.buffers())
            for tensor in tensors
        }
        self.norms = {norm.module: norm for norm in self.subject.norms}

    # Modules, registered or not

    def before(self, module: nn.Module, args: Any) -> None:
        if torch.compiler.is_compiling():
            return
        self.stack.append(module)
        self.inputs.append(rows(args) if self.traced else None)
        self.sources.append(self.producers.of(args[0] if args else None))
        self.arguments.append(args)
        norm = self.norms.get(module)
        if norm is None:
            if lineage(module) and not self.is_registered(module):
                self.result.unregistered.append((self.path(), module))
            return
        for x in mini_batches(module, args, {}):
            if isinstance(x, Tensor):
                self.result.calls.append(self.call(norm.path, module, x))
                self.result.calls[-1].source = self.producers.of(x)[0]
                if self.look is not None:
                    self.look(self.result.calls[-1], x.detach())

    def after(self, module: nn.Module, args: Any, output: Any) -> None:
        if torch.compiler.is_compiling() or module not in self.stack:
            return
        source: tuple[str, int | None] = ("", None)
        before = None
        while self.stack:
            source, before = self.sources.pop(), self.inputs.pop()
            self.arguments.pop()
            if self.stack.pop() is module:
                break
        path = self.subject.paths.get(module)
        if path is None:
            return
        if self.traced:
            self.result.traces.append(Trace(path, module, before, rows(output)))
        if self.result.broken is None:
            self.result.broken = self.broken(path, module, args, output)
        if next(module.children(), None) is not None:
            return
        if isinstance(output, Tensor) and output.is_floating_point() and output.dim() > 1:
            known = source if isinstance(module, _ELEMENTWISE) else (source[0], None)
            found = summed_up(path, module, output.detach(), known)
            if found is not None:
                self.result.outputs.append(found)
                self.producers.add(output, path, found.dim)
                calls = self.result.of(path) if module in self.norms else []
                if calls:
                    calls[-1].out = found

    def broken(self, path: str, module: nn.Module, args: Any, output: Any) -> Broken | None:
        y = _tensor(output)
        if y is None or bool(torch.isfinite(y).all()):
            return None
        x = _tensor(args)
        given = x is not None and not bool(torch.isfinite(x).all())
        if x is not None and given and self.stack:  # the code around it made it
            path = self.maker()
            around = self.subject.modules.get(path)
            return Broken(path, around, bool(torch.isnan(x).any()), x.dtype, 0.0, True)
        largest = 0.0 if x is None else float(torch.nan_to_num(x.float(), 0, 0, 0).abs().max())
        parts = next(module.children(), None) is not None
        return Broken(path, module, bool(torch.isnan(y).any()), y.dtype, largest, parts)

    def maker(self) -> str:
        """Path of the innermost module at work whose own input is finite."""
        for module, args in zip(reversed(self.stack), reversed(self.arguments), strict=True):
            x = _tensor(args)
            finite = x is None or bool(torch.isfinite(x).all())
            if finite and module in self.subject.paths:
                return self.subject.paths[module]
        return ""

    def is_registered(self, module: nn.Module) -> bool:
        """Whether it is part of the model by now: a forward may make a layer and register it."""
        return module in self.subject.paths or any(
            each is module for each in self.subject.model.modules()
        )

    def path(self) -> str:
        """The innermost module of the model that is at work."""
        paths = self.subject.paths
        return next((paths[m] for m in reversed(self.stack) if m in paths), "")

    def call(self, path: str, module: Any, x: Tensor) -> Call:
        number = self.seen.setdefault(id(x), len(self.seen))
        self.kept.append(x)  # so that its id is not given again
        axis = self.axes.of(x)
        x = x.detach()
        what = traits(module, x)
        dim = what.dim if what.normalizes else 1
        dim = dim % x.dim() if x.dim() else 0
        mean: Tensor | None = None
        var: Tensor | None = None
        if x.dim() > 1 and x.is_floating_point():
            flat = x.movedim(dim, 0).reshape(x.shape[dim], -1).double()
            mean, var = flat.mean(1), flat.var(1, correction=0)
        values = x.numel() // max(1, x.shape[dim]) if x.dim() else 1
        family = self.norms[module].is_batch
        stored = getattr(module, "running_mean", None) is not None
        by_batch = family and (bool(module.training) or not stored)
        finite = (
            var is None
            or mean is None
            or bool(torch.isfinite(mean).all() and torch.isfinite(var).all())
        )
        by_row: Tensor | None = None
        if mean is not None and dim:
            by_row = x.movedim(dim, 1).reshape(x.shape[0], x.shape[dim], -1).float().mean(2)
        halves = None
        if family and mean is not None and dim and x.shape[0] > 2 and x.shape[0] % 2 == 0:
            first, second = x.movedim(dim, 0).double().chunk(2, 1)
            halves = (_moments(first), _moments(second))
        return Call(
            path,
            module,
            tuple(x.shape),
            dim,
            values,
            mean,
            var,
            finite,
            by_batch,
            number,
            None,
            halves,
            rows=by_row,
            axis=axis,
        )

    # Functions

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        output = self.called(func, args, kwargs)
        self.axes.follow(func, args, kwargs, output)
        return output

    def called(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if func is F.scaled_dot_product_attention:
            p = args[4] if len(args) > 4 else kwargs.get("dropout_p", 0.0)
            if p:
                self.result.dropouts.append((self.path(), float(p), True))
        if func in _FUNCTIONAL and not (self.stack and self.is_norm(self.stack[-1])):
            self.note(func, args, kwargs)
        if func in DROPOUTS:
            self.result.dropouts.append((self.path(), *_dropout(args, kwargs)))
        name = ACTIVATIONS.get(func)
        if name is None or not args or (self.stack and isinstance(self.stack[-1], _ELEMENTWISE)):
            return func(*args, **kwargs)
        source = self.producers.of(args[0])
        output = func(*args, **kwargs)
        self.activation(name, source, output)
        return output

    def activation(self, name: str, source: tuple[str, int | None], output: Any) -> None:
        if not isinstance(output, Tensor) or output.dim() < 2 or not output.is_floating_point():
            return
        path = self.path()
        module = self.subject.modules[path]
        found = summed_up(path, module, output.detach(), source)
        if found is not None:
            found.function = name
            self.result.outputs.append(found)
            self.producers.add(output, source[0], found.dim)

    def is_norm(self, module: nn.Module) -> bool:
        return module in self.norms or bool(lineage(module))

    def note(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if func is torch.batch_norm:
            names = ("input", "weight", "bias", "running_mean", "running_var", "training")
        else:
            names = ("input", "running_mean", "running_var", "weight", "bias", "training")
        given = {**dict(zip(names, args, strict=False)), **kwargs}
        x, mean = given["input"], given.get("running_mean")
        if func is F.instance_norm:
            training = bool(given.get("use_input_stats", True))
        else:
            training = bool(given.get("training", False)) or mean is None
        owned = mean if mean is not None else given.get("weight")
        values = x.numel() // max(1, x.shape[1]) if x.dim() > 1 else 1
        registered = owned is not None and id(owned) in self.mine
        self.result.functional.append(
            Functional(
                self.path(),
                _FUNCTIONAL[func],
                training,
                mean is not None,
                registered,
                values,
                int(x.shape[0]) if x.dim() else 0,
            )
        )


_ELEMENTWISE = (
    nn.ReLU,
    nn.ReLU6,
    nn.LeakyReLU,
    nn.PReLU,
    nn.ELU,
    nn.SELU,
    nn.CELU,
    nn.GELU,
    nn.SiLU,
    nn.Mish,
    nn.Hardswish,
    nn.Hardsigmoid,
    nn.Hardtanh,
    nn.Sigmoid,
    nn.Tanh,
    nn.Softplus,
    nn.Threshold,
    nn.Dropout,
    nn.Dropout1d,
    nn.Dropout2d,
    nn.Dropout3d,
    nn.AlphaDropout,
    nn.Identity,
)
_BY_CHANNEL = (nn.Conv1d, nn.ConvTranspose1d, nn.BatchNorm1d, nn.InstanceNorm1d, nn.GroupNorm)


def _tensor(value: Any) -> Tensor | None:
    """Return the first tensor of floating-point numbers in a module's arguments or output."""
    if isinstance(value, (tuple, list)):
        value = next((each for each in value if isinstance(each, Tensor)), None)
    known = isinstance(value, Tensor) and value.is_floating_point() and value.numel()
    return value.detach() if known else None


def _moments(x: Tensor) -> tuple[Tensor, Tensor]:
    flat = x.flatten(1)
    return flat.mean(1), flat.var(1, correction=0)


def _dropout(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[float, bool]:
    given = {**dict(zip(("input", "p", "training"), args, strict=False)), **kwargs}
    p = given.get("p", given.get("probability", 0.5))
    return float(p), bool(given.get("training", given.get("train", True)))


def summed_up(
    path: str, module: nn.Module, y: Tensor, source: tuple[str, int | None] = ("", None)
) -> Output | None:
    """Sum up an output by feature.

    Args:
        path: of the module.
        module: what returned it.
        y: the output.
        source: path of the layer before, and the dim of the features if it is the same.
    """
    dim = 1 if y.dim() > 3 or y.dim() == 2 else -1
    if isinstance(module, _BY_CHANNEL):
        dim = 1
    if source[1] is not None and source[1] < y.dim():
        dim = source[1]
    dim %= y.dim()
    flat = y.movedim(dim, 0).reshape(y.shape[dim], -1).float()
    if not flat.numel():
        return None
    low, high = flat.aminmax(dim=1)
    finite = bool(torch.isfinite(low).all() and torch.isfinite(high).all())
    largest = float(torch.nan_to_num(torch.maximum(low.abs(), high.abs()), 0, 0, 0).max())
    return Output(
        path,
        module,
        tuple(y.shape),
        low,
        high,
        flat.mean(1),
        flat.var(1, correction=0),
        (flat == 0).float().mean(1),
        finite,
        largest,
        dim,
        source[0],
        "",
        y.dtype,
    )
