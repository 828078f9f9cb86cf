"""A norm, a residual and an activation by the native kernels, as one autograd function.

The norms differ in their sizes and their kernels, not in what goes in and out: this is what they
share. `batch` says which calls of batch norm come here, `per_example` which of the others.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

from gammabeta.ops import lean
from gammabeta.ops.allocated import NoMemoryError, refuse_freed
from gammabeta.ops.cpu.double_backward import norm_gradients
from gammabeta.ops.cpu.support import (
    DTYPES,
    MASKED,
    NAMES,
    NEGATIVE_PART,
    addresses,
    like,
    takes_gradient,
)
from gammabeta.ops.spec import BATCH, Call
from gammabeta.ops.torch.norms import OPERATORS


class Plan:
    """How the kernels run one call.

    Attributes:
        native: the binding's `Norm`, which knows all but the tensors.
        numbers: how many numbers the statistics are.
        computed: their type.
        channels_last: whether x stays in that layout; else it is made contiguous.
        slopes: how many a PReLU has; 0 without one.
        spec: kind, ε, normalized_shape, num_groups and training of the call, whose tensors are the
            graph's to keep.
        again: the binding's `Norm` that makes an output again from its statistics.
        statistics: made by the forward pass, once it has run with a graph.
        entered: whether the batch entered the running statistics.
        reads: whether the binding reads the tensors by itself.
    """

    __slots__ = (
        "again",
        "channels_last",
        "computed",
        "entered",
        "native",
        "numbers",
        "reads",
        "slopes",
        "spec",
        "statistics",
    )

    native: Any
    numbers: int
    computed: torch.dtype
    channels_last: bool
    slopes: int
    spec: tuple[str, Any, Any, int, bool]
    again: Any
    statistics: Tensor | None
    entered: bool
    reads: bool

    def operator(
        self, x: Tensor, weight: Tensor | None, bias: Tensor | None, statistics: Tensor
    ) -> Tensor:
        """Return the norm alone in torch's operators, with a graph."""
        kind, eps, normalized_shape, num_groups, training = self.spec
        if kind == BATCH and not training:
            shape = (1, -1) + (1,) * (x.dim() - 2)
            mean, inverse = statistics.view(2, *shape)
            y: Tensor = (x - mean) * inverse
            y = y if weight is None else y * weight.view(shape)
            return (y if bias is None else y + bias.view(shape)).to(x.dtype)
        call = Call(kind, x, normalized_shape=normalized_shape, num_groups=num_groups, eps=eps)
        return OPERATORS[kind](call, x, weight, bias)


def plan_for(call: Call, native: Any, numbers: int, computed: torch.dtype) -> Plan:
    """Return the plan of a call whose x stays dense as it is."""
    plan = Plan()
    plan.native, plan.numbers, plan.computed = native, numbers, computed
    plan.channels_last, plan.again, plan.statistics, plan.reads = False, None, None, False
    plan.slopes = call.slope.numel() if isinstance(call.slope, Tensor) else 0
    plan.spec = (call.kind, call.eps, call.normalized_shape, call.num_groups, call.training)
    return plan


def run(call: Call, plan: Plan) -> Tensor | None:
    """Return the output of ``call``, with a graph if one is wanted.

    Returns:
        The output, or None where a tensor of zeros has no values in memory.

    Raises:
        RuntimeError: the storage of a tensor was freed.
    """
    x, weight, bias, residual = call.x, call.weight, call.bias, call.residual
    slopes = call.slope if isinstance(call.slope, Tensor) else None
    try:
        if not (
            torch.is_grad_enabled()
            and (
                x.requires_grad
                or (weight is not None and weight.requires_grad)
                or (bias is not None and bias.requires_grad)
                or (residual is not None and residual.requires_grad)
                or (slopes is not None and slopes.requires_grad)
            )
        ):
            return forward_pass(x, weight, bias, residual, slopes, plan)[0]
        y: Tensor = _Norm.apply(  # type: ignore[no-untyped-call]
            x, weight, bias, residual, slopes, plan
        )
    except NoMemoryError:
        refuse_freed(input=x, weight=weight, bias=bias, residual=residual)
        return None
    statistics, plan.statistics = plan.statistics, None  # the graph keeps them, and lets them go
    # One with a residual would have to keep that instead.
    if (
        call.memory == "lean"
        and statistics is not None
        and residual is None
        and slopes is None
        and plan.again is not None
        and lean.may_be_lean()
    ):
        y = lean.as_lean(y, partial(_again, plan, statistics), (x, weight, bias))
    return y


def _dense(x: Tensor, plan: Plan) -> Tensor:
    if plan.channels_last or x.is_contiguous():
        return x
    addresses(x)  # torch would copy from a freed storage
    return x.contiguous()


def forward_pass(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    residual: Tensor | None,
    slopes: Tensor | None,
    plan: Plan,
    statistics: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Run the kernel; returns y, the statistics, and what a ReLU after a residual let through."""
    bits = None
    native = plan.native
    if plan.reads and statistics is None:
        masked = native.activation in MASKED
        y, statistics, bits, plan.entered = native.run(x, residual, weight, bias, masked)
        return y, statistics, bits
    x = _dense(x, plan)
    if residual is not None:
        residual = like(residual, x)
        if native.activation in MASKED:
            bits = torch.empty(native.mask_size(), dtype=torch.uint8, device=x.device)
    y = torch.empty_like(x)
    if statistics is None:
        statistics = torch.empty(plan.numbers, dtype=plan.computed, device=x.device)
    plan.entered = native.forward(
        *addresses(x, residual, weight, bias),
        0 if bits is None else bits.data_ptr(),
        statistics.data_ptr(),
        y.data_ptr(),
        *_each(slopes),
    )
    return y, statistics, bits


def _each(slopes: Tensor | None) -> tuple[int, ...]:
    """Where the channels' slopes are; of a single one the plan knows the value."""
    return () if slopes is None or slopes.numel() == 1 else (slopes.data_ptr(),)


def _again(
    plan: Plan, statistics: Tensor, x: Tensor, weight: Tensor | None, bias: Tensor | None
) -> Tensor:
    """Make an output again, from its statistics."""
    x = _dense(x, plan)
    y = torch.empty_like(x)
    plan.again.forward(*addresses(x, None, weight, bias), 0, statistics.data_ptr(), y.data_ptr())
    return y


def _as_saved(
    plan: Plan,
    g: Tensor,
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    residual: Tensor | None,
    slopes: Tensor | None,
    statistics: Tensor,
    bits: Tensor | None,
) -> Tensor:
    """Return the statistics, in their own type; the kernels read memory by what forward knew.

    Raises:
        RuntimeError: a tensor has another type or size than in the forward pass.
    """
    native = plan.native
    data, parameters = DTYPES[native.type], DTYPES[native.parameter_type]
    numbers = native.channels
    for name, t, dtype, numel in (
        ("the gradient", g, data, x.numel()),
        ("input", x, data, native.elements()),
        ("residual", residual, data, native.elements()),
        ("weight", weight, parameters, numbers),
        ("bias", bias, parameters, numbers),
        ("the slope", slopes, parameters, plan.slopes),
        ("the mask", bits, torch.uint8, None),
    ):
        if t is not None and (t.dtype != dtype or (numel is not None and t.numel() != numel)):
            raise RuntimeError(
                f"{name} has dtype {t.dtype} and {t.numel()} elements in the backward pass of "
                f"{plan.spec[0]} norm, and not {dtype} as in the forward pass; did .half(), a "
                "replaced parameter or a hook for saved tensors change it in between?"
            )
    if statistics.numel() != plan.numbers or not (bits is None or native.mask_fits(bits.numel())):
        raise RuntimeError(
            f"the statistics or the mask that {plan.spec[0]} norm saved have another size in the "
            f"backward pass: {statistics.numel()} numbers, not {plan.numbers}"
        )
    return statistics.to(plan.computed).contiguous()


def backward_pass(
    g: Tensor,
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    residual: Tensor | None,
    slopes: Tensor | None,
    statistics: Tensor,
    bits: Tensor | None,
    plan: Plan,
    needs: tuple[bool, ...],
) -> tuple[Tensor | None, ...]:
    """Run the kernel; returns the gradients of x, weight, bias, residual and slopes."""
    native = plan.native
    if plan.reads:
        found: tuple[Tensor | None, ...] | None = native.run_back(
            *(g, x, residual, weight, bias, statistics, bits, needs[0], needs[3])
        )
        if found is not None:
            return *found, None
    statistics = _as_saved(plan, g, x, weight, bias, residual, slopes, statistics, bits)
    x = _dense(x, plan)
    g = like(g, x)
    residual = None if residual is None else like(residual, x)
    gweight = None if weight is None else torch.empty_like(weight)
    gbias = None if bias is None else torch.empty_like(bias)
    gresidual = torch.empty_like(x) if needs[3] and native.activation else None
    # One loop writes both, and gx where it goes.
    gx = torch.empty_like(x) if needs[0] or gresidual is not None else None
    read = addresses(x, residual, weight, bias, bits, statistics, g)
    native.backward(
        *read,
        0 if gx is None else gx.data_ptr(),
        0 if gresidual is None else gresidual.data_ptr(),
        0 if gweight is None else gweight.data_ptr(),
        0 if gbias is None else gbias.data_ptr(),
        *_each(slopes),
    )
    if needs[3] and not native.activation:
        gresidual = g
    gslopes = None
    if slopes is not None and needs[4]:
        # Σ g · min(z, 0), by the pass that sums the gradient up for β. One more over x and g, and
        # only where there is a PReLU: a third sum in every kernel would be there for it alone.
        gslopes = torch.empty(native.channels, dtype=slopes.dtype, device=slopes.device)
        sums = native.of_activation(NEGATIVE_PART)
        sums.backward(*read, 0, 0, 0, gslopes.data_ptr())
        gslopes = gslopes if slopes.numel() > 1 else gslopes.sum(0, keepdim=True)
    return gx if needs[0] else None, gweight, gbias, gresidual, gslopes


class _Norm(torch.autograd.Function):
    """Norm, residual and activation in one pass; the output is not kept."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        residual: Tensor | None,
        slopes: Tensor | None,
        plan: Plan,
    ) -> Tensor:
        y, statistics, bits = forward_pass(x, weight, bias, residual, slopes, plan)
        code = plan.native.activation
        kept = residual if code and code not in MASKED else None
        ctx.save_for_backward(x, weight, bias, kept, slopes, statistics, bits)
        ctx.plan = plan
        plan.statistics = statistics
        return y

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        plan: Plan = ctx.plan
        x, weight, bias, residual, slopes, statistics, bits = ctx.saved_tensors
        needs = ctx.needs_input_grad
        if takes_gradient(g):
            try:
                return *backward_pass(
                    g, x, weight, bias, residual, slopes, statistics, bits, plan, needs
                ), None
            except NoMemoryError:
                refuse_freed(gradient=g, input=x, weight=weight, bias=bias, residual=residual)
                if g._is_zerotensor():  # torch's group norm reads from where it has no values
                    g = torch.zeros_like(x)
        activation, mask = NAMES[plan.native.activation], None
        if bits is not None:
            only = (False, False, False, True, False)
            with torch.no_grad():
                ones = torch.ones_like(x)
                mask = backward_pass(
                    ones, x, weight, bias, None, None, statistics, bits, plan, only
                )[3]
            activation = None
        gradients = norm_gradients(
            partial(plan.operator, statistics=statistics),
            *(g, x, weight, bias, residual, mask, needs, activation),
            plan.native.slope if slopes is None else slopes,
        )
        return *gradients, None
