"""What happens inside a forward pass: every call of a norm, and what each module returns."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules import module as hooks
from torch.overrides import TorchFunctionMode

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


@dataclass
class Output:
    """What a module returned, summed up by feature (dim 1; the last of a 2- or 3-d output).

    Attributes:
        layer: path of the module.
        module: the module.
        shape: of the output.
        low, high, mean, var: (C,) float32, over all other dims; the variance biased.
        zeros: (C,) share of values that are exactly 0.
        finite: whether all values are finite.
        max_abs: largest magnitude of the finite values.
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
    """

    layer: str
    name: str
    training: bool
    running: bool
    registered: bool
    values: int


@contextmanager
def observing(subject: Subject, result: Pass) -> Iterator[None]:
    """Fill ``result`` from a forward pass of the subject's model."""
    watcher = _Watcher(subject, result)
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
    stack: list[nn.Module] = field(default_factory=list)
    seen: dict[int, int] = field(default_factory=dict)
    kept: list[Tensor] = field(default_factory=list)

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
        norm = self.norms.get(module)
        if norm is None:
            if module not in self.subject.paths and lineage(module):
                self.result.unregistered.append((self.path(), module))
            return
        for x in mini_batches(module, args, {}):
            if isinstance(x, Tensor):
                self.result.calls.append(self.call(norm.path, module, x))

    def after(self, module: nn.Module, args: Any, output: Any) -> None:
        if torch.compiler.is_compiling() or module not in self.stack:
            return
        while self.stack and self.stack.pop() is not module:
            pass
        path = self.subject.paths.get(module)
        if path is None or next(module.children(), None) is not None:
            return
        if isinstance(output, Tensor) and output.is_floating_point() and output.dim() > 1:
            found = summed_up(path, module, output.detach())
            if found is not None:
                self.result.outputs.append(found)
                calls = self.result.of(path) if module in self.norms else []
                if calls:
                    calls[-1].out = found

    def path(self) -> str:
        """The innermost module of the model that is at work."""
        paths = self.subject.paths
        return next((paths[m] for m in reversed(self.stack) if m in paths), "")

    def call(self, path: str, module: Any, x: Tensor) -> Call:
        number = self.seen.setdefault(id(x), len(self.seen))
        self.kept.append(x)  # so that its id is not given again
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
        return Call(path, module, tuple(x.shape), dim, values, mean, var, finite, by_batch, number)

    # Functions

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in _FUNCTIONAL and not (self.stack and self.is_norm(self.stack[-1])):
            self.note(func, args, kwargs)
        return func(*args, **kwargs)

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
                self.path(), _FUNCTIONAL[func], training, mean is not None, registered, values
            )
        )


def summed_up(path: str, module: nn.Module, y: Tensor) -> Output | None:
    """Sum up an output by feature."""
    dim = 1 if y.dim() > 3 or y.dim() == 2 else -1
    if isinstance(module, (nn.Conv1d, nn.BatchNorm1d, nn.ConvTranspose1d)):
        dim = 1
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
    )
