"""Which norms of a model have an activation or a sum right after them, which a kernel can do too.

The model's graph is only looked at: the layers stay in place, and whether they fuse is decided at
each call (`gammabeta.layers.deferred`). What the graph has to show is that waiting changes nothing:
that the next operation is the one expected, and that meanwhile nobody changes what the norm reads.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from torch import fx, nn

from gammabeta.conversion.become import Becoming
from gammabeta.conversion.graph.parts import hooked, traced_parts
from gammabeta.conversion.graph.trace import is_node
from gammabeta.conversion.report import Fusion
from gammabeta.conversion.swap import places
from gammabeta.layers.deferred import ACTIVATION, SUM, SWISH
from gammabeta.layers.epilogue import Epilogue
from gammabeta.layers.following import (
    ADDS_IN_PLACE,
    PRODUCTS,
    SUMS,
    Activation,
    activation_of,
    method,
    module_activation,
)

_FRESH = (
    *(nn.Linear, nn.Bilinear, nn.Conv1d, nn.Conv2d, nn.Conv3d),
    *(nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d),
)
"""Modules whose output is nobody else's memory."""


@dataclass(frozen=True)
class Following:
    """What follows one call of a norm.

    Attributes:
        fuses: of `gammabeta.layers.deferred`, or "" for nothing that can be fused.
        words: the same for a person: with what it fuses, or why it does not.
    """

    fuses: str
    words: str


def following(
    modules: Mapping[str, nn.Module],
    node: fx.Node,
    kept: Collection[str] = (),
    used: Collection[str] = (),
) -> Following:
    """Say what follows ``node``, the call of a norm in the trace of a module.

    Args:
        modules: the module's submodules by name.
        node: of the trace.
        kept: names of nodes whose output is put away, such as on a module.
        used: names of tensors that code computes with by itself.
    """
    users = [user for user in node.users if not _asks_shape(user)]
    if node.name in kept:
        return Following("", "its output is kept for later")
    if not users:
        return Following("", "nobody uses its output")
    if _is_swish(modules, node, users):
        return Following(SWISH, "x · sigmoid(x)")
    if len(users) > 1:
        return Following("", f"its output has {len(users)} consumers")
    user = users[0]
    if user.op == "output":
        return Following("", "its output leaves the part of the model that can be traced")
    if not _may_wait(modules, node, user, used):
        return Following("", "its input may change before its output is used")
    activation = _activation(modules, user, node)
    if activation is not None:
        return Following(ACTIVATION, activation.name)
    if not _is_sum(user, node):
        return Following("", f"what follows is {_name(modules, user)}")
    after = list(user.users)
    if len(after) == 1 and user.next is after[0]:
        activation = _activation(modules, after[0], user)
        if activation is not None:
            return Following(f"{SUM}, {ACTIVATION}", f"sum and {activation.name}")
    return Following(SUM, "sum")


def _may_wait(
    modules: Mapping[str, nn.Module], node: fx.Node, user: fx.Node, used: Collection[str]
) -> bool:
    """Whether nothing that ``node`` reads can change before ``user`` runs."""
    between, n = [], node.next
    while n is not user:
        between.append(n)
        n = n.next
    if all(n.op == "placeholder" or _asks_shape(n) for n in between):
        return True
    x = node.args[0] if node.args else None
    if not isinstance(x, fx.Node) or len(x.users) != 1 or x.op != "call_module":
        return False
    if type(modules[str(x.target)]) not in _FRESH:
        return False
    if any(name.rpartition(".")[0] == str(node.target) for name in used):
        return False
    its = _tensors(modules[str(node.target)])
    return all(_leaves_alone(modules, n, its) for n in between)


def _tensors(module: nn.Module) -> set[int]:
    return {id(t) for t in (*module.parameters(), *module.buffers())}


def _leaves_alone(modules: Mapping[str, nn.Module], node: fx.Node, tensors: set[int]) -> bool:
    """Whether ``node`` is known to change none of ``tensors``."""
    if node.op == "get_attr":
        home, _, name = str(node.target).rpartition(".")
        return id(getattr(modules.get(home), name, None)) not in tensors
    if node.op != "call_module":
        return True
    module = modules[str(node.target)]
    return is_node(module) and not hooked(module) and _tensors(module).isdisjoint(tensors)


_SHAPES = {"shape", "ndim", "dtype", "device", "size", "dim", "numel", "__len__"}


def _asks_shape(node: fx.Node) -> bool:
    """Whether ``node`` needs no value of what it gets."""
    if node.op == "call_function":
        return node.target is getattr and node.args[1] in _SHAPES
    return node.op == "call_method" and node.target in _SHAPES


def _function(node: fx.Node) -> Any:
    if node.op == "call_function":
        return node.target
    return method(str(node.target)) if node.op == "call_method" else None


def _activation(modules: Mapping[str, nn.Module], node: fx.Node, x: fx.Node) -> Activation | None:
    """The activation of ``x`` that ``node`` is, if it is one."""
    if node.op == "call_module":
        module = modules[str(node.target)]
        looked_at = hooked(module) or module.__dict__.get("_compiled_call_impl") is not None
        return module_activation(module) if node.args == (x,) and not looked_at else None
    if not node.args:
        given = {k: v for k, v in node.kwargs.items() if k != "input"}
        return activation_of(_function(node), (), given) if node.kwargs.get("input") is x else None
    return activation_of(_function(node), node.args[1:], node.kwargs) if node.args[0] is x else None


def _is_sum(node: fx.Node, x: fx.Node) -> bool:
    """Whether ``node`` adds another tensor to ``x``."""
    function = _function(node)
    if function not in SUMS or len(node.args) != 2 or node.kwargs:
        return False
    one, other = node.args
    if not (isinstance(one, fx.Node) and isinstance(other, fx.Node)) or one is other:
        return False
    return one is x or function not in ADDS_IN_PLACE


def _is_swish(modules: Mapping[str, nn.Module], x: fx.Node, users: list[fx.Node]) -> bool:
    """Whether ``users`` are the sigmoid of ``x`` and the product of the two, one right after."""
    if len(users) != 2:
        return False
    gate, product = users
    activation = _activation(modules, gate, x)
    if activation is None or activation.name != "sigmoid" or activation.inplace:
        return False
    factors = _function(product) in PRODUCTS and not product.kwargs and set(product.args)
    return (
        factors == {x, gate}
        and list(gate.users) == [product]
        and x.next is gate
        and gate.next is product
    )


def _name(modules: Mapping[str, nn.Module], node: fx.Node) -> str:
    if node.op == "call_module":
        return type(modules[str(node.target)]).__name__
    return str(getattr(node.target, "__name__", node.target))


def plan_fusing(model: nn.Module, changes: list[Becoming], fuse: bool) -> list[Fusion]:
    """Add to ``changes`` what each norm of gammabeta's that the model then has may fuse with.

    Args:
        model: as it is before ``changes``.
        changes: of its modules.
        fuse: whether any may.

    Returns:
        What fuses and what does not, in the order of ``model.named_modules()``; empty unless
        ``fuse``.
    """
    then = {change.module: change for change in changes}
    norms = {
        module: names
        for names, module in places(model)
        if issubclass(then[module].cls if module in then else type(module), Epilogue)
    }
    if not norms:
        return []
    found: dict[nn.Module, tuple[Following, Following]] = {}
    if fuse:
        modes = [_in_mode(model, training, norms) for training in (False, True)]
        found = {norm: (modes[0][norm], modes[1][norm]) for norm in norms}
    fusions = []
    for norm, names in norms.items():
        its = found.get(norm)
        fuses = None if its is None else (its[0].fuses, its[1].fuses)
        if fuses == ("", ""):
            fuses = None
        if norm in then:
            then[norm].attributes["fuses"] = fuses
        elif getattr(norm, "fuses", None) != fuses:
            changes.append(Becoming(norm, type(norm), norm.__dict__ | {"fuses": fuses}))
        if its is not None:
            fusions.append(Fusion(names, fuses is not None, _words(*its)))
    return fusions


def _words(evaluation: Following, training: Following) -> str:
    if evaluation == training:
        return training.words
    return f"in training {training.words}, in evaluation {evaluation.words}"


def _in_mode(
    model: nn.Module, training: bool, norms: Collection[nn.Module]
) -> dict[nn.Module, Following]:
    """What follows each of ``norms`` where ``model`` is in training, or in evaluation."""
    found: dict[nn.Module, Following] = {}
    for part in traced_parts(model, training):
        if part.graph is None:
            continue
        home = model.get_submodule(part.path)
        modules = dict(home.named_modules(remove_duplicate=False))
        for node in part.graph.nodes:
            norm = modules.get(str(node.target)) if node.op == "call_module" else None
            if norm is None or norm not in norms:
                continue
            its = following(modules, node, part.kept, part.tensors)
            if found.setdefault(norm, its).fuses != its.fuses:
                found[norm] = Following("", "what follows differs from call to call")
    untraced = Following("", "no forward that contains it can be traced")
    return {norm: found.get(norm, untraced) for norm in norms}
