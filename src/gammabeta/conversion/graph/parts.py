"""Find how data flows through a model: `torch.fx` graphs of as much of it as can be traced.

What is traced is the model's `shadow`: no tensor of the model is computed with and nothing of it
changes. A module whose code cannot be traced (control flow that depends on data, say) is a single
node of the graph of what calls it, and the modules it calls are traced one by one.
"""

from __future__ import annotations

import contextlib
import io
import random
import threading
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import fx, nn
from torch.jit import ScriptModule

from gammabeta.conversion.graph.norms import probed
from gammabeta.conversion.graph.shadow import shadow, shadow_of
from gammabeta.conversion.graph.trace import PartTracer, computes_with, is_node

_LOCK = threading.RLock()  # torch.fx patches nn.Module while it traces


@dataclass(frozen=True)
class Part:
    """A module that was traced as one, or that could not be.

    Attributes:
        path: the module's name in the model; "" is the model itself.
        graph: what its ``forward`` does, without hooks, called with its required arguments only
            (where none is required, with the first); the targets of nodes are names within this
            module. None if it could not be traced.
        reason: why it could not be traced.
        tensors: names within this module of parameters and buffers that its code, or that of a
            module in the graph that is no node of its own, uses by itself.
        kept: names of the nodes whose output its code puts away, such as on a module.
    """

    path: str
    graph: fx.Graph | None
    reason: str = ""
    tensors: frozenset[str] = field(default_factory=frozenset)
    kept: frozenset[str] = field(default_factory=frozenset)

    def name(self, target: object) -> str:
        """Return the name in the whole model of what is called ``target`` within this part."""
        return f"{self.path}.{target}" if self.path and target else self.path or str(target)


def traced_parts(model: nn.Module, training: bool | None = None, example: Any = None) -> list[Part]:
    """Trace ``model``, or the largest of its modules that can be traced.

    The model is not called and not changed: a copy without values, hooks and references to the
    model is traced. Layers of torch and gammabeta are nodes; so are modules that cannot be
    traced, whose `forward` was replaced on the object or which have forward hooks of a person's:
    each of these is a part of its own, too. The random number generators are left as they were.

    Args:
        model: any module.
        training: the mode to trace it in; None for each module's own. Frozen layers keep theirs.
        example: arguments to trace ``model`` with, by their shapes: a tensor, a tuple of arguments
            or a dict of keyword arguments.

    Returns:
        The parts, the outermost first; of a module that could not be traced, with the reason,
        followed by the parts within it.

    Example:
        >>> model = nn.Sequential(nn.Linear(2, 2), nn.ReLU())
        >>> part, = traced_parts(model)
        >>> [str(node.target) for node in part.graph.nodes]
        ['input', '0', '1', 'output']
    """
    parts = _Parts(training, None if example is None else _arguments(example))
    with _LOCK, _undisturbed():
        parts.add("", model)
    return parts.found


def hooked(module: nn.Module) -> bool:
    """Whether calling ``module`` may do more than its ``forward``."""
    return bool(module._forward_hooks or module._forward_pre_hooks)


@dataclass
class _Parts:
    """Collects the parts.

    Attributes:
        training: the mode to trace in; None for each module's own.
        given: the model's arguments, or None.
        seen: modules that have been looked at.
    """

    training: bool | None
    given: tuple[tuple[Any, ...], dict[str, Any]] | None = None
    found: list[Part] = field(default_factory=list)
    seen: set[nn.Module] = field(default_factory=set)

    def add(self, path: str, module: nn.Module) -> None:
        """Add the part ``module``, or the parts within it."""
        if module in self.seen:
            return
        self.seen.add(module)
        if isinstance(module, ScriptModule):
            self.found.append(Part(path, None, "torch.jit has compiled it"))
            return
        reason = _reason_untraced(module)
        part = Part(path, None, reason) if reason else self._trace(path, module)
        self.found.append(part)
        if part.graph is None:
            for name, child in module.named_children():
                self.add(f"{path}.{name}" if path else name, child)
            return
        for target in dict.fromkeys(n.target for n in part.graph.nodes if n.op == "call_module"):
            called, name = module.get_submodule(str(target)), part.name(target)
            if not is_node(called):
                self.add(name, called)
            elif not isinstance(called, ScriptModule):
                for own, child in called.named_children():
                    self.add(f"{name}.{own}", child)

    def _trace(self, path: str, module: nn.Module) -> Part:
        opaque = {
            m for m in module.modules() if m is not module and (_reason_untraced(m) or hooked(m))
        }
        while True:
            # A new one each time: code that fails midway may have changed things.
            copy, modules = shadow(module)
            if self.training is not None:
                for m in module.modules():
                    if id(m) in modules and "train" not in m.__dict__:
                        modules[id(m)].training = self.training
            given = None if path or self.given is None else shadow_of(self.given)
            tracer = PartTracer({modules[id(m)] for m in opaque if id(m) in modules}, given)
            try:
                with tracer.watching(copy):
                    graph = tracer.trace(copy)
            except (Exception, SystemExit) as error:  # a person's code may raise anything
                failed = next((m for m in module.modules() if _is(m, tracer.failed, modules)), None)
                if failed is None or failed is module or failed in opaque:
                    return Part(path, None, _reason(error))
                kind = type(failed)
                opaque |= {m for m in module.modules() if type(m) is kind and m is not module}
                continue
            used = {str(node.target) for node in graph.nodes if computes_with(node)}
            uses = frozenset(tracer.used | used & tracer.known)
            return Part(path, graph, "", uses, tracer.kept())


def _arguments(example: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments of a call."""
    if isinstance(example, dict):
        return (), example
    return (example if isinstance(example, tuple) else (example,)), {}


def _is(module: nn.Module, its: nn.Module | None, modules: dict[int, nn.Module]) -> bool:
    return its is not None and modules.get(id(module)) is its


def _reason_untraced(module: nn.Module) -> str:
    """Why ``module`` is not even tried; "" if it is."""
    if isinstance(module, (nn.ModuleList, nn.ModuleDict)):
        return "it has no forward"
    if "forward" in module.__dict__:
        return "its forward was replaced on the object"
    if probed(module) is not None:
        return "it is a batch norm"
    if is_node(module):
        return "its code is torch's or gammabeta's" if module._modules else "it is one layer"
    return ""


def _reason(error: BaseException) -> str:
    """Why a module could not be traced, in a line."""
    said = (str(error).strip().splitlines() or [""])[0]
    if isinstance(error, fx.proxy.TraceError):
        return "what its code does depends on its input's values or shape"
    return f"{type(error).__name__}: {said}" if said else type(error).__name__


@contextlib.contextmanager
def _undisturbed() -> Iterator[None]:
    """Keep what code may change of the process: random state, modes, what is printed."""
    python, arrays, torchs = random.getstate(), np.random.get_state(), torch.get_rng_state()
    grad, dtype = torch.is_grad_enabled(), torch.get_default_dtype()
    try:
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        random.setstate(python)
        np.random.set_state(arrays)
        torch.set_rng_state(torchs)
        torch.set_grad_enabled(grad)
        torch.set_default_dtype(dtype)
