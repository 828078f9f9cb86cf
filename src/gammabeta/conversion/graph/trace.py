"""Record what a module's `forward` does, without hooks, as a `torch.fx` graph.

The module is a `shadow`: its tensors have no values. If the shapes of the arguments are known, the
tracer follows the shapes of all values, so that code may depend on them.
"""

from __future__ import annotations

import contextlib
import inspect
import operator
import sys
import threading
import weakref
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.jit import ScriptModule
from torch.overrides import TorchFunctionMode

from gammabeta.conversion.graph.shadow import ClosedModule
from gammabeta.layers.traits import has_own_forward, is_ours, lineage

_MOST_NODES = 100_000
_HOME = ("torch.nn", "torch.ao.nn")
_DESCRIBING = frozenset({"dtype", "shape", "ndim", "requires_grad"})
UNKNOWN = object()
"""The value of what cannot be known."""


def is_node(module: nn.Module) -> bool:
    """Whether a call of ``module`` is always one node: a layer of torch's or gammabeta's.

    Example:
        >>> is_node(nn.ReLU()), is_node(nn.Sequential())
        (True, False)
    """
    if isinstance(module, (nn.Sequential, nn.ModuleList, nn.ModuleDict)):
        return False
    if isinstance(module, (ScriptModule, ClosedModule)):
        return True
    cls = type(module)
    if cls.__module__.startswith(_HOME) or (is_ours(cls) and ".layers" in cls.__module__):
        return True
    plain = isinstance(module, (nn.Linear, nn.modules.conv._ConvNd)) or lineage(module)
    return bool(plain) and not has_own_forward(module)


class Traced(fx.Proxy):
    """Stands for a value; of a value whose shape is known, says it.

    It does not pass for a tensor: torch's C++ code, and extensions, go by `isinstance`, would read
    it as a tensor's memory, and the process would end. Only the traced code is told that it is one.
    """

    _is_param = False

    def __init__(self, node: fx.Node, tracer: Any, value: Any = UNKNOWN) -> None:
        super().__init__(node, tracer)
        self._value = value

    def __getattr__(self, name: str) -> Any:
        if name in _DESCRIBING and isinstance(self._value, Tensor):
            return getattr(self._value, name)
        return super().__getattr__(name)

    def size(self, *args: Any) -> Any:
        """The tensor's size, known or as another value."""
        return self._described("size", args)

    def dim(self) -> Any:
        """The tensor's number of dims."""
        return self._described("dim", ())

    def numel(self) -> Any:
        """The tensor's number of elements."""
        return self._described("numel", ())

    def __len__(self) -> int:
        if self._value is UNKNOWN:
            return int(super().__len__())
        return len(self._value)

    def __iter__(self) -> Any:
        if isinstance(self._value, (Tensor, tuple, list)):
            return iter([operator.getitem(self, i) for i in range(len(self._value))])
        return super().__iter__()

    def _described(self, name: str, args: tuple[Any, ...]) -> Any:
        if isinstance(self._value, Tensor):
            return getattr(self._value, name)(*args)
        return self.tracer.create_proxy("call_method", name, (self, *args), {})


class PartTracer(fx.Tracer):
    """Records a module's calls; notes which module could not be traced.

    Args:
        opaque: modules that are nodes.
        given: the arguments, tensors without values, where they are known.

    Attributes:
        failed: the innermost module in whose code an error was raised.
        used: names of tensors that code computes with, where this is not recorded.
        known: names of all tensors.
    """

    def __init__(
        self, opaque: set[nn.Module], given: tuple[tuple[Any, ...], dict[str, Any]] | None = None
    ) -> None:
        super().__init__()
        self.opaque, self.given = opaque, given
        self._values: dict[fx.Node, Any] = {}
        self._computing = False
        self.failed: nn.Module | None = None
        self.used: set[str] = set()
        self._thread = threading.get_ident()
        self._made: list[tuple[str, weakref.ref[fx.Proxy]]] = []
        self._error: BaseException | None = None
        self.known: set[str] = set()
        self._names: dict[int, str] = {}
        self._count = 0

    @contextlib.contextmanager
    def watching(self, root: nn.Module) -> Iterator[None]:
        """Notice also the uses of tensors that are not recorded."""
        named = [*root.named_parameters(), *root.named_buffers()]
        self._names = {id(tensor): name for name, tensor in reversed(named)}
        self.known = set(self._names.values())
        with torch.device("meta"), _Uses(self), _passing_for_tensors(root):
            yield

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Whether a call of ``m`` is one node."""
        return m in self.opaque or is_node(m)

    def call_module(self, m: nn.Module, forward: Any, args: Any, kwargs: Any) -> Any:
        """Record a call."""
        if threading.get_ident() != self._thread:  # torch.fx patches the class, for all threads
            return forward(*args, **kwargs)
        if self._computing:
            return m.forward(*args, **kwargs)
        try:
            return super().call_module(m, m.forward, args, kwargs)
        except BaseException as error:
            if self._error is not error:
                # An unregistered module has no path: then the code that calls it fails.
                known = self.submodule_paths is not None and m in self.submodule_paths
                if known and not self.is_leaf_module(m, ""):
                    self._error, self.failed = error, m
            raise

    def create_args_for_root(
        self, root_fn: Any, is_module: bool, concrete_args: Any = None
    ) -> tuple[Any, list[Any]]:
        """Give a proxy for each required argument, and leave out the others."""
        if self.given is not None:
            args, kwargs = self.given
            positional = [self._argument(f"input_{i}", one) for i, one in enumerate(args)]
            named = {name: self._argument(name, one) for name, one in kwargs.items()}
            return lambda *given: root_fn(*given, **named), [self.root, *positional]
        function = inspect.unwrap(root_fn)
        positional, named = [], {}
        parameters = list(inspect.signature(function).parameters.values())[1:]
        needed = [p for p in parameters if p.default is p.empty and p.kind is not p.VAR_KEYWORD]
        for parameter in needed or parameters[:1]:  # pixel_values=None is the input all the same
            if parameter.kind is parameter.VAR_KEYWORD:
                continue
            if parameter.kind is parameter.VAR_POSITIONAL and positional:
                continue
            proxy = self.create_proxy("placeholder", parameter.name, (), {})
            if parameter.kind is parameter.KEYWORD_ONLY:
                named[parameter.name] = proxy
            else:
                positional.append(proxy)
        return lambda *given: root_fn(*given, **named), [self.root, *positional]

    def _argument(self, name: str, value: Any) -> Any:
        """A proxy for each tensor of an argument."""
        if isinstance(value, (list, tuple)) and not hasattr(value, "_fields"):
            return type(value)(self._argument(f"{name}_{i}", v) for i, v in enumerate(value))
        if isinstance(value, dict):
            return {key: self._argument(f"{name}_{key}", v) for key, v in value.items()}
        if not isinstance(value, Tensor):
            return value
        node = self.create_node("placeholder", name, (), {})
        self._values[node] = value
        return Traced(node, self, value)

    def proxy(self, node: fx.Node) -> fx.Proxy:
        """Return what stands for the output of ``node``."""
        known = self._value(node)
        if known is UNKNOWN and node.op == "call_module" and self._called(node) in self.opaque:
            made = fx.Proxy(node, self)  # it may return anything
        else:
            made = Traced(node, self, known)
        self._made.append((node.name, weakref.ref(made)))
        return made

    def kept(self) -> frozenset[str]:
        """Return the names of the nodes that code has put away: on a module, in a closure."""
        return frozenset(name for name, made in self._made if made() is not None)

    def _called(self, node: fx.Node) -> nn.Module:
        return self.root.get_submodule(str(node.target))

    def _value(self, node: fx.Node) -> Any:
        """What ``node`` gives, computed with tensors without values, or `UNKNOWN`."""
        if self.given is None or node.op in ("placeholder", "output"):
            return UNKNOWN
        needed = node.all_input_nodes
        if any(self._values.get(one, UNKNOWN) is UNKNOWN for one in needed):
            return UNKNOWN
        args, kwargs = fx.map_arg((node.args, node.kwargs), self._values.__getitem__)
        self._computing = True
        try:
            if node.op == "call_module":
                value = self._called(node).forward(*args, **kwargs)
            elif node.op == "call_method":
                value = getattr(args[0], str(node.target))(*args[1:], **kwargs)
            else:
                function: Any = node.target
                value = function(*args, **kwargs)
        except Exception:  # it needs values
            value = UNKNOWN
        finally:
            self._computing = False
        self._values[node] = value
        return value

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, Any]) -> Any:
        """Return what stands for a parameter or buffer."""
        name = None if self._computing else self._names.get(id(attr_val))
        if name is None:
            return attr_val
        if name not in parameter_proxy_cache:
            node = self.create_node("get_attr", name, (), {})
            self._values[node] = attr_val
            parameter_proxy_cache[name] = Traced(node, self, attr_val)
        return parameter_proxy_cache[name]

    def create_node(self, kind: str, *args: Any, **kwargs: Any) -> fx.Node:
        """Add a node."""
        self._count += 1
        if self._count > _MOST_NODES:
            raise RuntimeError(f"its code makes more than {_MOST_NODES} calls")
        return super().create_node(kind, *args, **kwargs)

    def create_arg(self, a: Any) -> Any:
        """Return what a node has for the argument ``a``."""
        if issubclass(type(a), fx.Proxy):
            return a.node
        try:
            return super().create_arg(a)
        except (NotImplementedError, NameError, RuntimeError):
            return tuple(self.create_arg(proxy) for proxy in _proxies(a, set()))


def computes_with(node: fx.Node) -> bool:
    """Whether ``node`` is a tensor whose values are used, not only its device and the like."""
    return node.op == "get_attr" and not all(
        user.target is getattr and user.args[1] in ("device", "layout", "is_cuda")
        for user in node.users
    )


def _describes(function: Any) -> bool:
    """Whether ``function`` is a property that tells of a tensor; ``data`` hands it out."""
    return getattr(function, "__name__", "") == "__get__" and function.__self__ is not Tensor.data


class _Uses(TorchFunctionMode):
    """Notes which tensors of a module take part in computations that are not recorded."""

    def __init__(self, tracer: PartTracer) -> None:
        super().__init__()
        self.tracer = tracer

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        names = {} if self.tracer._computing else self.tracer._names
        for value in (*args, *(kwargs or {}).values()) if names else ():
            for one in value if isinstance(value, (list, tuple)) else (value,):
                if id(one) in names and not _describes(func):
                    self.tracer.used.add(names[id(one)])
        return func(*args, **(kwargs or {}))


@contextlib.contextmanager
def _passing_for_tensors(root: nn.Module) -> Iterator[None]:
    """Let `isinstance` say that a traced value is a tensor, in the files that modules come from."""
    homes = {
        cls.__module__
        for module in root.modules()
        if not is_node(module)
        for cls in type(module).__mro__
        if cls.__module__.split(".")[0] not in ("torch", "gammabeta", "builtins", "typing")
    }
    spaces = [vars(sys.modules[home]) for home in homes if home in sys.modules]
    changed = [space for space in spaces if "isinstance" not in space]
    try:
        for space in changed:
            space["isinstance"] = _isinstance
        yield
    finally:
        for space in changed:
            space.pop("isinstance", None)


def _isinstance(thing: Any, kinds: Any) -> bool:
    """`isinstance`, for code that is traced."""
    if issubclass(type(thing), Traced) and (
        thing._value is UNKNOWN or isinstance(thing._value, Tensor)
    ):
        with contextlib.suppress(TypeError):  # a union
            return issubclass(Tensor, kinds)
    return isinstance(thing, kinds)


def _proxies(thing: Any, seen: set[int]) -> Iterator[fx.Proxy]:
    """The proxies that ``thing`` holds."""
    if id(thing) in seen or len(seen) > 1000:
        return
    seen.add(id(thing))
    if issubclass(type(thing), fx.Proxy):
        yield thing
    elif isinstance(thing, dict):
        for value in list(thing.values()):
            yield from _proxies(value, seen)
    elif isinstance(thing, (list, tuple, set)):
        for value in list(thing):
            yield from _proxies(value, seen)
    elif not isinstance(thing, (Tensor, nn.Module, type)) and hasattr(thing, "__dict__"):
        for value in list(vars(thing).values()):
            yield from _proxies(value, seen)
