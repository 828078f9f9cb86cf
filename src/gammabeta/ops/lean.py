"""Outputs that autograd does not keep, because they can be made again: ``memory="lean"``.

A layer's output is kept by whatever comes next, for its backward pass: a convolution keeps its
input. Where the layer keeps its own input, and the output is cheap to compute from it, one of the
two is too many. So the layer gives its output as a `LeanOutput`: an operation on it runs as on any
tensor, but under saved-tensor hooks that put a `_Promise` in the place of the output. When the
backward pass asks for it, the same kernel makes it again from the same numbers, and the same bits
come out.

A tensor's class is the only way to see the next operation, which runs when the layer has returned.
Results of operations are plain tensors, but for views of the output: so this goes no further than
the operations that get the output itself. Wherever the memory may have been changed behind the
recipe's back, or somebody else has hooks, the output is kept as by default.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, TypeVar, cast

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

_Function = TypeVar("_Function", bound=Callable[..., Any])
_Make = Callable[..., Tensor]
_Packed = Any  # a _Promise, or (tensor, its version)

_apart = torch._C.DisableTorchFunctionSubclass
_seen = torch._C._is_torch_function_enabled
_hooks_allowed = torch._C._autograd._saved_tensors_hooks_is_enabled  # type: ignore[attr-defined]
_free_weak_ref = torch.UntypedStorage._free_weak_ref
_hooks = torch._C._autograd._top_saved_tensors_default_hooks

# These hand out the memory to be changed where autograd's version counter does not see it.
_ALIASES = {"detach", "untyped_storage", "storage", "_typed_storage", "data_ptr"}
_ALIASES |= {"numpy", "__array__", "__dlpack__"}
_DATA = Tensor.data
# These save nothing of the output; the last two run a backward pass, which is not to see our hooks.
_APART = frozenset(("dim", "size", "stride", "numel", "is_contiguous", "backward", "grad"))
_PLAIN_TUPLES = frozenset((tuple, list))


class _Memory:
    """A storage, known again without being kept.

    By a weak reference, not by its address: memory that is freed has its address given to another
    tensor, while a storage's identity is not used again as long as somebody refers to it.
    """

    __slots__ = ("_reference",)

    def __init__(self, t: Tensor) -> None:
        self._reference: Any = t.untyped_storage()._weak_ref()

    def is_of(self, t: Tensor) -> bool:
        return bool(t.untyped_storage()._cdata == self._reference)

    def __del__(self, free: Callable[[int], None] = _free_weak_ref) -> None:
        free(self._reference)


class Recipe:
    """How to make one output again, and which memory is that output.

    Attributes:
        shared: whether the memory may be changed unseen; then the output is kept.
    """

    __slots__ = (
        "_dtype",
        "_inputs",
        "_kept",
        "_make",
        "_memory",
        "_version",
        "_waiting",
        "shared",
    )

    def __init__(self, y: Tensor, make: _Make, inputs: Sequence[_Packed]) -> None:
        self._make, self._inputs = make, inputs
        self._memory = _Memory(y)
        self._dtype, self._version = y.dtype, y._version
        self._waiting = 0
        self._kept: Tensor | None = None
        self.shared = False

    def is_of(self, t: Tensor) -> bool:
        """Whether ``t`` is the output or a view of it, and as it was made."""
        return (
            not self.shared
            and t.layout is torch.strided
            and t.is_cpu
            and t.dtype is self._dtype
            and t._version == self._version
            and self._memory.is_of(t)
        )

    def output(self, more_to_come: bool) -> Tensor:
        """Make the output again, or return it where it was made for another promise."""
        y = self._kept
        if y is None:
            y = self._make(*(None if i is None else _unpack(i) for i in self._inputs))
        self._kept = y if more_to_come else None
        return y


class _Promise:
    """What is saved in place of an output or of a view of it."""

    __slots__ = ("_offset", "_open", "_recipe", "_size", "_stride")

    def __init__(self, recipe: Recipe, t: Tensor) -> None:
        self._recipe = recipe
        self._size, self._stride, self._offset = t.size(), t.stride(), t.storage_offset()
        self._open = True
        recipe._waiting += 1

    def keep(self) -> Tensor:
        recipe = self._recipe
        self._close()
        # Several operations may have got the output: it is made once for all. It lives until the
        # last of them has asked, or is gone.
        y = recipe.output(more_to_come=recipe._waiting > 0)
        if y.size() == self._size and y.stride() == self._stride and not self._offset:
            return y
        return y.as_strided(self._size, self._stride, self._offset)

    def _close(self) -> None:
        if self._open:
            self._open = False
            self._recipe._waiting -= 1

    def __del__(self) -> None:
        self._close()
        if not self._recipe._waiting:
            self._recipe._kept = None


def _unpack(packed: _Packed) -> Tensor:
    if type(packed) is _Promise:
        return packed.keep()
    t, version = packed
    if t._version != version:  # autograd does not look where there are hooks
        raise RuntimeError(
            "one of the variables needed for gradient computation has been modified by an inplace "
            f"operation: [{t.dtype} {list(t.shape)}] is at version {t._version}; expected version "
            f"{version} instead"
        )
    kept: Tensor = t
    return kept


def _packing(recipes: Sequence[Recipe]) -> Callable[[Tensor], _Packed]:
    def pack(t: Tensor) -> _Packed:
        for recipe in recipes:
            if recipe.is_of(t):
                return _Promise(recipe, t)
        return t.detach(), t._version

    return pack


def may_be_lean() -> bool:
    """Whether an output may be a `LeanOutput` here: nobody else decides what is saved."""
    if not _hooks_allowed():
        return False
    hooks = _hooks(False)
    return hooks is None or hooks[1] is _unpack


def as_lean(y: Tensor, make: _Make, inputs: Sequence[Tensor | None]) -> Tensor:
    """Return ``y``, as a `LeanOutput` whose consumers keep no copy.

    Args:
        y: a fresh output that has a graph.
        make: computes y's values again, in y's strides.
        inputs: what ``make`` is called with; kept, unless they are lean outputs themselves.
    """
    with _apart():
        pack = _packing([t._recipe for t in inputs if isinstance(t, LeanOutput)])
        return _recast(y, Recipe(y, make, [None if t is None else pack(t) for t in inputs]))


def is_open(t: Tensor | None) -> bool:
    """Whether ``t`` is a lean output, and what is done with it does not go through `run` yet."""
    return type(t) is LeanOutput and _seen()


def run(function: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
    """Call ``function``; what it saves of the lean outputs among its arguments is made again."""
    with _apart():
        if torch.is_grad_enabled() and may_be_lean():
            recipes: list[Recipe] = []
            _find(args, recipes)
            if kwargs:
                _find(kwargs.values(), recipes)
            with saved_tensors_hooks(_packing(recipes), _unpack):
                result = function(*args, **kwargs)
            if type(result) is Tensor:
                return _view(result, recipes)
            if type(result) in _PLAIN_TUPLES:
                for t in result:
                    if type(t) is Tensor:
                        _view(t, recipes)
            return result
        return function(*args, **kwargs)


def aware(function: _Function) -> _Function:
    """Have `run` call ``function`` where its input or residual is a lean output."""

    @functools.wraps(function)
    def wrapped(x: Tensor, *args: Any, **kwargs: Any) -> Any:
        if is_open(x) or is_open(kwargs.get("residual")):
            return run(function, (x, *args), kwargs)
        return function(x, *args, **kwargs)

    return cast(_Function, wrapped)


class LeanOutput(Tensor):
    """A layer's output that autograd does not keep. To everybody else it is a tensor."""

    _recipe: Recipe

    @classmethod
    def __torch_function__(
        cls,
        func: Any,
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        if name == "__get__":  # of a property
            with _apart():
                if func.__self__ is _DATA:
                    args[0]._recipe.shared = True
                return func(*args, **kwargs)
        if name in _APART or torch.compiler.is_compiling():
            with _apart():
                return func(*args, **kwargs)
        if any(t is not LeanOutput for t in types):
            # To the other classes, which are asked next, ours is no more than a tensor.
            return func(*_plain(args), **{k: _plain((v,))[0] for k, v in kwargs.items()})
        if name in _ALIASES:
            args[0]._recipe.shared = True
        return run(func, args, kwargs)

    def __repr__(self, **kwargs: Any) -> str:  # type: ignore[override]
        """As a tensor's."""
        # For the moment: a tensor made of it would have another grad_fn.
        self.__class__ = Tensor  # type: ignore[assignment]
        try:
            return str(Tensor.__repr__(self, **kwargs))  # type: ignore[no-untyped-call]
        finally:
            self.__class__ = LeanOutput

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Pickled, it is a tensor."""
        return plain(self).__reduce_ex__(protocol)  # type: ignore[no-untyped-call]

    def __deepcopy__(self, memo: Any) -> Any:
        """As a tensor's: autograd lets no output be copied so."""
        return plain(self).__deepcopy__(memo)  # type: ignore[no-untyped-call]


def plain(y: Tensor) -> Tensor:
    """Return ``y``, a lean output, as a tensor that is kept as any other."""
    with _apart():
        return y.as_subclass(Tensor)


def _recast(y: Tensor, recipe: Recipe) -> Tensor:
    # Not `as_subclass`, which would put an alias into the graph.
    y.__class__ = LeanOutput
    y._recipe = recipe  # type: ignore[attr-defined]
    return y


def _view(t: Tensor, recipes: Sequence[Recipe]) -> Tensor:
    """Make a view of a lean output one too: ``y.flatten(1)`` is what a linear layer gets."""
    if t._is_view() and t.requires_grad:
        for recipe in recipes:
            if recipe.is_of(t):
                return _recast(t, recipe)
    return t


def _find(values: Any, recipes: list[Recipe]) -> None:
    for value in values:
        if type(value) is LeanOutput:
            recipes.append(value._recipe)
        elif type(value) in _PLAIN_TUPLES:
            _find(value, recipes)


def _plain(values: Sequence[Any]) -> list[Any]:
    return [
        plain(v) if type(v) is LeanOutput else type(v)(_plain(v)) if type(v) in _PLAIN_TUPLES else v
        for v in values
    ]
