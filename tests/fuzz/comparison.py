"""One call of a layer of ours beside torch's: is it the same, to rounding?"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from gammabeta.ops.activations import ACTIVATIONS

ERRORS = (ValueError, TypeError, RuntimeError, NotImplementedError)
"""What a person may be answered with; anything else is an internal error."""

OF_TORCH = ("not implemented for", "does not have a device", "fallback doesn't currently support")
OF_TORCH += ("expected scalar type", "mixed dtype")
"""What torch says of valid calls that its operators happen not to serve."""

KINKS = {
    "relu": (0,),
    "leaky_relu": (0,),
    "relu6": (0, 6),
    "hardswish": (-3, 3),
    "hardsigmoid": (-3, 3),
}
"""Where the slope of an activation jumps."""

UNSURE = ("relu6", "hardswish")
"""Torch's scalars and vectors differ in their slopes at NaN."""


class Wrong(Exception):
    """What a call should not have given."""


def compare(
    ours: nn.Module,
    torchs: nn.Module,
    x: Any,
    residual: Any,
    *,
    grad: bool,
    sane: bool = True,
) -> None:
    """Call both layers, backward too with ``grad``.

    Args:
        ours: a layer of gammabeta's.
        torchs: torch's, in the same state.
        x: what both are called with.
        residual: what ours adds; torch's has it added after.
        grad: whether to differentiate.
        sane: whether ours may give a value; else it has to raise.

    Raises:
        Wrong: an internal error; an error where torch has a value, or the reverse; other values.
    """
    before = copy.deepcopy(torchs)

    def called(x: Any) -> Tensor:
        y: Tensor = ours(x) if residual is None else ours(x, residual=residual)
        return y * 1.0 if getattr(ours, "memory", "") == "lean" else y

    try:
        got = results(called, ours, x, grad) if sane else {"output": called(x)}
    except ERRORS as e:
        error: BaseException | None = e
    except BaseException as e:
        raise Wrong(f"internal error {type(e).__name__}: {e}") from e
    else:
        error = None
    if not sane:
        if error is None and x.numel():
            raise Wrong("no error")
        return
    try:
        want = results(lambda x: composed(torchs, x, residual, ours), torchs, x, grad)
    except BaseException as e:
        empty = isinstance(x, Tensor) and not x.numel()  # torch has bugs of its own there
        if error is None and not empty and not any(words in str(e) for words in OF_TORCH):
            raise Wrong(f"torch raises {type(e).__name__}: {e}; ours has a value") from e
        return
    if error is not None:
        raise Wrong(f"torch has a value, ours {type(error).__name__}: {error}") from error
    differ(got, want, *exact(before, x, residual, ours, grad), cancelled(before, x))


def cancelled(layer: nn.Module, x: Any) -> dict[str, float]:
    """How large the terms are that a result is a sum or difference of, beside the result."""
    if not isinstance(x, Tensor) or not x.numel() or not x.is_floating_point():
        return {}
    weight, eps = getattr(layer, "weight", None), getattr(layer, "eps", None)
    learned = 1 if weight is None or not weight.numel() else weight.numel()
    largest = 1.0 if weight is None or not weight.numel() else weight.abs().max().item()
    finite = x.double()[x.isfinite()]
    spread = finite.std(correction=0).item() if finite.numel() else 0.0
    sums = 16 * (x.numel() / learned) ** 0.5  # of g and g x̂, each rounded at random
    return {
        "gradient of input": largest / max(eps or 1e-7, 1e-30) ** 0.5,  # γ g / σ, and g <= 1
        "gradient of weight": sums,
        "gradient of bias": sums,
        "running_mean": 8 * spread,  # Σ x about some x, by blocks
    }


def composed(layer: nn.Module, x: Any, residual: Any, ours: nn.Module) -> Tensor:
    """Torch's layer, then the residual and the activation of ours."""
    y: Tensor = layer(x)
    return activated(y if residual is None else y + residual.to(y.dtype), ours)


def activated(z: Tensor, ours: nn.Module) -> Tensor:
    """The activation of ours, by torch."""
    name = ours.activation
    return z if name is None else ACTIVATIONS[name](z)


def results(
    run: Callable[[Any], Tensor], layer: nn.Module, x: Any, grad: bool, noise: float = 0.0
) -> dict[str, Tensor]:
    """Output, gradients and buffers of one call; ``noise`` disturbs the incoming gradient."""
    if isinstance(x, Tensor):
        x = x.detach()
        if grad and x.is_floating_point():
            x.requires_grad_()
    layer.zero_grad()
    with torch.set_grad_enabled(grad):
        y = run(x)
        if grad and y.requires_grad:
            # Exact in every dtype.
            g = ((torch.arange(y.numel()) % 17 - 8) / 8).to(y.dtype).view(y.shape)
            y.backward(g * (1 + noise * torch.randn_like(g)) if noise else g)
    found = {"output": y.detach()}
    if isinstance(x, Tensor) and x.grad is not None:
        found["gradient of input"] = x.grad
    for name, p in layer.named_parameters():
        if p.grad is not None:
            found[f"gradient of {name}"] = p.grad
    for name, b in layer.named_buffers():
        found[name] = b.detach().clone()
    return found


Values = dict[str, Tensor]


def exact(
    layer: nn.Module, x: Any, residual: Any, ours: nn.Module, grad: bool
) -> tuple[Values | None, Values | None]:
    """What torch's layer gives in float64, and how far that moves when its input is rounded.

    The latter is the error that any computation in the compute type has to be allowed. It is
    None, and so are the gradients, where an activation's kink is within rounding of an element, or
    its slope at NaN is anything.
    """
    if not isinstance(x, Tensor) or not x.is_floating_point():
        return None, None
    layer = copy.deepcopy(layer).double()
    unit = 2.0**-52 if x.dtype is torch.float64 else 2.0**-23
    # Contiguous: torch's backward pass of some strides of dims of size 1 is wrong.
    wide = x.double().contiguous()
    moved = wide * (1 + unit * torch.randn_like(wide))
    kinked = False

    def twin(x: Tensor) -> Tensor:
        nonlocal kinked
        z = layer(x)
        z = z if residual is None else z + residual.to(z.dtype)
        known = z.detach()[z.isfinite()]
        kinked = kinked or (ours.activation in UNSURE and known.numel() < z.numel())
        if known.numel():
            near = 2.0**-6 if residual is not None else 1e-4
            near *= max(known.abs().max().item(), 1e-30)
            for kink in KINKS.get(ours.activation, ()):
                kinked = kinked or bool(((known - kink).abs() < near).any())
        return activated(z, ours)

    try:
        before = copy.deepcopy(layer.state_dict())
        truth = results(twin, layer, wide, grad)
        layer.load_state_dict(before)
        other = results(twin, layer, moved, grad, noise=unit)
    except BaseException:
        return None, None
    if kinked:
        truth = {name: t for name, t in truth.items() if "gradient" not in name}
    return truth, {name: (other[name] - t).abs() for name, t in truth.items()}


def differ(
    ours: Values,
    torchs: Values,
    truth: Values | None,
    moved: Values | None,
    terms: dict[str, float],
) -> None:
    """Raise unless ours are torch's values, to rounding.

    Both errors are measured from float64. Ours may be four times torch's, sixteen times what
    rounding the input makes of the result (sums of up to 33·33·33·5 terms in blocks lose a few
    bits beside that), and two roundings of the result's own type. float64 itself, from which
    torch's own error is zero, gets a hundred of each. Where ``terms`` cancel, or a slope is nearly
    zero, a rounding of them is left.
    """
    if ours.keys() != torchs.keys():
        raise Wrong(f"ours has {list(ours)}, torch's {list(torchs)}")
    for name, a in ours.items():
        b = torchs[name]
        if a.dtype is not b.dtype or a.shape != b.shape:
            raise Wrong(f"{name}: {a.dtype} {tuple(a.shape)}, torch's {b.dtype} {tuple(b.shape)}")
        if not a.is_floating_point():
            if not torch.equal(a, b):
                raise Wrong(f"{name}: {a}, torch's {b}")
            continue
        if truth is None or moved is None or name not in truth:
            continue
        c = truth[name].double()
        finite = b.isfinite() & c.isfinite()
        lost = int((~a.isfinite() & finite).sum())
        if lost:
            raise Wrong(f"{name}: {lost} values are not finite where torch's are")
        if not finite.any():
            continue
        mine, theirs = ((t.double() - c)[finite].abs().max().item() for t in (a, b))
        scale, noise = c[finite].abs().max().item(), moved[name][finite].max().item()
        unit, wide = torch.finfo(a.dtype).eps, a.dtype is torch.float64
        computed = min(unit, 2.0**-23)
        allowed = 4 * theirs + (100 if wide else 16) * noise + (100 if wide else 2) * unit * scale
        allowed += computed * (terms.get(name, 0.0) + 1e-9)
        if not mine <= allowed:
            raise Wrong(
                f"{name}: off by {mine:.3g} of {scale:.3g}; torch's by {theirs:.3g}, and rounding "
                f"the input moves it by {noise:.3g}"
            )
