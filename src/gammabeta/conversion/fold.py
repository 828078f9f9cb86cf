"""Fold batch norms into the layers around them, for inference."""

from __future__ import annotations

import logging
import warnings
from typing import Any, TypeVar

from torch import nn

from gammabeta.conversion.folding.apply import apply_plan
from gammabeta.conversion.folding.model_copy import copy_model
from gammabeta.conversion.folding.plan import plan_folds
from gammabeta.conversion.folding.proof import Reference
from gammabeta.conversion.folding.report import Folding, FoldReport
from gammabeta.statistics.arguments import check_bool, check_callable, check_module

_Module = TypeVar("_Module", bound=nn.Module)
_log = logging.getLogger(__name__)


def fold(
    model: _Module,
    example: Any = None,
    *,
    inplace: bool = False,
    tolerance: float | None = None,
    report: FoldReport | None = None,
) -> _Module:
    """Fold the batch norms of ``model`` into the layers around them, for inference.

    In evaluation a batch norm multiplies each channel by a constant and adds one:
    ``y = s · x + t`` with ``s = γ / √(σ² + ε)`` and ``t = β − μ s``. A convolution, transposed
    convolution or linear layer next to it can do this with other weights, for free:

    - the layer **before** it, with weight ``s · W`` and bias ``s · b + t``;
    - the layer **after** it, with weight ``W · s`` and bias ``b + W t``, unless the layer pads
      with zeros (or is transposed) and ``t`` is not 0;
    - another batch norm after it.

    The norm becomes an ``nn.Identity``; one of gammabeta's with ``activation=`` becomes the
    activation's module, or, if it is called with a residual, a module that adds and activates.
    Torch's batch norms are folded, gammabeta's (frozen, ghost and renorm too), and
    `torch.nn.SyncBatchNorm`.

    A norm is folded only if the code of the model shows that nothing else sees the values that
    change. `torch.fx` traces a copy of the model without values; if that is not possible, of
    each of its modules for which it is. All other norms are left, and the report says why.

    Args:
        model: a model in evaluation mode.
        example: an input to prove the result on: a tensor, a tuple of arguments, or a dict of
            keyword arguments. Folded in float64, the model must have the same outputs as the
            original in float64, to float32's precision; in its own type, its outputs may be at
            most 4 times as far from them as the original's.
        inplace: whether to change ``model``; if not, a copy is changed. Modules and parameters
            remain the same objects then, so optimizers remain valid, except that they do not know
            a new bias.
        tolerance: the largest difference allowed on ``example``, relative to the largest absolute
            output of the original. None for the rule above.
        report: called with a `Folding` that lists every norm: ``report=print`` prints it,
            ``report=reports.append`` keeps it.

    Returns:
        The folded model. Its ``state_dict`` lacks the keys of the folded norms, and has a
        ``bias`` for each layer that had none and needs one.

    Raises:
        ValueError: ``model`` is in training mode; no norm could be folded, for a reason that you
            can do something about (a norm in training mode, hooks, parametrizations, ...); the
            outputs for ``example`` differ too much. Then ``model`` is unchanged.
        TypeError: an argument of a wrong type.

    Warns:
        UserWarning: norms are left, and no ``report`` was given.

    Numerics:
        New weights are computed in float64 and rounded once to the type of the layer's weight. A
        norm whose new weights that type cannot hold (float16) is left.

    Example:
        >>> import torch
        >>> model = nn.Sequential(nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8)).eval()
        >>> fold(model, example=torch.randn(1, 3, 8, 8))
        Sequential(
          (0): Conv2d(3, 8, kernel_size=(3, 3), stride=(1, 1))
          (1): Identity()
        )
        >>> _ = fold(model, report=print)
        1 norm folded, 0 left
        norm  was             is part of               leaves
        1     nn.BatchNorm2d  0 (nn.Conv2d, new bias)  nn.Identity
    """
    check_module(model)
    check_bool("inplace", inplace)
    check_callable("report", report, "a function that is called with the Folding")
    if tolerance is not None:
        if example is None:
            raise TypeError(f"tolerance={tolerance!r} applies to an example; give example= as well")
        if not isinstance(tolerance, (int, float)) or not tolerance >= 0:
            raise ValueError(f"tolerance={tolerance!r} must be a number, 0 or more")
    if model.training:
        raise ValueError(
            f"model={type(model).__name__} is in training mode, in which batch norms normalize by "
            "the batch; call model.eval() first"
        )
    plan = plan_folds(model, example)
    if plan.mendable and not plan.folded:
        raise ValueError(
            f"no norm of model={type(model).__name__} could be folded: "
            f"{Folding(left=plan.left).summary()}"
        )
    reference = None
    if example is not None:
        reference = Reference(
            model, example, lambda twin: apply_plan(plan, _counterpart(model, twin))
        )
    folded = model if inplace else copy_model(model)
    undo = apply_plan(plan, _counterpart(model, folded))
    folding = Folding(plan.folded, plan.left)
    try:
        if reference is not None:
            folding.proof = reference.compare(folded, tolerance)
            if not folding.proof.holds:
                raise ValueError(
                    f"the folded model's outputs for example are too far from the original's "
                    f"({folding.proof}); the model was not changed"
                )
        _tell(folding, plan.others, report)
    except BaseException:
        undo()
        raise
    return folded


def _counterpart(model: nn.Module, folded: nn.Module) -> Any:
    """What gives the module of ``folded`` that is where one of ``model`` is."""
    if folded is model:
        return lambda module: module
    names = {module: name for name, module in model.named_modules()}
    return lambda module: folded.get_submodule(names[module])


def _tell(folding: Folding, others: set[str], report: FoldReport | None) -> None:
    """Give the report to whom it is for; without one, warn of batch norms that were left."""
    if report is not None:
        report(folding)
        return
    _log.info("%s", folding)
    left = [one for one in folding.left if one.names[0] not in others or not folding.folded]
    if left:
        number = len(left) + len(folding.folded)
        warnings.warn(
            f"{len(left)} of {number} norms left as they are: {Folding(left=left).summary()} "
            "(report=print shows every one)",
            UserWarning,
            stacklevel=3,
        )
