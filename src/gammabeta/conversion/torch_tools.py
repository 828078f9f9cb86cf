"""Functions of torch that take batch norms apart do right by gammabeta's, or fail aloud.

They look layers up by their exact class, or copy the attributes of torch's batch norm and with
them lose an ``activation``. So importing gammabeta puts a function of its own in front of each, in
the function object itself: it does not matter who imported its name before. For a model without
layers of gammabeta's each does what it did, and ``__wrapped__`` is the original.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from functools import partial
from types import FunctionType, ModuleType
from typing import Any

import torch.nn.utils.fusion
from torch import nn

from gammabeta.conversion.report import Conversion
from gammabeta.conversion.revert import revert
from gammabeta.conversion.when_imported import when_imported
from gammabeta.layers import BatchNorm1d, BatchNorm2d, BatchNorm3d
from gammabeta.layers.epilogue import Epilogue
from gammabeta.layers.synchronized import SyncBatchNormActivation
from gammabeta.layers.traits import lineage

_OURS = {nn.BatchNorm1d: BatchNorm1d, nn.BatchNorm2d: BatchNorm2d, nn.BatchNorm3d: BatchNorm3d}
_inside: ContextVar[bool] = ContextVar("converting to SyncBatchNorm", default=False)
_REDIRECTED: dict[str, tuple[Callable[..., Any], Callable[..., Any]]] = {}


def guard_torch_tools() -> None:
    """Guard them: those that are imported with torch now, the others when they are imported."""
    _redirect(torch.nn.utils.fusion, "fuse_conv_bn_eval", _fuse_eval)
    _redirect(torch.nn.utils.fusion, "fuse_linear_bn_eval", _fuse_eval)
    _redirect(nn.SyncBatchNorm, "convert_sync_batchnorm", _convert_sync_batchnorm)
    for home, name, to in (
        ("torch.fx.experimental.optimization", "fuse", _fuse),
        ("torch.utils.mkldnn", "to_mkldnn", _to_mkldnn),
    ):
        when_imported(home, partial(_redirect, name=name, to=to))
    when_imported("torch.ao.quantization.fuser_method_mappings", _extend_mapping)


def _redirect(home: Any, name: str, to: Callable[..., Any]) -> None:
    """Let the function ``name`` of ``home`` call ``to`` with the original function first; once."""
    if name in _REDIRECTED:
        return
    try:
        function = getattr(home, name)
        function = getattr(function, "__func__", function)
        original = _replace_code(function, name)
    except (AttributeError, ValueError) as error:  # of another version of torch
        _warn_unguarded(name, error)
        return
    function.__wrapped__ = original
    _REDIRECTED[name] = (original, to)


def _replace_code(function: Any, name: str) -> FunctionType:
    """Let ``function`` call `redirected`, and return what it was."""
    original = FunctionType(
        function.__code__, function.__globals__, name, function.__defaults__, function.__closure__
    )
    original.__kwdefaults__ = function.__kwdefaults__
    namespace: dict[str, Any] = {}
    source = f"""def {name}(*args, **kwargs):
    from gammabeta.conversion.torch_tools import redirected
    return redirected({name!r}, args, kwargs)
"""
    exec(compile(source, __file__, "exec"), namespace)  # a code object that needs no closure
    function.__code__ = namespace[name].__code__
    return original


def _warn_unguarded(name: str, error: Exception) -> None:
    warnings.warn(
        f"torch's {name} could not be guarded ({error}), so it may drop activation= of gammabeta's "
        "batch norms",
        UserWarning,
        stacklevel=3,
    )


def redirected(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Call what stands in front of torch's function ``name``."""
    original, to = _REDIRECTED[name]
    return to(original, *args, **kwargs)


def _named(layer: nn.Module) -> str:
    """A layer in a message."""
    name = getattr(layer, "qualified_name", None)
    return f"layer {name!r} ({type(layer).__name__})" if name else f"a {type(layer).__name__}"


def _norms_of_ours(model: nn.Module) -> Iterator[tuple[str, Any]]:
    """Yield gammabeta's batch norms in ``model``, and what derives from them, by name."""
    for name, module in model.named_modules():
        if isinstance(module, Epilogue) and {"batch", "frozen"} & {*lineage(module)}:
            yield name, module


def _activation(layer: nn.Module) -> str | None:
    """The activation of a layer of gammabeta's, or of what derives from one."""
    return layer.activation if isinstance(layer, Epilogue) else None


def _fuse_eval(original: Any, layer: Any, bn: Any, *args: Any, **kwargs: Any) -> Any:
    """`torch.nn.utils.fusion.fuse_conv_bn_eval` and ``fuse_linear_bn_eval``."""
    activation = _activation(bn)
    if activation is not None:
        raise ValueError(
            f"{original.__name__}: {_named(bn)} has activation={activation!r}, which a "
            f"{type(layer).__name__} cannot apply; use gammabeta.fold(model), which keeps it"
        )
    return original(layer, bn, *args, **kwargs)


def _convert_sync_batchnorm(
    original: Any, cls: Any, module: nn.Module, process_group: Any = None
) -> Any:
    """`torch.nn.SyncBatchNorm.convert_sync_batchnorm`, which calls itself for every child."""
    if not _inside.get():
        for name, norm in _norms_of_ours(module):
            if "batch" in lineage(norm) and lineage(norm)[0] != "batch":
                raise ValueError(
                    f"convert_sync_batchnorm: layer {name!r} is a {type(norm).__name__}, which has "
                    "no synchronized form; gammabeta.convert(model, to='batch', of=...) it, or "
                    "convert the other parts one by one"
                )
    token = _inside.set(True)
    try:
        made = original(cls, module, process_group)
    finally:
        _inside.reset(token)
    activation = _activation(module)
    if made is not module and activation is not None:
        made.__class__ = SyncBatchNormActivation
        made.activation = activation
    return made


def _fuse(original: Any, model: nn.Module, inplace: bool = False, no_trace: bool = False) -> Any:
    """`torch.fx.experimental.optimization.fuse`, which knows torch's classes only."""
    if not any(True for _ in _norms_of_ours(model)):
        return original(model, inplace, no_trace)
    model = model if inplace else copy.deepcopy(model)
    revert(model, fused="split", report=_ignore)
    left = [name for name, _ in _norms_of_ours(model)]
    if left:
        warnings.warn(
            f"torch.fx's fuse leaves {len(left)} layers of gammabeta's as they are, such as "
            f"{left[0]!r}, because torch.nn has none like them; gammabeta.fold(model) folds them",
            UserWarning,
            stacklevel=3,
        )
    return original(model, True, no_trace)


def _to_mkldnn(original: Any, module: nn.Module, *args: Any, **kwargs: Any) -> Any:
    """`torch.utils.mkldnn.to_mkldnn`, which changes ``module`` in place."""
    ours = dict(_norms_of_ours(module))
    for name, norm in ours.items():
        known = type(norm) in _OURS.values()
        if not known and (_activation(norm) is not None or "frozen" in lineage(norm)):
            raise ValueError(
                f"to_mkldnn: layer {name!r} is a {type(norm).__name__}, which has no form in "
                "MKLDNN; gammabeta.fold(model) first"
            )
    if ours:
        revert(module, fused="split", report=_ignore)
    return original(module, *args, **kwargs)


def _ignore(_: Conversion) -> None:
    """A report that nobody reads."""


def _extend_mapping(mappings: ModuleType) -> None:
    """`torch.ao.quantization.fuse_modules` looks up how to fuse by the layers' classes."""
    table: dict[Any, Any] = getattr(mappings, "_DEFAULT_OP_LIST_TO_FUSER_METHOD", {})
    for kinds, method in list(table.items()):
        if any(kind in _OURS for kind in kinds):
            ours = tuple(_OURS.get(kind, kind) for kind in kinds)
            table.setdefault(ours, _fuser(table, method, kinds))


def _fuser(table: dict[Any, Any], method: Any, kinds: tuple[Any, ...]) -> Callable[..., Any]:
    """The way to fuse ``kinds`` where one is gammabeta's."""

    def fuse(is_qat: bool, *layers: Any) -> Any:
        its, plain = method, []
        relu: list[nn.Module] = []
        for layer in layers:
            if type(layer) not in _OURS.values():
                plain.append(layer)
                continue
            # A second object with the same parameters: fusing may fail yet.
            theirs = copy.copy(layer)
            theirs.activation = None
            plain.append(revert(theirs, report=_ignore))
            if layer.activation is None or (layer.activation == "relu" and nn.ReLU in kinds):
                continue  # the ReLU after it does the same
            its = table.get((*kinds, nn.ReLU))
            if layer.activation != "relu" or its is None:
                raise ValueError(
                    f"fuse_modules: {_named(layer)} has activation={layer.activation!r}, which "
                    "cannot be fused; gammabeta.revert(model, fused='split') makes it a module of "
                    "its own"
                )
            relu = [nn.ReLU().train(layer.training)]
        return its(is_qat, *plain, *relu)

    return fuse
