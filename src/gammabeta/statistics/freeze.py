"""Freeze batch norms: evaluation mode that ``model.train()`` does not undo."""

from __future__ import annotations

from typing import TypeVar

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from gammabeta.layers.timestep import TimestepBatchNorm

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
    """

    def __init__(self, layer: nn.Module) -> None:
        self.layer = layer
        self.mode = layer.training
        self.requires_grad: dict[str, bool] = {}

    def __call__(self, mode: bool = True) -> nn.Module:
        """What ``layer.train(mode)`` does while frozen."""
        if not isinstance(mode, bool):  # as torch's method
            raise ValueError("training mode is expected to be boolean")
        self.mode = mode
        return self.layer


def freeze(model: _Module, *, affine: bool = True) -> _Module:
    """Freeze every batch norm of ``model``: its statistics and its γ and β stay as they are.

    A frozen layer is in evaluation mode, also after ``model.train()``: it normalizes by its
    running statistics, which no batch changes. Its parameters require no gradient. Nothing else
    of the model changes, no value is touched, and `unfreeze` undoes it exactly.

    It works on torch's batch norms (``SyncBatchNorm`` too), gammabeta's, those inside
    `RecurrentBatchNormLSTM`, and subclasses of any. A frozen model can be copied, pickled, and
    frozen again; ``state_dict`` is as before.

    Args:
        model: any module; it may itself be a batch norm. It is changed in place.
        affine: whether γ and β are frozen with the statistics.

    Returns:
        ``model``.

    Raises:
        ValueError: ``model`` has no batch norm, or one without running statistics, which has
            nothing to normalize by in evaluation but the batch. Then no layer was frozen.

    Numerics:
        A gradient left on γ or β is dropped: an optimizer moves a parameter that has a gradient,
        whether or not it requires one. Setting ``layer.training`` or ``requires_grad`` by hand
        is not held off.

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
    layers = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, (_BatchNorm, TimestepBatchNorm))
    }
    if not layers:
        raise ValueError(f"model={type(model).__name__} has no batch norm to freeze")
    for name, layer in layers.items():
        if layer.running_mean is None or layer.running_var is None:
            raise ValueError(
                f"layer {name!r} keeps no running statistics (track_running_stats=False), so it "
                "has nothing to be frozen to; it needs track_running_stats=True and training"
            )
    for layer in layers.values():
        hold = _hold(layer)
        if hold is None:
            hold = _Hold(layer)
            # Past nn.Module.__setattr__, which is for parameters, buffers and modules.
            layer.__dict__["train"] = hold
            layer.training = False
        if affine:
            for name, parameter in layer.named_parameters():
                hold.requires_grad.setdefault(name, parameter.requires_grad)
                parameter.requires_grad_(False)
                parameter.grad = None
    return model


def unfreeze(model: _Module) -> _Module:
    """Undo `freeze`: each layer gets its mode and its parameters' ``requires_grad`` back.

    Args:
        model: as given to `freeze`, or any part or copy of it. Layers that are not frozen are
            left alone.

    Returns:
        ``model``. A layer is in the mode that ``model.train()`` or ``model.eval()`` last asked
        of it, as if it had never been frozen.

    Example:
        >>> model = freeze(nn.Sequential(nn.BatchNorm1d(8)).train())
        >>> unfreeze(model.eval())[0].training
        False
    """
    before: dict[nn.Parameter, bool] = {}
    for layer in model.modules():
        hold = _hold(layer)
        if hold is None:
            continue
        del layer.__dict__["train"]
        layer.training = hold.mode
        for name, parameter in layer.named_parameters():
            if name in hold.requires_grad:
                # Of layers that share a parameter, only the first frozen saw it as it was.
                before[parameter] = before.get(parameter, False) or hold.requires_grad[name]
    for parameter, requires_grad in before.items():
        parameter.requires_grad_(requires_grad)
    return model


def is_frozen(layer: nn.Module) -> bool:
    """Whether `freeze` holds ``layer``."""
    return _hold(layer) is not None


def _hold(layer: nn.Module) -> _Hold | None:
    hold = layer.__dict__.get("train")
    return hold if isinstance(hold, _Hold) else None
