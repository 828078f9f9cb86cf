"""What comes before and after each call of a layer, in all parts of a model that were traced."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, fx, nn

from gammabeta.conversion.graph.nodes import (
    BlockedError,
    asks_shape,
    input_of,
    joined,
    sees_values,
)
from gammabeta.conversion.graph.parts import Part, traced_parts
from gammabeta.conversion.graph.reach import names_in_code, referenced
from gammabeta.layers.traits import has_own_forward

_NOTHING_DONE = (nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d)


@dataclass(eq=False)
class Site:
    """One call of a layer: the part it is in and its node."""

    part: Part
    node: fx.Node


@dataclass
class Flow:
    """The calls of every layer of a model.

    Attributes:
        model: the model.
        example: arguments that the result will be proved with, or None.
        parts: as `traced_parts` gives them.
        sites: a layer → its calls.
        names: a layer → its names.
        passed: layers whose output is their input by now.
    """

    model: nn.Module
    example: Any = None
    parts: list[Part] = field(default_factory=list)
    names: dict[nn.Module, list[str]] = field(default_factory=lambda: defaultdict(list))
    sites: dict[nn.Module, list[Site]] = field(default_factory=lambda: defaultdict(list))
    passed: set[nn.Module] = field(default_factory=set)
    _by_path: dict[str, Part] = field(default_factory=dict)
    _used: set[int] = field(default_factory=set)
    _given: set[nn.Module] = field(default_factory=set)
    _elsewhere: dict[nn.Module, Part] = field(default_factory=dict)
    _otherwise: set[str] = field(default_factory=set)
    _owners: dict[int, set[int]] = field(default_factory=lambda: defaultdict(set))

    def __post_init__(self) -> None:
        self.parts = traced_parts(self.model, example=self.example)
        self._by_path = {part.path: part for part in self.parts}
        for name, module in self.model.named_modules(remove_duplicate=False):
            self.names[module].append(name)
        for module in self.names:
            for tensor in (*module._parameters.values(), *module._buffers.values()):
                if tensor is not None:
                    self._owners[_place(tensor)].add(id(module))
        tensors = {
            **dict(self.model.named_parameters(remove_duplicate=False)),
            **dict(self.model.named_buffers(remove_duplicate=False)),
        }
        modules = dict(self.model.named_modules(remove_duplicate=False))
        for part in self.parts:
            self._used |= {_place(tensors[part.name(name)]) for name in part.tensors}
            for node in part.graph.nodes if part.graph is not None else ():
                if node.op == "call_module":
                    self.sites[self.called(Site(part, node))].append(Site(part, node))
                elif node.op == "get_attr" and part.name(node.target) in modules:
                    self._given |= set(modules[part.name(node.target)].modules())
            if part.graph is None:
                outside = referenced(self.model.get_submodule(part.path))
                self._elsewhere |= dict.fromkeys(outside, part)
        for part in self.parts:
            if part.graph is None or not part.path:
                continue
            taken = sum(node.op == "placeholder" for node in part.graph.nodes)
            calls = [site.node for site in self.sites.get(modules[part.path], ())]
            if any(len(call.args) + len(call.kwargs) > taken for call in calls):
                self._otherwise.add(part.path)

    def called(self, site: Site) -> nn.Module:
        """Return the module that is called."""
        return self.model.get_submodule(site.part.name(site.node.target))

    def name(self, module: nn.Module) -> str:
        """Return the first name of ``module``."""
        return self.names[module][0]

    def check(self, module: nn.Module) -> list[Site]:
        """Return all calls of ``module``.

        Raises:
            BlockedError: there is none, or it may be used in ways that cannot be seen.
        """
        for name in self.names[module]:
            hidden = self._hidden_by(name)
            if hidden is not None:
                where = repr(hidden.path) if hidden.path else "the model"
                raise BlockedError(
                    f"{where} calls it, whose code could not be traced ({hidden.reason})",
                    self.example is None,
                )
            self._check_doubt(name)
        if module in self._given:
            raise BlockedError("it is given to other code as an argument")
        if module in self._elsewhere and self.example is None:
            part = self._elsewhere[module]
            where = repr(part.path) if part.path else "the model"
            raise BlockedError(
                f"{where}, which could not be traced ({part.reason}), refers to it; give example= "
                "to prove that it does not call it",
                True,
            )
        for tensor in (*module._parameters.values(), *module._buffers.values()):
            if tensor is None:
                continue
            if _place(tensor) in self._used:
                raise BlockedError("other code uses its weights, too")
            if len(self._owners[_place(tensor)]) > 1:
                raise BlockedError("another layer has the same weights")
        if not self.sites[module]:
            raise BlockedError("the model's forward does not call it in evaluation")
        return self.sites[module]

    def _hidden_by(self, name: str) -> Part | None:
        """The part whose code calls ``name``, if it could not be traced."""
        while name:
            name = name.rpartition(".")[0]
            part = self._by_path.get(name)
            if part is not None:
                return part if part.graph is None else None
        return self._by_path[""] if self._by_path[""].graph is None else None

    def _check_doubt(self, name: str) -> None:
        """Raise if code further out that could not be traced may call ``name`` by itself."""
        if self.example is not None:
            return
        inner, path = "", name
        while path:
            path = path.rpartition(".")[0]
            part = self._by_path.get(path)
            if part is None:
                continue
            if part.graph is not None:
                if path in self._otherwise:
                    raise BlockedError(
                        f"{path!r} is called with arguments that it was not traced with; give "
                        "example= to prove that they make no difference",
                        True,
                    )
                inner = path
                continue
            outer, middle = self.model.get_submodule(path), self.model.get_submodule(inner)
            where = repr(path) if path else "the model"
            one_by_one = isinstance(middle, nn.Sequential) and not has_own_forward(middle)
            last = name.rpartition(".")[2]
            if one_by_one or (last in names_in_code(type(outer)) and last not in outer._modules):
                raise BlockedError(
                    f"{where}, which could not be traced ({part.reason}), may call the layers of "
                    f"{inner!r} one by one; give example= to prove that it does not",
                    True,
                )

    def before(self, site: Site) -> Site:
        """Return what gives the input of ``site``, and gives it to nothing else."""
        return self._source(site, input_of(site.node))

    def _source(self, site: Site, given: fx.Node) -> Site:
        """Return what gives ``given`` to ``site``, and to nothing else."""
        node = site.node
        while True:
            users = [user for user in given.users if user is not node and sees_values(user, given)]
            if users:
                others = [self.describe(site.part, user) for user in users]
                raise BlockedError(f"its input also goes to {_several(others)}")
            if given.op != "call_module" or not self._passes(Site(site.part, given)):
                return Site(site.part, given)
            node, given = given, input_of(given)

    def concatenated(self, site: Site) -> list[Site] | None:
        """Return what gives the inputs of ``site``, if that joins tensors by their channels."""
        inputs = joined(site.node)
        return None if inputs is None else [self._source(site, given) for given in inputs]

    def after(self, site: Site) -> Site:
        """Return what alone gets the output of ``site``."""
        node = site.node
        while True:
            users = [user for user in node.users if sees_values(user, node)]
            if len(users) != 1:
                told = [self.describe(site.part, user) for user in users]
                raise BlockedError(f"its output goes to {_several(told) or 'nothing'}")
            (user,) = users
            if user.op != "call_module" or not self._passes(Site(site.part, user)):
                return Site(site.part, user)
            node = user

    def check_between(self, first: Site, last: Site) -> None:
        """Raise if code between two calls may change the input of the first in place."""
        between, inside = [], False
        for node in first.part.graph.nodes if first.part.graph is not None else ():
            if node is last.node:
                break
            if inside:
                between.append(node)
            inside = inside or node is first.node
        for node in between:
            passes = node.op == "call_module" and self._passes(Site(first.part, node))
            if passes or node.op in ("placeholder", "get_attr") or asks_shape(node):
                continue
            told = self.describe(first.part, node)
            raise BlockedError(f"{told} runs in between and might change its input")

    def _passes(self, site: Site) -> bool:
        module = self.called(site)
        if module._forward_hooks or module._forward_pre_hooks:
            return False
        if module in self.passed:
            return True
        return type(module) in _NOTHING_DONE and not (
            module.training and type(module) is not nn.Identity
        )

    def describe(self, part: Part, node: fx.Node) -> str:
        """Return a node as a person would say it."""
        if node.op == "output":
            return "the output of " + (repr(part.path) if part.path else "the model")
        if node.op == "placeholder":
            return "the input of " + (repr(part.path) if part.path else "the model")
        if node.op == "call_module":
            module = self.called(Site(part, node))
            return f"{part.name(node.target)!r} ({type(module).__name__})"
        return str(getattr(node.target, "__name__", node.target))


def _several(names: list[str]) -> str:
    more = f" and {len(names) - 2} more" if len(names) > 2 else ""
    return ", ".join(names[:2]) + more


def _place(tensor: Tensor) -> int:
    """What is the same for two tensors with the same values in the same memory."""
    try:
        return tensor.data_ptr() or id(tensor)
    except Exception:  # a tensor without memory
        return id(tensor)
