"""A norm is kept in a list, a dict, a closure or a global variable, so PyTorch does not see it.

## What it is

`torch.nn.Module` registers a module that is assigned to an attribute, and nothing else. A norm in a
plain list, tuple or dict, in a closure, a default argument, a class attribute or a global variable
is called in ``forward`` but is no part of the model.

## Why it matters

``model.eval()`` does not reach it: a batch norm normalizes by the batch for ever. ``model.to()``
does not move it, ``state_dict()`` does not save it, and an optimizer that was given
``model.parameters()`` does not train it.

## How it is detected

The attributes of each module are searched for modules that the model does not contain: through
lists, tuples, dicts, sets, partial functions, closures, default arguments, class attributes, hooks
and plain objects; so is the source of ``forward`` for a list or dict that it fills. With batches,
calls of norms that the model does not contain are certain evidence, and a norm that is never called
is not reported. Nothing is reported for a norm without parameters and buffers, or if everything
that is hidden is in evaluation mode and has no gradients: a teacher network is often kept out of
the model that way on purpose.

## Fix

```python
self.norms = nn.ModuleList(self.norms)
```

## Source

Documentation of `torch.nn.ModuleList` and of `torch.nn.ModuleDict`.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from gammabeta.conversion.graph.reach import names_in_code
from gammabeta.doctor.finding import Finding
from gammabeta.doctor.model.hidden import Hidden, has_state, hidden_norms, is_library
from gammabeta.doctor.model.source import forward_calls
from gammabeta.doctor.rule import static
from gammabeta.doctor.subject import Subject
from gammabeta.layers.traits import lineage

_CAUSE = (
    "it calls a norm that is no submodule, so eval(), to(), state_dict() and the optimizer miss it"
)


@static("GB108", "unregistered-norm", "a norm is called that is not registered as a submodule")
def check(subject: Subject) -> Iterator[Finding]:
    """Yield a finding for each module that holds such norms."""
    hidden = hidden_norms(subject)
    called = _called(subject)
    owners: dict[tuple[str, str], list[Hidden]] = {}
    for each in hidden:
        if called is not None and lineage(each.norm) and each.norm not in called:
            continue
        owners.setdefault((each.owner, each.attribute), []).append(each)
    for (owner, attribute), norms in owners.items():
        if not any(_is_alive(each.norm) for each in norms):
            continue
        used = called is not None or attribute in ("", "forward", *_mentioned(subject))
        yield _finding(subject, owner, attribute, norms, "error" if used else "info")
    if called is None:
        yield from _cached(subject, {path for path, _ in owners})
    known = {each.norm for each in hidden}
    for norm, path in (called or {}).items():
        alive = has_state(norm) and _is_alive(norm)
        if norm in known or not alive or not _stays(subject, norm):
            continue
        batch = "batch" in lineage(norm)
        yield Finding(
            severity="error" if batch else "warning",
            layer=path,
            cause=_CAUSE,
            numbers={"norm": type(norm).__name__},
            fix="self.norm = norm  # assign it in __init__, so that it is registered",
        )


def _cached(subject: Subject, known: set[str]) -> Iterator[Finding]:
    """Yield a finding for each module whose ``forward`` will put batch norms into a container."""
    for path, module in subject.modules.items():
        for site in forward_calls(module):
            cls = site.callee
            if path in known or not (isinstance(cls, type) and issubclass(cls, _BatchNorm)):
                continue
            attribute = _container(module, site.statement)
            if attribute:
                known.add(path)
                yield Finding(
                    severity="error",
                    layer=path,
                    cause=_CAUSE,
                    numbers={"where": attribute, "norm": cls.__name__},
                    fix=f"self.{attribute} = nn.ModuleDict()  # in __init__, with all its norms",
                )


def _container(module: nn.Module, statement: ast.stmt | None) -> str:
    """Return the plain list or dict of ``module`` that a statement puts something into, or ""."""
    if isinstance(statement, ast.Assign):
        into = [t.value for t in statement.targets if isinstance(t, ast.Subscript)]
    elif isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Call):
        called = statement.value.func
        adds = isinstance(called, ast.Attribute) and called.attr in ("append", "setdefault")
        into = [called.value] if adds and isinstance(called, ast.Attribute) else []
    else:
        into = []
    for each in into:
        own = isinstance(each, ast.Attribute) and ast.unparse(each.value) == "self"
        name = each.attr if own and isinstance(each, ast.Attribute) else ""
        if isinstance(module.__dict__.get(name), (list, dict)):
            return name
    return ""


def _finding(
    subject: Subject, owner: str, attribute: str, norms: list[Hidden], severity: str
) -> Finding:
    module = subject.modules[owner]
    value = module.__dict__.get(attribute) if attribute else None
    fix, repair = f"self.norm = {norms[0].name}  # in __init__, so that it is registered", None
    if isinstance(value, nn.Module):
        fix = f"self.{attribute} = {attribute}  # a plain assignment in __init__ registers it"
        repair = _registrar(owner, attribute, lambda held: held)
    elif isinstance(value, (list, tuple)) and all(isinstance(m, nn.Module) for m in value):
        fix = f"self.{attribute} = nn.ModuleList(self.{attribute})"
        repair = _registrar(owner, attribute, nn.ModuleList)
    elif isinstance(value, dict) and all(isinstance(m, nn.Module) for m in value.values()):
        fix = f"self.{attribute} = nn.ModuleDict(self.{attribute})"
        if all(isinstance(key, str) and "." not in key for key in value):
            repair = _registrar(owner, attribute, nn.ModuleDict)
    elif isinstance(value, (list, tuple, dict)):
        fix = f"self.{attribute} = nn.ModuleList(…)  # or nn.ModuleDict, at each level"
    names = ", ".join(each.name for each in norms[:3])
    return Finding(
        severity=severity,
        layer=owner,
        layers=(owner, *(each.path for each in norms)),
        cause=_CAUSE if severity == "error" else "it holds a norm that is no submodule",
        numbers={"norms": len(norms), "where": names, "norm": type(norms[0].norm).__name__},
        fix=fix,
        repair=repair,
    )


def _is_alive(norm: nn.Module) -> bool:
    """Whether it follows batches or is to be trained; a hidden teacher network does neither."""
    return norm.training or any(p.requires_grad for p in norm.parameters())


def _called(subject: Subject) -> dict[nn.Module, str] | None:
    """Return unregistered norms that passes called → the caller's path; None without passes."""
    if subject.evidence is None or not subject.evidence.spent:
        return None
    passes = subject.evidence.evaluated
    return {norm: path for each in passes for path, norm in each.unregistered}


def _stays(subject: Subject, norm: nn.Module) -> bool:
    """Whether every pass called the same object: a new one each time is another rule's."""
    passes = subject.evidence.evaluated
    if len(passes) < 2:
        passes = [*passes, *subject.evidence.trained[:1]]
    return all(any(each is norm for _, each in p.unregistered) for p in passes)


def _mentioned(subject: Subject) -> set[str]:
    classes = {type(module) for module in subject.modules.values()}
    names = [names_in_code(cls) - _set_only(cls) for cls in classes if not is_library(cls)]
    return set().union(*names)


def _set_only(cls: type) -> set[str]:
    """Names that only ``__init__`` mentions."""
    used: set[str] = set()
    for base in cls.__mro__:
        for name, value in vars(base).items():
            code = getattr(value, "__code__", None)
            if code is not None and name != "__init__" and base is not nn.Module:
                used |= {*code.co_names, *(c for c in code.co_consts if isinstance(c, str))}
                for inner in code.co_consts:
                    used |= set(getattr(inner, "co_names", ()))
    return names_in_code(cls) - used


def _registrar(
    owner: str, attribute: str, container: Callable[[Any], nn.Module]
) -> Callable[[nn.Module], str]:
    def repair(model: nn.Module) -> str:
        module = model.get_submodule(owner)
        held = module.__dict__.pop(attribute)
        registered = container(held)
        registered.train(module.training)
        setattr(module, attribute, registered)
        where = f"{owner}.{attribute}" if owner else attribute
        kinds = f"{type(held).__name__} → {type(registered).__name__}"
        return f"{where}: {kinds}, registered (in the code, too)"

    return repair
