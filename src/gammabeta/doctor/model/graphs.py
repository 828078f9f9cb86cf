"""Batch norms in graphs of `torch.export`, `torch.fx` and `torch.jit` whose mode is a constant."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx

from gammabeta.doctor.subject import Subject

_ATEN = {
    "batch_norm": 5,
    "native_batch_norm": 5,
    "_native_batch_norm_legit": 5,
    "_native_batch_norm_legit_functional": 5,
    "_batch_norm_impl_index": 5,
    "cudnn_batch_norm": 5,
    "miopen_batch_norm": 5,
    "_batch_norm_with_update": None,
    "_batch_norm_with_update_functional": None,
}
"""Operator → position of its ``training``; None if it always trains. Position 3 is the mean."""

STAGES = ("fake", "observed", "quantized")
"""Fake quantization, observers that are calibrated, operators that quantize."""

_JIT = ("aten::batch_norm", "aten::native_batch_norm", "aten::_batch_norm_impl_index")


@dataclass(frozen=True)
class Baked:
    """A batch norm that a graph computes in training mode, whatever the model's mode.

    Attributes:
        layer: path of the layer that it was.
        operator: what computes it, such as ``"aten::batch_norm"``.
        form: ``"exported"``, ``"traced"`` (by `torch.fx`) or ``"compiled"`` (by `torch.jit`).
        quantized: `STAGES`, how far the graph is on its way to a quantized one; "" if not at all.
        on_purpose: whether the graph is one for training: it has a loss, a backward pass, fake
            quantization, or the model has an optimizer.
    """

    layer: str
    operator: str
    form: str
    on_purpose: bool
    quantized: str = ""


def baked(subject: Subject) -> list[Baked]:
    """Return the batch norms with running statistics that graphs keep in training mode."""
    found: dict[str, Baked] = {}
    seen: set[int] = set()
    for path, graph in subject.graphs:
        if id(graph) in seen:
            continue
        seen.add(id(graph))
        stage = ""
        if isinstance(graph, fx.Graph):
            purpose, stage = _on_purpose(subject, path, graph), _stage(subject, path, graph)
            each: Iterator[tuple[str, str, str]] = _in_fx(subject, graph)
        else:
            purpose, each = subject.optimizer is not None, _in_jit(graph)
        for layer, operator, form in each:
            whole = ".".join(name for name in (path, layer) if name)
            found.setdefault(whole, Baked(whole, operator, form, purpose, stage))
    return list(found.values())


def _on_purpose(subject: Subject, path: str, graph: fx.Graph) -> bool:
    if subject.optimizer is not None:
        return True
    signature = getattr(subject.exported, "graph_signature", None)
    kinds = {str(spec.kind) for spec in getattr(signature, "output_specs", ())}
    if any("LOSS" in kind or "GRADIENT" in kind for kind in kinds):
        return True
    inside = subject.modules[path].modules() if path in subject.modules else ()
    fake = any("FakeQuantize" in type(module).__name__ for module in inside)
    return fake or any("backward" in str(node.target) for node in graph.nodes)


def _stage(subject: Subject, path: str, graph: fx.Graph) -> str:
    """Return what a graph shows of quantization; see `STAGES`."""
    if any("quantize" in str(node.target) for node in graph.nodes if node.op == "call_function"):
        return "quantized"
    inside = subject.modules[path].modules() if path in subject.modules else ()
    classes = {cls.__name__ for module in inside for cls in type(module).__mro__}
    if "FakeQuantizeBase" in classes:
        return "fake"
    return "observed" if "ObserverBase" in classes else ""


# torch.export and torch.fx


def _in_fx(subject: Subject, graph: fx.Graph) -> Iterator[tuple[str, str, str]]:
    for node in graph.nodes:
        if node.op != "call_function":
            continue
        mean, form = _training(node)
        if isinstance(mean, fx.Node):
            yield _owner(subject, node, mean), _name(node), form


def _training(node: fx.Node) -> tuple[Any, str]:
    """Return the running mean that a node updates, and the kind of its graph; None if none."""
    if node.target is F.batch_norm:
        given = dict(zip(("input", "running_mean"), node.args, strict=False)) | node.kwargs
        mode = node.kwargs.get("training", node.args[5] if len(node.args) > 5 else False)
        return (given.get("running_mean") if mode is True else None), "traced"
    if node.target is torch.batch_norm:
        return (node.args[3] if len(node.args) > 5 and node.args[5] is True else None), "traced"
    if not isinstance(node.target, torch._ops.OpOverload) or node.target.namespace != "aten":
        return None, ""
    name, overload = node.target._schema.name.partition("::")[2], node.target._overloadname
    if name not in _ATEN or overload.startswith("no_stats") or len(node.args) < 5:
        return None, ""
    position = _ATEN[name]
    trains = position is None or (len(node.args) > position and node.args[position] is True)
    return (node.args[3] if trains else None), "exported"


def _name(node: fx.Node) -> str:
    return str(getattr(node.target, "__name__", node.target))


def _owner(subject: Subject, node: fx.Node, mean: fx.Node) -> str:
    """Return the path of the layer, from its running mean or from where it was traced."""
    name = str(mean.target) if mean.op == "get_attr" else ""
    signature = getattr(subject.exported, "graph_signature", None)
    if not name and signature is not None:
        name = {**signature.inputs_to_buffers, **signature.inputs_to_parameters}.get(mean.name, "")
    if name:
        return name.rpartition(".")[0]
    stack = list((node.meta.get("nn_module_stack") or {}).values())
    return str(stack[-1][0]) if stack else ""


# torch.jit


def _in_jit(graph: Any) -> Iterator[tuple[str, str, str]]:
    for kind in _JIT:
        for node in graph.findAllNodes(kind):
            inputs = list(node.inputs())
            if inputs[5].node().kind() != "prim::Constant" or inputs[5].toIValue() is not True:
                continue
            if inputs[3].node().kind() == "prim::GetAttr":
                yield _chain(inputs[3].node()), kind, "compiled"


def _chain(node: Any) -> str:
    """Return the path of the module whose attribute a ``prim::GetAttr`` reads."""
    names: list[str] = []
    while node.kind() == "prim::GetAttr":
        names.append(node.s("name"))
        node = next(iter(node.inputs())).node()
    return ".".join(reversed(names[1:]))
