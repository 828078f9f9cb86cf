"""The norms as operators of `torch.library`: one node in whatever records a graph.

``gammabeta::normalize`` and ``gammabeta::normalize_backward`` have a kernel for the CPU, one in
torch's operators for every other device, one for fake and meta tensors, and a derivative. They are
the norms that take their statistics from x; by fixed statistics a norm is elementwise, and every
compiler fuses that better.

Eager calls go past them: the dispatcher costs as much as a small norm. Compiled graphs go past them
too unless `in_compiled_graphs` asks for them: inductor fuses its own decomposition with what stands
around it, and lays tensors out as its convolutions like. Whole networks were slower with ours
(`scripts/measure_compiled.py`), though a convolution with batch norm and ReLU alone is faster.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from gammabeta.names import known
from gammabeta.ops import cpu
from gammabeta.ops.cpu.autograd import Plan, backward_pass, forward_pass
from gammabeta.ops.cpu.support import is_channels_last, takes_gradient
from gammabeta.ops.spec import BATCH, GROUP, INSTANCE, KINDS, LAYER, RMS, Call, Statistics
from gammabeta.ops.torch import phases

_LIBRARY = torch.library.Library("gammabeta", "FRAGMENT")  # type: ignore[no-untyped-call]
_CALL = "str kind, SymInt[] sizes, float eps, str? activation, float slope=0.01"
_LIBRARY.define(  # type: ignore[no-untyped-call]
    f"normalize(Tensor x, Tensor? weight, Tensor? bias, Tensor? residual, {_CALL})"
    " -> (Tensor, Tensor)"
)
_LIBRARY.define(  # type: ignore[no-untyped-call]
    "normalize_backward(Tensor g, Tensor x, Tensor? weight, Tensor? bias, Tensor? residual, "
    f"Tensor? y, Tensor statistics, {_CALL}) -> (Tensor, Tensor, Tensor, Tensor)"
)


def normalize(call: Call) -> tuple[Tensor, Tensor]:
    """Return the output and the statistics of ``call`` by the registered operator.

    Returns:
        The output; and the statistics. Of batch norm (2, C) float64: means, then 1/σ. Of the others
        (number of μ, 3), in float32 or wider: shift, 1/σ and offset of
        x̂ = (x − shift) / σ + offset.
    """
    sizes = {LAYER: call.normalized_shape, RMS: call.normalized_shape, GROUP: [call.num_groups]}
    found: tuple[Tensor, Tensor] = torch.ops.gammabeta.normalize(
        call.x,
        call.weight,
        call.bias,
        call.residual,
        call.kind,
        list(sizes.get(call.kind, ())),
        _eps(call),
        call.activation,
        call.slope,
    )
    return found


_compiled: frozenset[str] = frozenset()


def in_compiled_graphs(*kinds: str) -> None:
    """Choose which norms are operators of ours in graphs that `torch.compile` makes from now on.

    Args:
        kinds: of `gammabeta.ops.spec.KINDS`; none, the default, leaves all norms to inductor. It
            is about training on the CPU, and concerns no other graph.

    Raises:
        ValueError: unknown kind.

    Example:
        >>> in_compiled_graphs("batch")
        >>> in_compiled_graphs()
    """
    global _compiled
    _compiled = frozenset(known("kinds", kind, KINDS) for kind in kinds)


def forward(call: Call) -> Tensor | None:
    """Return the output of a call in a graph that is compiled, or None if it is not for us."""
    if (
        call.kind not in _compiled
        or not torch.compiler.is_compiling()
        or torch.compiler.is_exporting()
        or not call.training
        or not call.x.is_cpu
        or isinstance(call.slope, Tensor)
    ):
        return None
    y, statistics = normalize(call)
    running_mean, running_var, momentum = call.running_mean, call.running_var, call.momentum
    if running_mean is not None and running_var is not None and momentum:
        with torch.no_grad():
            m = call.x.numel() // call.x.shape[1]
            var = (statistics[1] ** -2 - call.eps) * (m / (m - 1))
            running_mean.lerp_(statistics[0].to(running_mean.dtype), momentum)
            running_var.lerp_(var.to(running_var.dtype), momentum)
    return y


def _eps(call: Call) -> float:
    exact = torch.promote_types(call.x.dtype, torch.float32)
    return float(torch.finfo(exact).eps if call.eps is None else call.eps)


def _call(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    residual: Tensor | None,
    kind: str,
    sizes: Sequence[int],
    eps: float,
    activation: str | None,
    slope: float = 0.01,
) -> Call:
    call = Call(kind, x, weight, bias, eps, activation, residual, slope=slope)
    if kind == GROUP:
        call.num_groups = sizes[0]
    else:
        call.normalized_shape = list(sizes)
    return call


def _shape(call: Call) -> tuple[tuple[int, ...], torch.dtype]:
    """The shape and type of the statistics."""
    x = call.x
    if call.kind == BATCH:
        return (2, x.shape[1]), torch.float64
    exact = torch.promote_types(x.dtype, torch.float32)
    if call.kind == INSTANCE:
        return (x.shape[0] * x.shape[1], 3), exact
    if call.kind == GROUP:
        return (x.shape[0] * call.num_groups, 3), exact
    return (math.prod(x.shape[: x.dim() - len(call.normalized_shape)]), 3), exact


def _forward(*arguments: Any) -> tuple[Tensor, Tensor]:
    call = _call(*arguments)
    shape, dtype = _shape(call)
    plan = _plan(call)
    if plan is not None:
        y, packed, _ = forward_pass(call.x, call.weight, call.bias, call.residual, None, plan)
        return y, packed.view(shape)
    found = phases.statistics(call)
    mean, inverse = found.mean.to(dtype), (found.var.to(dtype) + call.eps).rsqrt()
    numbers = [mean.flatten(), inverse.flatten()]
    if call.kind != BATCH:
        numbers.append(torch.zeros_like(numbers[0]))
    packed = torch.stack(numbers, dim=0 if call.kind == BATCH else 1)
    y = torch.empty_like(_fake_output(call)).copy_(phases.apply(call, found))
    return y, packed


def _plan(call: Call) -> Plan | None:
    """How the kernels run ``call`` by the statistics of its x; None if they do not support it."""
    plan = cpu.plan(call)
    if plan is not None:
        plan.native.average(True, 0.0, 0, 0, 0, 0, False)
    return plan


def _backward(
    g: Tensor,
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    residual: Tensor | None,
    y: Tensor | None,
    statistics: Tensor,
    *rest: Any,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    call = _call(x, weight, bias, residual, *rest)
    if y is not None:  # the output of a ReLU or ReLU6 says what it let through
        passed = y > 0 if call.activation == "relu" else (y > 0) & (y < 6)
        g = torch.where(passed, g, 0)
        call.activation = None
    plan = _plan(call) if takes_gradient(g) else None
    if plan is not None:
        kept = residual if call.activation is not None else None
        needs = (True, True, True, residual is not None, False)
        arguments = (g, x, weight, bias, kept, None, statistics, None, plan, needs)
        gx, gweight, gbias, gresidual, _ = backward_pass(*arguments)
    else:
        gx, gweight, gbias, gresidual = phases.backward(call, _unpacked(call, statistics), g)
    if gresidual is g or (gresidual is not None and gresidual is gx):
        gresidual = gresidual.clone()  # an operator returns what is its own
    own = [x.new_empty(0) if t is None else t for t in (gx, gweight, gbias, gresidual)]
    return own[0], own[1], own[2], own[3]


def _unpacked(call: Call, packed: Tensor) -> Statistics:
    if call.kind == BATCH:
        mean, inverse = packed
    else:
        shift, inverse, offset = packed.unbind(1)
        mean = shift - offset / inverse
    shape, number = phases.statistics_shape(call)
    return Statistics(mean.view(shape), inverse.view(shape) ** -2 - call.eps, number)


def _fake_output(call: Call) -> Tensor:
    """An output without values. Row norms make it contiguous, the others keep a dense layout."""
    x = call.x
    if call.kind in (LAYER, RMS) or not is_channels_last(x):
        return torch.empty_like(x, memory_format=torch.contiguous_format)
    return torch.empty_like(x)


def _fake_forward(*arguments: Any) -> tuple[Tensor, Tensor]:
    call = _call(*arguments)
    shape, dtype = _shape(call)
    return _fake_output(call), call.x.new_empty(shape, dtype=dtype)


def _fake_backward(
    g: Tensor,
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    residual: Tensor | None,
    y: Tensor | None,
    statistics: Tensor,
    *rest: Any,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    output = _fake_output(_call(x, weight, bias, residual, *rest))
    return (
        output,
        x.new_empty(0) if weight is None else torch.empty_like(weight),
        x.new_empty(0) if bias is None else torch.empty_like(bias),
        x.new_empty(0) if residual is None else torch.empty_like(output),
    )


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    x, weight, bias, residual, *ctx.rest = inputs
    y, statistics = output
    ctx.mark_non_differentiable(statistics)
    needs_output = residual is not None and ctx.rest[-2] in ("relu", "relu6")
    ctx.save_for_backward(x, weight, bias, residual, y if needs_output else None, statistics)


def _derive(ctx: Any, g: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
    x, weight, bias, residual, y, statistics = ctx.saved_tensors
    given = (True, weight is not None, bias is not None, residual is not None)
    found = torch.ops.gammabeta.normalize_backward(
        g, x, weight, bias, residual, y, statistics, *ctx.rest
    )
    gradients = [t if wanted else None for t, wanted in zip(found, given, strict=True)]
    return *gradients, None, None, None, None, None


for _name, _kernel, _fake in (
    ("normalize", _forward, _fake_forward),
    ("normalize_backward", _backward, _fake_backward),
):
    _LIBRARY.impl(_name, _kernel, "CompositeExplicitAutograd")  # type: ignore[no-untyped-call]
    torch.library.register_fake(f"gammabeta::{_name}", _fake, lib=_LIBRARY)
torch.library.register_autograd("gammabeta::normalize", _derive, setup_context=_save, lib=_LIBRARY)
