"""Where a training enters a model: mostly through the model itself, sometimes through its parts.

A container of a generator and a discriminator is never called, a wrapper may be passed by, and some
scripts call ``model.forward``. If calls of the model do not explain what its batch norms see, its
parts get hooks too, one level of modules after the other.
"""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from gammabeta.signal.attending import is_traced

if TYPE_CHECKING:
    from gammabeta.doctor.training.clinic import Clinic

_LEVELS = 4
"""How deep hooks go."""
_MOST = 64
"""Most modules that get hooks."""


class Entries:
    """The modules whose calls are noted; hooks of the model itself are the watch's.

    Args:
        model: the watched model.
        clinic: is told of the calls; it is not kept alive.

    Attributes:
        modules: path → module; the model itself is ``""``.
    """

    def __init__(self, model: nn.Module, clinic: Clinic) -> None:
        self.modules: dict[str, nn.Module] = {"": model}
        self._model = model
        self._clinic = weakref.ref(clinic)
        self._handles: list[RemovableHandle] = []
        self._level = 0
        if type(model).forward is nn.Module.forward or _wraps(model):
            self.deeper()

    def deeper(self) -> list[str]:
        """Put hooks on the modules of the next level; return their paths."""
        if self._level >= _LEVELS or not isinstance(self._model, nn.Module):
            return []
        self._level += 1
        added = []
        for path, module in self._model.named_modules():
            if not path or path.count(".") != self._level - 1 or len(self.modules) >= _MOST:
                continue
            if not may_have_hooks(module) or next(module.parameters(), None) is None:
                continue
            self._handles += [
                module.register_forward_pre_hook(
                    _Entry(self._clinic, path, False), with_kwargs=True
                ),
                module.register_forward_hook(
                    _Entry(self._clinic, path, True), with_kwargs=True, always_call=True
                ),
            ]
            self.modules[path] = module
            added.append(path)
        return added

    def remove(self) -> None:
        """Remove all hooks."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()


class _Entry:
    """A hook on a part of a model. In a copy of the model it does nothing."""

    def __init__(
        self,
        clinic: weakref.ref[Clinic] | None = None,
        path: str = "",
        ends: bool = False,
    ) -> None:
        self._clinic, self._path, self._ends = clinic, path, ends
        self.__name__ = "watch"  # torch.jit asks for it

    def __call__(self, module: nn.Module, args: Any, kwargs: Any, output: Any = None) -> None:
        if self._clinic is None or is_traced():
            return
        clinic = self._clinic()
        if clinic is None:
            return
        if self._ends:
            clinic.after(module, args, kwargs, output, output is None, self._path)
        else:
            clinic.before(module, args, kwargs, self._path)

    def __reduce__(self) -> tuple[Any, ...]:
        return _Entry, ()


def _wraps(model: nn.Module) -> bool:
    """Whether it is a wrapper for distributed training, which scripts pass by."""
    return isinstance(model, nn.parallel.DistributedDataParallel)


def may_have_hooks(module: nn.Module) -> bool:
    """Whether hooks change nothing but what they note."""
    if isinstance(module, torch.jit.ScriptModule) or "_orig_mod" in module._modules:
        return False
    return vars(module).get("_compiled_call_impl") is None
