"""A norm is made anew in each ``forward``.

## What it is

``nn.BatchNorm2d(c)(x)`` in ``forward`` makes a layer with γ = 1, β = 0 and empty running
statistics, uses it once and throws it away.

## Why it matters

A new layer is in training mode, whatever the mode of the model: a batch norm normalizes by the
batch in evaluation too. γ and β are never trained and nothing is saved. On an accelerator the new
layer is on the wrong device.

## How it is detected

The source of ``forward``, and of the methods and functions that it calls, is read for calls of norm
classes. Layers that are made once (in an ``if``, and put into an attribute) are not reported. With
batches, norms that are not the same object in two passes are certain evidence. Batch norms are an
error; other norms lose their γ and β only, which is a warning; those without parameters are not
reported.

## Fix

```python
def __init__(self, channels):
    self.norm = nn.BatchNorm2d(channels)
```

## Source

Documentation of `torch.nn.Module`: submodules are assigned in ``__init__``.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import partial

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm

from gammabeta.doctor.finding import Finding
from gammabeta.doctor.model.source import CallSite, forward_calls
from gammabeta.doctor.rule import static
from gammabeta.doctor.subject import Subject
from gammabeta.layers.traits import NORMS, lineage

_STORES = ("add_module", "register_module", "setattr", "append", "setdefault", "insert", "update")


@static("GB109", "norm-in-forward", "a norm is made anew in each forward pass")
def check(subject: Subject) -> Iterator[Finding]:
    """Yield a finding for each module that makes norms in ``forward``."""
    said = set()
    for path, cls, conditional in (*_called(subject), *_written(subject)):
        if path in said:
            continue
        said.add(path)
        name = cls.__name__
        batch = issubclass(cls, _BatchNorm)
        cause = (
            "its forward makes a new batch norm each time, which is in training mode and "
            "untrained whatever the model's mode"
            if batch
            else "its forward makes a new norm each time, so γ and β are never trained or saved"
        )
        yield Finding(
            severity=("warning" if conditional else "error") if batch else "warning",
            layer=path,
            cause=cause,
            numbers={"norm": name},
            fix=f"self.norm = nn.{name}(…)  # in __init__; forward calls self.norm(x)",
        )


def _called(subject: Subject) -> Iterator[tuple[str, type[nn.Module], bool]]:
    """Yield the norms that passes called and that are not the same in each pass."""
    evidence = subject.evidence
    if evidence is None or not evidence.spent:
        return
    passes = evidence.evaluated
    if not any(each.unregistered for each in passes):
        return
    if len(passes) < 2:
        passes = [*passes, *evidence.trained[:1]]
    first, others = passes[0], passes[1:]
    for path, norm in first.unregistered:
        kept = any(each is norm for p in others for _, each in p.unregistered)
        state = any(True for _ in norm.parameters()) or "batch" in lineage(norm)
        if not kept and others and state:
            yield path, type(norm), False


def _written(subject: Subject) -> Iterator[tuple[str, type[nn.Module], bool]]:
    """Yield the norms that the source of ``forward`` makes."""
    for path, module in subject.modules.items():
        for site in forward_calls(module):
            cls = site.callee
            cls = cls.func if isinstance(cls, partial) else cls
            if not isinstance(cls, type) or not issubclass(cls, (*NORMS, _BatchNorm)):
                continue
            conditional = site.depends_on("training")
            if _is_plain(site, cls) or _is_kept(site) or (conditional and _in_training(site)):
                continue
            yield path, cls, conditional


def _is_plain(site: CallSite, cls: type) -> bool:
    """Whether the layer has neither parameters nor a mode, such as an instance norm's default."""
    affine = site.argument(99, "affine") or site.argument(99, "elementwise_affine")
    off = isinstance(affine, ast.Constant) and not affine.value
    if issubclass(cls, _BatchNorm):
        return False
    return (affine is None or off) if issubclass(cls, _InstanceNorm) else off


def _in_training(site: CallSite) -> bool:
    return all(
        wanted is not isinstance(test, ast.UnaryOp)
        for each in site.chain
        for test, wanted in each.conditions
        if "training" in ast.unparse(test)
    )


def _is_kept(site: CallSite) -> bool:
    """Whether the layer is made under a condition and put into an attribute."""
    return any(each.conditions for each in site.chain) and any(_keeps(each) for each in site.chain)


def _keeps(site: CallSite) -> bool:
    """Whether the statement of a call puts its value into an attribute."""
    statement = site.statement
    if isinstance(statement, (ast.Assign, ast.AnnAssign)):
        one = [statement.target] if isinstance(statement, ast.AnnAssign) else statement.targets
        if any(isinstance(target, (ast.Attribute, ast.Subscript)) for target in one):
            return True
        names = {target.id for target in one if isinstance(target, ast.Name)}
        return any(_stores(node, names) for node in ast.walk(site.tree))
    return statement is not None and any(
        isinstance(node, ast.Call) and _last(node.func) in _STORES for node in ast.walk(statement)
    )


def _stores(node: ast.AST, names: set[str]) -> bool:
    """Whether a node puts one of these variables into an attribute."""
    if isinstance(node, ast.Assign):
        mentioned = {n.id for n in ast.walk(node.value) if isinstance(n, ast.Name)}
        return bool(mentioned & names) and any(
            isinstance(t, (ast.Attribute, ast.Subscript)) for t in node.targets
        )
    if isinstance(node, ast.Call) and _last(node.func) in _STORES:
        return any(isinstance(n, ast.Name) and n.id in names for n in ast.walk(node))
    return False


def _last(called: ast.expr) -> str:
    return ast.unparse(called).rpartition(".")[2]
