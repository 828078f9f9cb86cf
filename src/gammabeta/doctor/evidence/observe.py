"""Watch a forward pass: every call of a norm, and what each module returns."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules import module as hooks
from torch.overrides import TorchFunctionMode

from gammabeta.doctor.evidence.examplewise import Trace, rows
from gammabeta.doctor.evidence.feature_axis import FeatureAxes
from gammabeta.doctor.evidence.forward_pass import Broken, Call, Functional, Pass
from gammabeta.doctor.evidence.producers import ACTIVATIONS, BERNOULLI, DROPOUTS, Producers
from gammabeta.doctor.evidence.summary import summed_call, summed_up
from gammabeta.doctor.subject import Subject
from gammabeta.layers.traits import lineage, mini_batches

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
    within: dict[nn.Module, list[Tensor]] = field(default_factory=dict)

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
        if module in self.within:
            self.chosen(module)
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
        call = summed_call(path, module, x.detach(), is_batch=self.norms[module].is_batch)
        call.number, call.axis = number, self.axes.of(x)
        return call

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
        if func in _FUNCTIONAL:
            if self.stack and self.is_norm(self.stack[-1]):
                self.normalized(self.stack[-1], args[0] if args else kwargs.get("input"))
            else:
                self.note(func, args, kwargs)
        if func in DROPOUTS:
            self.result.dropouts.append((self.path(), *_dropout(args, kwargs)))
        elif func in BERNOULLI:
            self.result.dropouts.append((self.path(), _chance(func, args, kwargs), True))
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

    def normalized(self, module: nn.Module, x: Any) -> None:
        """Note what the code of a norm's subclass normalizes."""
        if module in self.norms and isinstance(x, Tensor):
            own = type(module).__module__.partition(".")[0] in ("torch", "gammabeta")
            if not own:
                self.within.setdefault(module, []).append(x.detach())

    def chosen(self, module: nn.Module) -> None:
        """Sum up what a subclass of a norm normalizes, if it left values out, as padded ones."""
        inner, call = self.within.pop(module, []), self.result.calls[-1]
        if call.module is not module or len(inner) != 1:
            return
        if inner[0].numel() >= math.prod(call.shape):
            return
        new = summed_call(call.layer, module, inner[0], is_batch=self.norms[module].is_batch)
        new.number, new.source, new.axis, new.chosen = call.number, call.source, call.axis, True
        self.result.calls[-1] = new

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


def _tensor(value: Any) -> Tensor | None:
    """Return the first tensor of floating-point numbers in a module's arguments or output."""
    if isinstance(value, (tuple, list)):
        value = next((each for each in value if isinstance(each, Tensor)), None)
    known = isinstance(value, Tensor) and value.is_floating_point() and value.numel()
    return value.detach() if known else None


def _chance(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> float:
    """Return the share of zeros of a random mask; 0 if it is a sample, whose places differ."""
    p = kwargs.get("p", args[1] if len(args) > 1 else None)
    if p is None:
        p = 0.5 if func is Tensor.bernoulli_ else args[0] if args else kwargs["input"]
    if isinstance(p, Tensor):
        p = float(p.flatten()[0]) if p.numel() and bool((p == p.flatten()[0]).all()) else 1.0
    return 1 - float(p)


def _dropout(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[float, bool]:
    given = {**dict(zip(("input", "p", "training"), args, strict=False)), **kwargs}
    p = given.get("p", given.get("probability", 0.5))
    return float(p), bool(given.get("training", given.get("train", True)))
