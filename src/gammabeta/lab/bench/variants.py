"""One network in several forms: with torch's norms, with gammabeta's, with none.

The network is traced, so that a norm, what is added to it and the ReLU after it can become one
call whatever the source looks like; every form is made from that one trace.
"""

from __future__ import annotations

import copy
import inspect
import operator
from typing import Any

import torch
from torch import fx, nn
from torch.nn import functional

import gammabeta
from gammabeta.conversion.families import NORMS, TWINS
from gammabeta.lab.bench.rivals import Absent

_RELU_FUNCTIONS = (torch.relu, torch.relu_, functional.relu, functional.relu_)
_RELU_METHODS = ("relu", "relu_")
_ADD_FUNCTIONS = (operator.add, operator.iadd, torch.add)
_ADD_METHODS = ("add", "add_", "__add__", "__iadd__")
_BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)

VARIANTS = {
    "relu": "the same network, its norms taken out",
    "plain": "the same, its convolutions with biases: a network as it is trained without norms",
    "torch": "torch's layers",
    "compile": "torch's layers under torch.compile",
    "gammabeta": "gammabeta's layers, activation and residual in the same call",
    "lean": 'the same with memory="lean"',
}
"""Name → what it is."""


def variant(name: str, model: nn.Module) -> nn.Module:
    """Return ``model`` in the form ``name``; ``model`` itself stays as it is.

    Args:
        name: of `VARIANTS`.
        model: built of torch's layers, in training mode; `torch.fx` has to be able to trace it.

    Raises:
        Absent: gammabeta's layers cannot do that yet.
        ValueError: the model cannot be traced.

    Example:
        >>> from gammabeta.lab.bench.nets import default
        >>> fused = variant("gammabeta", default(1, 4))
        >>> [type(module).__name__ for module in fused.children()][:3]
        ['Conv2d', 'BatchNorm2d', 'AdaptiveAvgPool2d']
    """
    try:
        traced = fx.symbolic_trace(copy.deepcopy(model).train())
    except Exception as e:  # a model's own code may raise anything on a proxy
        raise ValueError(f"the model cannot be traced by torch.fx: {str(e)[:160]}") from e
    if name in ("relu", "plain"):
        _strip(traced)
        if name == "plain":
            _give_biases(traced)
    elif name == "compile":
        traced.compile(dynamic=False)
    elif name in ("gammabeta", "lean"):
        options = {} if name == "gammabeta" else {"memory": "lean"}
        if not options.keys() <= inspect.signature(gammabeta.BatchNorm2d).parameters.keys():
            raise Absent("gammabeta's layers have no memory= yet")
        _fuse(traced, options)
    return traced


def _strip(traced: fx.GraphModule) -> None:
    """Take every normalization layer out of the graph."""
    for node in list(traced.graph.nodes):
        if isinstance(_module(traced, node), NORMS):
            node.replace_all_uses_with(node.args[0])
            traced.graph.erase_node(node)
    _clean(traced)


def _give_biases(traced: fx.GraphModule) -> None:
    """Give a bias, which a norm would have taken away again, to every layer that has none."""
    for module in traced.modules():
        if isinstance(module, (nn.Linear, nn.modules.conv._ConvNd)) and module.bias is None:
            outputs: Any = getattr(module, "out_channels", None) or module.out_features
            module.bias = nn.Parameter(torch.zeros(outputs).to(module.weight))


def _fuse(traced: fx.GraphModule, options: dict[str, Any]) -> None:
    """Swap norms for gammabeta's, and let batch norms do the add and the ReLU that follow."""
    calls: dict[object, int] = {}
    for node in traced.graph.nodes:
        calls[node.target] = calls.get(node.target, 0) + 1
    for node in list(traced.graph.nodes):
        norm = _module(traced, node)
        if type(norm) not in _BATCH_NORMS:
            continue
        relu, residual = None, None
        if calls[node.target] == 1:
            relu, residual = _what_follows(traced, node)
        if relu is not None:
            with traced.graph.inserting_before(relu):
                given: dict[str, Any] = {} if residual is None else {"residual": residual}
                fused = traced.graph.call_module(node.target, (node.args[0],), given)
            relu.replace_all_uses_with(fused)
            replaced = [relu, *node.users, node] if residual is not None else [relu, node]
            for done in replaced:
                traced.graph.erase_node(done)
        _put(traced, node.target, _twin(norm, None if relu is None else "relu", options))
    _clean(traced)
    gammabeta.convert(traced)  # the norms of other families


def _what_follows(traced: fx.GraphModule, node: fx.Node) -> tuple[fx.Node | None, fx.Node | None]:
    """The ReLU that ``node`` goes into, and what is added to it before; None where not."""
    follower = _only_user(node)
    if follower is None:
        return None, None
    if _is_relu(traced, follower):
        return follower, None
    if _is_add(follower):
        others = [arg for arg in follower.args if arg is not node]
        relu = _only_user(follower)
        if len(others) == 1 and isinstance(others[0], fx.Node) and relu is not None:
            return (relu, others[0]) if _is_relu(traced, relu) else (None, None)
    return None, None


def _only_user(node: fx.Node) -> fx.Node | None:
    users = list(node.users)
    return users[0] if len(users) == 1 else None


def _module(traced: fx.GraphModule, node: fx.Node) -> nn.Module | None:
    return traced.get_submodule(str(node.target)) if node.op == "call_module" else None


def _is_relu(traced: fx.GraphModule, node: fx.Node) -> bool:
    if node.op == "call_function":
        return node.target in _RELU_FUNCTIONS
    if node.op == "call_method":
        return node.target in _RELU_METHODS
    return type(_module(traced, node)) is nn.ReLU


def _is_add(node: fx.Node) -> bool:
    if node.kwargs or len(node.args) != 2:
        return False
    if node.op == "call_function":
        return node.target in _ADD_FUNCTIONS
    return node.op == "call_method" and node.target in _ADD_METHODS


def _twin(norm: Any, activation: str | None, options: dict[str, Any]) -> nn.Module:
    """gammabeta's layer with the parameters, buffers and settings of torch's ``norm``."""
    layer = TWINS[type(norm)](
        norm.num_features,
        norm.eps,
        norm.momentum,
        norm.affine,
        norm.track_running_stats,
        activation=activation,
        **options,
    )
    layer.load_state_dict(norm.state_dict())
    return layer.train(norm.training)


def _put(traced: fx.GraphModule, path: str, module: nn.Module) -> None:
    home, _, name = path.rpartition(".")
    setattr(traced.get_submodule(home), name, module)


def _clean(traced: fx.GraphModule) -> None:
    traced.delete_all_unused_submodules()
    traced.graph.lint()
    traced.recompile()
