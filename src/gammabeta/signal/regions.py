"""The modules of a model: their names, and which of them can be looked into.

Compiled and scripted modules are left as they are: hooks inside them would be compiled along, or
are not supported. They are seen from outside.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import nn
from torch.jit import ScriptModule

_WRAPPERS = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")


@dataclass(frozen=True)
class Regions:
    """The modules of a model.

    Attributes:
        open: module → name, of modules that can be looked into.
        compiled: the same, of modules that are compiled, seen from outside.
        scripted: the same, of scripted modules, which cannot be seen.
        title: name of the model's type, for what is of the model itself.
    """

    open: dict[nn.Module, str]
    compiled: dict[nn.Module, str]
    scripted: dict[nn.Module, str]
    title: str


def regions(model: nn.Module, look_inside: bool = False) -> Regions:
    """Sort the modules of ``model``.

    Args:
        model: any module.
        look_inside: look into compiled modules, too, because they will run uncompiled.
    """
    found = Regions({}, {}, {}, title(model))
    closed: list[str] = []
    for path, module in model.named_modules():
        name = clean(path)
        if any(path.startswith(each) for each in closed):
            continue
        if isinstance(module, ScriptModule):
            found.scripted[module] = name
            closed.append(f"{path}." if path else "")
        elif not look_inside and is_compiled(module):
            found.compiled[module] = name
            closed.append(f"{path}." if path else "")
        else:
            found.open[module] = name
    return found


def is_compiled(module: nn.Module) -> bool:
    """Whether calls of ``module`` are compiled: by `torch.compile` or ``module.compile()``."""
    return hasattr(module, "_orig_mod") or getattr(module, "_compiled_call_impl", None) is not None


def clean(path: str) -> str:
    """Return the path of a module or parameter without the names that wrappers put in.

    Example:
        >>> clean("module._orig_mod.layer1._checkpoint_wrapped_module.conv")
        'module.layer1.conv'
    """
    return ".".join(part for part in path.split(".") if part not in _WRAPPERS)


def title(model: nn.Module) -> str:
    """Return the name of the model's type, without the wrappers around it.

    Example:
        >>> title(nn.Linear(2, 2))
        'Linear'
    """
    inner: Any = model
    while (wrapped := getattr(inner, "_orig_mod", None)) is not None or isinstance(
        inner, (nn.parallel.DistributedDataParallel, nn.DataParallel)
    ):
        inner = wrapped if wrapped is not None else inner.module
    return type(inner).__name__


def row_of(parameter: str, title: str) -> str:
    """Return the name of the row that a parameter belongs to: its module's, for a ``weight``.

    Args:
        parameter: name of the parameter.
        title: name for the model itself.

    Example:
        >>> row_of("h.0.c_fc.weight", "GPT"), row_of("h.0.w1", "GPT"), row_of("weight", "Linear")
        ('h.0.c_fc', 'h.0.w1', 'Linear')
    """
    module, _, name = parameter.rpartition(".")
    return (module or title) if name in _OF_A_LAYER else parameter


_OF_A_LAYER = ("weight", "bias", "gamma", "beta")


def parents(name: str) -> Iterator[str]:
    """Yield ``name`` and the names of the modules around it, the nearest first.

    Example:
        >>> list(parents("h.0.attn"))
        ['h.0.attn', 'h.0', 'h']
    """
    while name:
        yield name
        name = name.rpartition(".")[0]
