"""A functional batch norm normalizes by the batch in evaluation too.

## What it is

`torch.nn.functional.batch_norm` has no mode of its own: ``training=`` says whether it normalizes by
the batch, and without running statistics it can do nothing else. ``model.eval()`` changes neither.

## Why it matters

The prediction for one example depends on the others in its batch, and on the batch size.

## How it is detected

The source of ``forward``, and of what it calls, is read for calls of ``F.batch_norm`` with
``training=True`` (or with a variable, a default or an attribute that nothing else can be), without
running statistics, or with running statistics that are made on the spot
or are no buffers. ``training=self.training`` is right. With batches, such a call in evaluation mode
is certain evidence. Not reported: calls that happen in training only; an input that is a weight
(weight standardization) or that has one row (an instance norm written with a batch norm).

## Fix

```python
F.batch_norm(x, self.running_mean, self.running_var, weight, bias, training=self.training)
```

## Source

Documentation of `torch.nn.functional.batch_norm`.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from gammabeta.doctor.finding import Finding
from gammabeta.doctor.model.arguments import certain
from gammabeta.doctor.model.source import CallSite, forward_calls
from gammabeta.doctor.rule import static
from gammabeta.doctor.subject import Subject

_BY_BATCH = "a functional batch norm normalizes by the batch, whatever the model's mode"
_LOST = "a functional batch norm is given running statistics that are no buffers of the model"
_FUNCTIONS = {
    F.batch_norm: (0, 1, 5),
    torch.batch_norm: (0, 3, 5),
    torch.native_batch_norm: (0, 3, 5),
    torch.ops.aten.batch_norm: (0, 3, 5),
    torch.ops.aten.native_batch_norm: (0, 3, 5),
}
"""Function → the positions of its input, ``running_mean`` and ``training``."""


@static("GB110", "functional-training", "a functional batch norm is always in training mode")
def check(subject: Subject) -> Iterator[Finding]:
    """Yield a finding for each module that makes such a call."""
    said = set()
    called, silent = dict(_called(subject)), _silent(subject)
    for path, cause in (*called.items(), *_written(subject)):
        if path in said or path in silent:
            continue
        said.add(path)
        yield Finding(
            severity="error",
            layer=path,
            cause=cause,
            numbers={"seen in": "a pass in eval()" if path in called else "the source"},
            fix="F.batch_norm(x, self.running_mean, self.running_var, weight, bias, "
            "training=self.training)",
        )


def _silent(subject: Subject) -> frozenset[str]:
    """Paths whose functional norms the passes have shown to be right."""
    evidence = subject.evidence
    if evidence is None or not evidence.spent:
        return frozenset()
    seen = {f.layer for p in evidence.evaluated for f in p.functional if f.name == "batch_norm"}
    wrong = {path for path, _ in _called(subject)}
    return frozenset(seen - wrong)


def _called(subject: Subject) -> Iterator[tuple[str, str]]:
    """Yield the modules that made such a call in a pass in evaluation mode."""
    evidence = subject.evidence
    if evidence is None or not evidence.spent:
        return
    for each in evidence.evaluated:
        for call in each.functional:
            graph = isinstance(subject.modules.get(call.layer), fx.GraphModule)
            if call.name != "batch_norm" or (graph and call.running):
                continue
            if call.training and call.examples > 1:
                if not _is_weight(subject, call.layer):
                    yield call.layer, _BY_BATCH
            elif call.running and not call.registered and not call.training:
                yield call.layer, _LOST


def _is_weight(subject: Subject, path: str) -> bool:
    """Whether the source says that a weight is normalized, not activations."""
    return any(
        site.callee in _FUNCTIONS and _standardizes(site)
        for site in forward_calls(subject.modules[path])
        if _hashable(site.callee)
    )


def _written(subject: Subject) -> Iterator[tuple[str, str]]:
    for path, module in subject.modules.items():
        if isinstance(module, fx.GraphModule):  # GB401 and GB402 read its graph
            continue
        for name, value in module.__dict__.items():
            if (
                isinstance(value, partial)
                and value.func in _FUNCTIONS
                and value.keywords.get("training") is True
                and not name.startswith("_")
            ):
                yield path, _BY_BATCH
        for site in forward_calls(module):
            callee = site.callee.func if isinstance(site.callee, partial) else site.callee
            if not _hashable(callee) or callee not in _FUNCTIONS:
                continue
            cause = _wrong(module, site, *_FUNCTIONS[callee])
            if cause and not site.depends_on("training") and not _standardizes(site):
                yield path, cause


def _wrong(module: nn.Module, site: CallSite, x: int, mean: int, training: int) -> str:
    mode = site.argument(training, "training")
    if mode is not None and certain(module, site, mode) is True:
        return _BY_BATCH
    statistics = site.argument(mean, "running_mean")
    if isinstance(statistics, ast.Call) and _last(statistics.func) in (
        "zeros", "zeros_like", "empty", "new_zeros", "tensor",
    ):  # fmt: skip
        return _LOST
    if not isinstance(statistics, ast.Attribute) or ast.unparse(statistics.value) != "self":
        return ""
    return _LOST if isinstance(module.__dict__.get(statistics.attr), Tensor) else ""


def _standardizes(site: CallSite) -> bool:
    """Whether the input is a weight, or examples are folded into channels (one row)."""
    x = site.argument(0, "input")
    if x is None:
        return False
    texts = [x]
    if isinstance(x, ast.Name):
        texts += [
            node.value
            for node in ast.walk(site.tree)
            if isinstance(node, ast.Assign)
            and any(isinstance(t, ast.Name) and t.id == x.id for t in node.targets)
        ]
    return any(_is_weight_or_row(each) for each in texts)


_SHAPING = ("view", "reshape", "flatten", "unsqueeze", "contiguous", "float", "to", "transpose")


def _is_weight_or_row(node: ast.expr) -> bool:
    """Whether it is an attribute called a weight, or has one row; both in another shape."""
    while isinstance(node, ast.Call) and _last(node.func) in _SHAPING:
        name, args = _last(node.func), node.args
        method = isinstance(node.func, ast.Attribute) and ast.unparse(node.func.value) != "torch"
        inner = node.func.value if method and isinstance(node.func, ast.Attribute) else None
        if inner is None:
            if not args:
                return False
            inner, args = args[0], args[1:]
        first = args[0] if args else None
        if isinstance(first, (ast.Tuple, ast.List)) and first.elts:
            first = first.elts[0]
        row = {"view": 1, "reshape": 1, "unsqueeze": 0}.get(name)
        if row is not None and isinstance(first, ast.Constant) and first.value == row:
            return True
        node = inner
    return isinstance(node, ast.Attribute) and node.attr.startswith("weight")


def _last(called: ast.expr) -> str:
    return ast.unparse(called).rpartition(".")[2]


def _hashable(value: Any) -> bool:
    try:
        hash(value)
    except TypeError:
        return False
    return True
