"""Freeze batch norms: evaluation mode that ``model.train()`` does not undo."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, TypeVar

import torch
from torch import nn

from gammabeta.layers.traits import running
from gammabeta.statistics.arguments import check_bool, check_module
from gammabeta.statistics.contents import Contents
from gammabeta.statistics.undo import undo_all

_Module = TypeVar("_Module", bound=nn.Module)


class _Hold:
    """Stands in for a frozen layer's ``train`` method: notes the mode asked for, changes nothing.

    It is an attribute of the layer, found before the class's method wherever a model goes through
    its children. An instance of a class (no closure, no bound method), it is copied and pickled
    with its layer, to which it holds on by an ordinary reference.

    Attributes:
        layer: the frozen layer.
        mode: the mode the layer would be in, were it not frozen.
        requires_grad: for each parameter frozen, whether it required a gradient before.
        affine: whether γ and β are frozen.
        own: the attributes of the layer that the stand-ins replaced.
    """

    affine: bool = True  # in files saved before there was the choice

    def __init__(self, layer: nn.Module) -> None:
        self.layer = layer
        self.mode = layer.training
        self.requires_grad: dict[str, bool] = {}
        self.affine = False
        self.own = {name: layer.__dict__[name] for name in _HELD if name in layer.__dict__}

    def __call__(self, mode: bool = True) -> nn.Module:
        """What ``layer.train(mode)`` does while frozen."""
        if not isinstance(mode, bool):  # as torch's method
            raise ValueError("training mode is expected to be boolean")
        self.mode = mode
        return self.layer


class _NoReset:
    """Stands in for a frozen layer's ``reset_running_stats``: changes nothing."""

    def __call__(self) -> None:
        """What ``layer.reset_running_stats()`` does while frozen."""


class _NoResetParameters:
    """Stands in for a frozen layer's ``reset_parameters``: resets what is not frozen.

    Attributes:
        hold: what else is known of the frozen layer.
    """

    def __init__(self, hold: _Hold) -> None:
        self.hold = hold

    def __call__(self) -> None:
        """What ``layer.reset_parameters()`` does while frozen."""
        if self.hold.affine:
            return
        layer: Any = self.hold.layer
        statistics = [Contents(buffer) for buffer in layer.buffers(recurse=False)]
        own: Callable[[], object] | None = self.hold.own.get("reset_parameters")
        try:
            if own is None:
                type(layer).reset_parameters(layer)
            else:
                own()
        finally:
            undo_all(contents.restore for contents in statistics)


_HELD = ("train", "reset_running_stats", "reset_parameters")
_STAND_INS = (_Hold, _NoReset, _NoResetParameters)


def freeze(model: _Module, *, affine: bool = True) -> _Module:
    """Freeze every batch norm of ``model``: its statistics and its γ and β no longer change.

    A frozen layer is in evaluation mode, also after ``model.train()``: it normalizes by its
    running statistics, which no batch updates. ``reset_running_stats()`` has no effect on it, so
    that `torch.optim.swa_utils.update_bn` does not change it; nor has ``reset_parameters()``,
    except on γ and β where ``affine=False``. Its parameters require no gradient. Nothing else of
    the model changes, no value is touched, and `unfreeze` undoes it exactly.

    It works on torch's batch norms (``SyncBatchNorm`` too), gammabeta's, those inside
    `RecurrentBatchNormLSTM`, and subclasses of any. A frozen model can be copied, pickled, and
    frozen again; ``state_dict`` is as before.

    Args:
        model: any module; it may itself be a batch norm. It is changed in place.
        affine: whether γ and β are frozen with the statistics.

    Returns:
        ``model``.

    Raises:
        TypeError: ``model`` is not a module, or ``affine`` not a bool.
        ValueError: ``model`` has no batch norm; one without running statistics, which has nothing
            to normalize by in evaluation but the batch; or one that `torch.jit` has compiled,
            which is not supported. If an error is raised, no layer is frozen.

    Warns:
        UserWarning: layers of other kinds that keep running statistics (instance norms, norms
            written by hand) are left unchanged; the warning names them.

    Numerics:
        A gradient left on γ or β is dropped: an optimizer moves a parameter that has a gradient,
        whether or not it requires one. Not prevented: setting ``layer.training`` or
        ``requires_grad`` by hand, which another `freeze` mends; assigning another tensor to a
        buffer or writing into it; and replacing the layer, as
        ``SyncBatchNorm.convert_sync_batchnorm`` does.

    Source:
        Common practice where batches are too small for their statistics, as in detection and
        fine-tuning: He et al. 2016, arXiv:1512.03385, appendix A.

    Example:
        >>> model = freeze(nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU()))
        >>> model.train()[1].training, model[1].weight.requires_grad
        (False, False)
        >>> unfreeze(model)[1].training, model[1].weight.requires_grad
        (True, True)
    """
    check_module(model)
    check_bool("affine", affine)
    layers: dict[str, Any] = {}
    left: dict[str, str] = {}
    for name, module in model.named_modules():
        its = running(module)
        if its is None or its.of == "fixed":
            continue
        if its.of in ("batch", "timestep"):
            layers[name] = module
        elif its.of == "compiled":
            raise ValueError(
                f"layer {name!r} is a {its.name} compiled by torch.jit, which freeze() does "
                "not support; freeze the model before scripting or tracing it, or call freeze() "
                "on its other parts one by one"
            )
        else:
            left[name] = its.name
    others = ", ".join(f"{name!r} ({kind})" for name, kind in left.items())
    if not layers:
        raise ValueError(
            f"model={type(model).__name__} has no batch norm to freeze"
            + (f"; it has other layers with running statistics: {others}" if left else "")
        )
    for name, layer in layers.items():
        if layer.running_mean is None or layer.running_var is None:
            raise ValueError(
                f"layer {name!r} has no running statistics to freeze "
                "(track_running_stats=False); set track_running_stats=True and train it first"
            )
    undo: list[Callable[[], object]] = []
    try:
        for layer in layers.values():
            _freeze_layer(layer, affine, undo)
    except BaseException:
        undo_all(reversed(undo))
        raise
    if left:
        warnings.warn(
            "freeze() supports batch norms only; other layers with running statistics are left "
            f"unchanged: {others}",
            UserWarning,
            stacklevel=2,
        )
    return model


def _freeze_layer(layer: Any, affine: bool, undo: list[Callable[[], object]]) -> None:
    """Freeze one layer; what undoes it is appended to ``undo``, step by step."""
    hold = _hold(layer)
    if hold is None:
        hold = _Hold(layer)
        undo.append(partial(_release, layer, hold))
        # Past nn.Module.__setattr__, which is for parameters, buffers and modules.
        layer.__dict__["train"] = hold
        layer.__dict__["reset_running_stats"] = _NoReset()
        if hasattr(layer, "reset_parameters"):
            layer.__dict__["reset_parameters"] = _NoResetParameters(hold)
    if layer.training:  # also of a frozen layer, whose attribute was set since
        undo.append(partial(setattr, layer, "training", True))
        layer.training = False
    if affine:
        undo.append(partial(setattr, hold, "affine", hold.affine))
        hold.affine = True
        for name, parameter in layer.named_parameters():
            undo.append(partial(setattr, parameter, "grad", parameter.grad))
            undo.append(partial(_require, parameter, parameter.requires_grad))
            hold.requires_grad.setdefault(name, parameter.requires_grad)
            parameter.requires_grad_(False)
            parameter.grad = None


def _release(layer: nn.Module, hold: _Hold) -> None:
    """Take the stand-ins off, and put back what they replaced and the mode last asked for."""
    own = getattr(hold, "own", {})  # missing in files saved by older versions
    for name in _HELD:
        if isinstance(layer.__dict__.get(name), _STAND_INS):
            del layer.__dict__[name]
            layer.__dict__.update({name: own[name]} if name in own else {})
    layer.training = hold.mode


def unfreeze(model: _Module) -> _Module:
    """Undo `freeze`: each layer gets its mode and its parameters' ``requires_grad`` back.

    Args:
        model: as given to `freeze`, or any part or copy of it. Layers that are not frozen are
            left alone.

    Returns:
        ``model``. A layer is in the mode that ``model.train()`` or ``model.eval()`` last asked
        of it, as if it had never been frozen.

    Raises:
        TypeError: ``model`` is not a module.

    Example:
        >>> model = freeze(nn.Sequential(nn.BatchNorm1d(8)).train())
        >>> unfreeze(model.eval())[0].training
        False
    """
    check_module(model)
    undo_all(_unfreezing(model))
    return model


def _unfreezing(model: nn.Module) -> Iterator[Callable[[], object]]:
    """Return the steps that undo `freeze`."""
    before: dict[nn.Parameter, bool] = {}
    for layer in model.modules():
        hold = _hold(layer)
        if hold is None:
            continue
        yield partial(_release, layer, hold)
        for name, parameter in layer.named_parameters():
            if name in hold.requires_grad:
                # Of layers that share a parameter, only the first frozen saw it as it was.
                before[parameter] = before.get(parameter, False) or hold.requires_grad[name]
    for parameter, requires_grad in before.items():
        if parameter.requires_grad != requires_grad:
            yield partial(_require, parameter, requires_grad)


def _require(parameter: nn.Parameter, requires_grad: bool) -> None:
    """Set ``requires_grad``, also of a parameter made under `torch.inference_mode`."""
    with torch.inference_mode(parameter.is_inference()):
        parameter.requires_grad_(requires_grad)


def is_frozen(layer: nn.Module) -> bool:
    """Return whether ``layer`` is frozen."""
    return _hold(layer) is not None


def _hold(layer: nn.Module) -> _Hold | None:
    hold = layer.__dict__.get("train")
    return hold if isinstance(hold, _Hold) else None
