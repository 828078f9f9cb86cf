"""Adopt norms of somebody else's classes: what they were found to compute, the kernels compute."""

from __future__ import annotations

from torch import nn
from torch.nn.utils.parametrize import is_parametrized

from gammabeta.conversion.adopting.adopted import Adopted, adopted, adopted_class
from gammabeta.conversion.become import Becoming
from gammabeta.layers.findings import ADOPTED
from gammabeta.layers.traits import is_ours, synchronizes, traits
from gammabeta.ops.cpu import library

_OWN_WAYS = {
    "__reduce__": "is pickled in a way of its own",
    "__reduce_ex__": "is pickled in a way of its own",
    "__deepcopy__": "is copied in a way of its own",
    "__getattribute__": "looks up attributes in a way of its own",
    "__getattr__": "looks up attributes in a way of its own",
    "__init_subclass__": "does something when it is subclassed",
    "__slots__": "has __slots__",
}


def adopt(module: nn.Module) -> Becoming | str:
    """Return how ``module`` is adopted, or why it is not.

    Args:
        module: a norm of a class that is neither torch's nor gammabeta's. Copies of it are tried.

    Returns:
        Its next class, with the very attributes it has; or the reason, which begins with a verb or
        a clause of its own.

    Example:
        >>> class Plain(nn.LayerNorm):
        ...     def forward(self, x):
        ...         return super().forward(x)
        >>> Plain.__module__ = "theirs"
        >>> adopt(Plain(8)).cls.__name__
        'Plain'
    """
    cls = type(module)
    why = _reason(module, cls)
    if why:
        return why
    its = adopted_class(cls)
    found = its.proved(module)
    return found if isinstance(found, str) else Becoming(module, its.cls, module.__dict__)


def is_adopted(module: nn.Module) -> bool:
    """Whether ``module`` is adopted."""
    return adopted(type(module)) is not None


def give_back(module: nn.Module) -> Becoming | str:
    """Return how an adopted ``module`` becomes one of its own class again, or why it cannot."""
    its: Adopted | None = vars(type(module)).get(ADOPTED)
    if its is None:
        return "is of a class made from that of an adopted module"
    return Becoming(module, its.original, module.__dict__)


def _reason(module: nn.Module, cls: type[nn.Module]) -> str:
    """Why ``module`` cannot be adopted, whatever it computes; else ""."""
    if not library.chosen:
        return "gammabeta's native kernels are not in use"
    if "forward" in module.__dict__:
        return "its forward was replaced on the object"
    if is_parametrized(module):
        return "it is parametrized"
    if any(map(is_ours, cls.__mro__)) or synchronizes(module):
        return "its class derives from one that gammabeta does not convert"
    if cls.__module__.split(".")[0] == "torch":
        return f"gammabeta has no {cls.__name__}"
    if type(cls) is not type:
        return f"{cls.__name__} has a metaclass"
    for base in cls.__mro__:
        if base in nn.Module.__mro__:
            break
        for name, words in _OWN_WAYS.items():
            if name in vars(base):
                return f"{cls.__name__} {words}"
    its = traits(module)
    if not its.normalizes:
        return its.stranger or "gammabeta does not know what it computes"
    return ""
