"""Find copies of a model in this process: averages, teachers, target networks.

A copy is a module of the same class with parameters of the same shapes. They are looked for among
all objects that Python's garbage collector knows, which takes some tens of milliseconds: when
watching begins and ends, and after the watched model was copied.
"""

from __future__ import annotations

import gc
import weakref
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from gammabeta.layers.running import running

_SMALL = 4096
_TENSORS = 3
_LEVELS = 2
"""How deep parts of a model are compared."""


@dataclass(eq=False)
class Copy:
    """A copy of the model, as it was when it was found.

    Attributes:
        module: the copy.
        wrapper: the `torch.optim.swa_utils.AveragedModel` that it is in, or None.
        step: the step when it was found.
        parameters: some of its parameters → their values then.
        statistics: some of its running statistics, likewise.
        live: those of the watched model, likewise.
        versions: sums of the version counters of its parameters and of its counters then.
        averaged: how many models the wrapper had averaged then.
        fresh: whether it was found right after it was made.
        path: where it is in the watched model; empty if it is a module of its own.
        original: path of the part of the watched model that it is a copy of; empty for all of it.
    """

    module: weakref.ref[nn.Module]
    wrapper: weakref.ref[AveragedModel] | None
    step: int
    parameters: list[tuple[Tensor, Tensor]]
    statistics: list[tuple[Tensor, Tensor]]
    live: list[tuple[Tensor, Tensor]]
    versions: tuple[int, int]
    averaged: int
    fresh: bool
    path: str = ""
    original: str = ""

    def changed(self) -> tuple[bool, bool, bool]:
        """Whether parameters, statistics, and the watched model's statistics have changed."""
        return _differ(self.parameters), _differ(self.statistics), _differ(self.live)


@dataclass(eq=False)
class Copies:
    """The copies of a model.

    Args:
        model: the watched model.
    """

    model: nn.Module
    found: dict[int, Copy] = field(default_factory=dict)

    def scan(self, step: int, *, fresh: bool) -> None:
        """Look for copies that are not known yet."""
        inner = unwrapped(self.model)
        cls = type(inner)
        shapes = [p.shape for p in inner.parameters()]
        if not shapes or not _norms(inner):
            return
        own = {id(m) for m in self.model.modules()}
        wanted = {cls, AveragedModel}
        objects = [o for o in gc.get_referrers(*wanted) if type(o) in wanted]  # of their classes
        modules = [o for o in objects if type(o) is cls and id(o) not in own]
        around = {id(o.module): o for o in objects if type(o) is AveragedModel}
        del objects
        self.found = {key: c for key, c in self.found.items() if c.module() is not None}
        if not step:
            self._look_inside()
        for module in modules:
            if id(module) in self.found or "_parameters" not in vars(module):
                continue
            theirs = list(module.parameters())
            same = [p.shape for p in theirs] == shapes and _norms(module)
            if same and all(_is_real(p) for p in theirs):
                self.found[id(module)] = _copy(
                    module, around.get(id(module)), inner, step, fresh=fresh
                )

    def _look_inside(self) -> None:
        """Look for parts of the model that are copies of others, such as a target network."""
        for prefix, around in self.model.named_modules():
            if prefix.count(".") >= _LEVELS:
                continue
            seen: dict[Any, str] = {}
            for name, part in around.named_children():
                shapes = tuple([p.shape for p in part.parameters()])
                if not shapes or not _norms(part) or not all(map(_is_real, part.parameters())):
                    continue
                path, key = f"{prefix}.{name}" if prefix else name, (type(part), shapes)
                other = seen.setdefault(key, path)
                if other == path:
                    continue
                first = self.model.get_submodule(other)
                if _is_frozen(first) and not _is_frozen(part):
                    path, other, part, first = other, path, first, part
                self.found[id(part)] = replace(
                    _copy(part, None, first, 0, fresh=True), path=path, original=other
                )


def unwrapped(model: Any) -> nn.Module:
    """Return the module inside wrappers for distributed training and compilation."""
    while True:
        inner = None
        if isinstance(model, (nn.parallel.DistributedDataParallel, nn.DataParallel)):
            inner = model.module
        elif isinstance(model, nn.Module):
            inner = model._modules.get("_orig_mod")
        if inner is None:
            return model  # type: ignore[no-any-return]
        model = inner


def versions(module: nn.Module) -> tuple[int, int]:
    """Sum the version counters of the parameters, and of the counters of batch norms."""
    counters = [n.num_batches_tracked for n in _norms(module)]
    return (
        sum(p._version for p in module.parameters() if not p.is_inference()),
        sum(c._version for c in counters if isinstance(c, Tensor) and not c.is_inference()),
    )


def _copy(
    module: nn.Module, wrapper: AveragedModel | None, inner: nn.Module, step: int, *, fresh: bool
) -> Copy:
    return Copy(
        weakref.ref(module),
        None if wrapper is None else weakref.ref(wrapper),
        step,
        _kept(_few(module)),
        _kept(_statistics(module)),
        _kept(_statistics(inner)),
        versions(module),
        0 if wrapper is None else int(wrapper.n_averaged),
        fresh,
    )


def _norms(module: nn.Module) -> list[Any]:
    found = []
    for each in module.modules():
        its = running(each)
        if its is not None and its.of in ("batch", "timestep") and its.there:
            found.append(each)
    return found


def _is_frozen(module: nn.Module) -> bool:
    return not any(p.requires_grad for p in module.parameters())


def _is_real(parameter: Tensor) -> bool:
    """Whether it has values: shadow copies on ``meta`` and fake tensors have none."""
    return parameter.device.type != "meta" and type(parameter) in (nn.Parameter, Tensor)


def _few(module: nn.Module) -> list[Tensor]:
    small: list[Tensor] = [p for p in module.parameters() if 0 < p.numel() <= _SMALL]
    step = max(1, len(small) // _TENSORS)
    return list(small[::-step][:_TENSORS])  # themselves: their data may be exchanged


def _statistics(module: nn.Module) -> list[Tensor]:
    norms = _norms(module)
    return [t for n in {norms[0], norms[-1]} for t in (n.running_mean, n.running_var)]


def _kept(tensors: list[Tensor]) -> list[tuple[Tensor, Tensor]]:
    return [(t, t.detach().clone()) for t in tensors]


def _differ(kept: list[tuple[Tensor, Tensor]]) -> bool:
    return any(not torch.equal(now, then) for now, then in kept)
