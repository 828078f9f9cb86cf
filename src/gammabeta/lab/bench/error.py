"""Error against float64, and whether the number of threads changes a bit."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from gammabeta.lab.bench.inputs import OPS, Inputs, draw
from gammabeta.lab.bench.norm import Case, Plan
from gammabeta.lab.bench.results import Row, Setting
from gammabeta.lab.bench.rivals import Forward, gammabeta_forward, torch_forward
from gammabeta.ops.reference import torch_norms as reference

THREADS = (1, 2, 4)
"""Numbers of threads whose results are compared bit by bit."""

OF = ("y", "∂x", "∂γ", "∂β")
_BITS = "bits at " + ", ".join(map(str, THREADS)) + " threads"


def measure(plan: Plan, setting: Setting) -> Iterator[list[Row]]:
    """Yield the rows of one case of ``plan`` after the other.

    The error is the largest |value − value in float64| of each of `OF`: absolute for y and ∂x,
    which are of size 1 here, and in units of the largest value for ∂γ and ∂β, which are sums. It
    is that of batch norm alone, γ = 1 and β = 0: where a ReLU cuts, a last bit decides whether a
    gradient is there, in any precision. Torch is measured in both layouts.

    The bits are those of all operations' outputs, gradients and running statistics.

    Args:
        plan: shapes and formats; its operations and rivals play no part.
        setting: of the rows.
    """
    for number, case in enumerate(plan.cases):
        inputs = draw(case.shape, case.format, seed=number)
        exact = _exact(inputs)
        found = {"gammabeta": _errors(gammabeta_forward("bn", inputs), inputs, exact)}
        for who, layout in (("torch nchw", False), ("torch channels_last", True)):
            if len(case.shape) == 4 or not layout:
                laid = _laid(inputs, layout)
                found[who] = _errors(torch_forward("bn", laid), laid, exact)
        rows = [
            _row(setting, case, f"error {of}", who, error)
            for who, errors in found.items()
            for of, error in zip(OF, errors, strict=True)
        ]
        same = all(_same_bits(what, inputs) for what in OPS)
        yield [*rows, _row(setting, case, _BITS, "gammabeta", float(same))]


def _exact(inputs: Inputs) -> list[Tensor]:
    """y, ∂x, ∂γ and ∂β by the paper's formulas, in float64."""
    x, upstream = (tensor.detach().double() for tensor in (inputs.x, inputs.upstream))
    channels = x.shape[1]
    ones, zeros = torch.ones(channels).double(), torch.zeros(channels).double()
    y, saved = reference.batch_norm(x, ones, zeros)
    gradients = reference.batch_norm_backward(upstream, saved)
    return [y, *(gradient for gradient in gradients if gradient is not None)]


def _laid(inputs: Inputs, channels_last: bool) -> Inputs:
    layout = torch.channels_last if channels_last else torch.contiguous_format
    x, residual, upstream = (
        tensor.detach().contiguous(memory_format=layout)
        for tensor in (inputs.x, inputs.residual, inputs.upstream)
    )
    return Inputs(x.requires_grad_(), residual.requires_grad_(), upstream, inputs.format)


def _run(operation: tuple[Forward, nn.Module], inputs: Inputs, adds: bool) -> list[Tensor]:
    """The output and the gradients."""
    forward, layer = operation
    y = forward(inputs.x, inputs.residual)
    wanted = [inputs.x, *layer.parameters(), *([inputs.residual] if adds else [])]
    return [y.detach(), *torch.autograd.grad(y, wanted, inputs.upstream)]


def _errors(
    operation: tuple[Forward, nn.Module], inputs: Inputs, exact: list[Tensor]
) -> list[float]:
    errors = []
    for of, value, truth in zip(OF, _run(operation, inputs, adds=False), exact, strict=True):
        error = (value.double() - truth).abs().max()
        errors.append(float(error if of in ("y", "∂x") else error / truth.abs().max()))
    return errors


def _same_bits(what: str, inputs: Inputs) -> bool:
    """Whether all of `THREADS` give the same bits; torch's own number is kept."""
    before = torch.get_num_threads()
    results = []
    try:
        for threads in THREADS:
            torch.set_num_threads(threads)
            operation = gammabeta_forward(what, inputs)
            made = _run(operation, inputs, adds=what == "bn+add+relu")
            results.append([*made, *operation[1].buffers()])
    finally:
        torch.set_num_threads(before)
    first, *others = results
    return all(
        torch.equal(one, other)
        for result in others
        for one, other in zip(first, result, strict=True)
    )


def _row(setting: Setting, case: Case, what: str, who: str, value: float) -> Row:
    dtype, layout = case.format.split("-")
    return Row(
        setting,
        "error",
        case=case.lists,
        dtype=dtype,
        layout=layout,
        shape="x".join(map(str, case.shape)),
        what=what,
        who=who,
        unit="1",
        q20=value,
        q50=value,
        q80=value,
    )
