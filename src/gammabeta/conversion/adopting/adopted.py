"""The class of an adopted module: its own class, with a forward that the kernels compute.

An adopted module stays an instance of its class, with the attributes, parts and hooks it has. Its
forward runs a `Recipe` where a proof covers the call, and the forward it was written with in every
other case: other arguments, another dtype, number of dims or memory layout than proved, changed
settings, and wherever somebody has to see torch's operators.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Hashable
from types import FunctionType
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.utils._device import DeviceContext

from gammabeta.conversion.adopting.proof import prove
from gammabeta.conversion.adopting.recipe import Adoption, covered_by
from gammabeta.conversion.adopting.settings import Names, collect
from gammabeta.conversion.adopting.worth import least, worthwhile
from gammabeta.layers.findings import ADOPTED, as_written
from gammabeta.layers.traits import lineage
from gammabeta.ops.allocated import PLAIN
from gammabeta.ops.cpu.support import serves

_is_compiling = torch.compiler.is_compiling
_function_modes = torch._C._len_torch_function_stack


def _are_seen() -> bool:
    """Whether somebody looks at torch's functions, as `gammabeta.watch` does."""
    modes = map(torch._C._get_function_stack_at, range(_function_modes()))
    return any(type(mode) is not DeviceContext for mode in modes)


class Adopted:
    """What is known of a class whose modules are adopted.

    Attributes:
        original: the class as it was written.
        cls: the class of its adopted modules.
        names: of the settings on which a proof rests; None before the first module was seen.
        adoptions: settings → what was proved, or why nothing was.
    """

    def __init__(self, original: type[nn.Module]) -> None:
        self.original = original
        self.names: Names | None = None
        self.adoptions: dict[Hashable, Adoption | str] = {}
        self._forward = original.forward
        self._files: tuple[dict[str, Any], ...] = ()
        self._least = 0, 0  # elements that a proof may pay for, with and without a gradient
        self.cls = self._make()

    def settings(self, module: nn.Module) -> Hashable:
        """The settings of ``module``; None where they cannot be compared."""
        if self.names is None:
            return None
        try:
            values = self.names.values(module, self._files)
            hash(values)
        except TypeError:
            return None
        return values

    def proved(self, module: nn.Module) -> Adoption | str:
        """What is proved of ``module``, or why nothing is; it may be of either class."""
        if self.original.forward is not self._forward:
            return f"{self.original.__name__}.forward was replaced"
        names = _names(module)
        if isinstance(names, str):
            return names
        if self.names is None:
            self.names = names
            self._files = tuple(vars(sys.modules[file]) for _, file in names.switches)
        if names != self.names:
            return "it has other attributes than others of its class"
        settings = self.settings(module)
        if settings is None:
            return "its settings cannot be compared"
        if settings not in self.adoptions:
            self.adoptions[settings] = "it is being tried"  # by a call of a copy
            try:
                self.adoptions[settings] = self._try(module)
            except BaseException:
                del self.adoptions[settings]
                raise
        return self.adoptions[settings]

    def _try(self, module: nn.Module) -> Adoption | str:
        others = {its for its in self.adoptions.values() if isinstance(its, Adoption)}
        found = prove(as_written(module), others)
        if isinstance(found, Adoption):
            recipes = [its.recipe for its in (*others, found)]
            self._least = (
                min(least(recipe, True) for recipe in recipes),
                min(least(recipe, False) for recipe in recipes),
            )
        return found

    def run(self, module: nn.Module, x: Tensor) -> Tensor | None:
        """The output of ``module`` for ``x`` by the kernels; None if it is its own code's to do."""
        if _is_compiling():  # first, and a constant there
            return None
        if type(x) not in PLAIN or x.numel() < self._least[not torch.is_grad_enabled()]:
            return None
        if not serves(x) or (_function_modes() and _are_seen()):
            return None
        if self.original.forward is not self._forward:  # replaced for all modules of the class
            return None
        settings = self.settings(module)
        if settings is None and self.names is not None:
            return None
        adoption = self.adoptions.get(settings)
        if adoption is None:  # it was unpickled in another process, or changed
            tried = _TRIED.get(module, 0)
            if tried >= _MOST:
                return None
            _TRIED[module] = tried + 1
            adoption = self.proved(module)
        if isinstance(adoption, str) or not worthwhile(adoption.recipe, x):
            return None
        if covered_by(adoption.recipe, x, module) not in adoption.covered:
            return None
        call = adoption.recipe.call(module, x)
        if call is None:
            return None
        return adoption.recipe.run(call, x)

    def _make(self) -> type[nn.Module]:
        base, run = self.original, self.run

        def forward(self, *args, **kwargs):  # type: ignore[no-untyped-def]
            if args and not args[1:] and not kwargs:
                y = run(self, args[0])
                if y is not None:
                    return y
            return base.forward(self, *args, **kwargs)

        def __reduce_ex__(self: nn.Module, protocol: int) -> Any:
            reduced = base.__reduce_ex__(self, protocol)
            return (_again, (base,), *reduced[2:])

        # `torch.jit.script` compiles the source of what is wrapped, with the globals of what it is
        # given: those of the file where the class was written.
        own = FunctionType(
            forward.__code__,
            getattr(base.forward, "__globals__", globals()),
            "forward",
            None,
            forward.__closure__,
        )
        functools.update_wrapper(own, base.forward)
        attributes = {
            "__doc__": base.__doc__,
            "__module__": __name__,  # it is ours: a person who looks for who made it finds it
            "__qualname__": base.__qualname__,
            "__reduce_ex__": __reduce_ex__,
            "forward": own,
            ADOPTED: self,
        }
        return type(base.__name__, (base,), attributes)


_MOST = 4
"""How often a module is tried during its calls: if its settings always change, its own code is
faster."""

_TRIED: WeakKeyDictionary[nn.Module, int] = WeakKeyDictionary()

_KNOWN: dict[type[nn.Module], Adopted] = {}


def adopted(cls: type) -> Adopted | None:
    """What is known of ``cls`` if its modules are adopted, else None."""
    found: Adopted | None = getattr(cls, ADOPTED, None)
    return found


def adopted_class(original: type[nn.Module]) -> Adopted:
    """The `Adopted` of a class, made where there is none."""
    found = _KNOWN.get(original)
    if found is None or original.forward is not found._forward:
        found = _KNOWN[original] = Adopted(original)
    return found


def _names(module: nn.Module) -> Names | str:
    """The names of the settings of ``module``, but for what is read at each call."""
    return collect(
        as_written(module), frozenset({"momentum"} if "batch" in lineage(module) else ())
    )


def _again(original: type[nn.Module]) -> nn.Module:
    """An adopted module that is copied or unpickled, before it has its attributes.

    In another process nothing is proved yet: the first call that is worth it proves it.
    """
    cls = adopted_class(original).cls
    return cls.__new__(cls)
