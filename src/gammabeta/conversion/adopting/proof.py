"""Proof by trial that a norm of somebody else's class computes a recipe.

Copies of the module are called on random input, by their own forward and by the kernels. Both are
compared with the formula in float64: outputs, gradients of the input and of all parameters,
buffers, memory layout, dtype, NaN. What agrees is covered: dtypes, numbers of dims, layouts and
modes, each by itself.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from gammabeta import ops
from gammabeta.conversion.adopting.recipe import Adoption, Covered, Recipe, covered_by, recipe
from gammabeta.layers.findings import finding_of
from gammabeta.layers.formulas import features
from gammabeta.layers.probe import Alone, Finding, apart, feature_dim, reason_untried, trial
from gammabeta.layers.traits import has_own_forward, lineage
from gammabeta.ops import cpu
from gammabeta.ops.cpu.autograd import run

_TIGHT = {
    torch.float64: 1e-10,
    torch.float32: 2e-5,
    torch.float16: 0.01,
    torch.bfloat16: 0.05,
}
"""How far the module may be from the formula, relative to the largest value.

In float64 and float32 this is far above rounding and far below what another formula differs by; a
layer that computes in float32 is not covered in float64. In half precision it is rounding, some six
times ε; that the formula is the right one is known from float32."""

_ROUNDINGS = {torch.float64: 64, torch.float32: 8, torch.float16: 2, torch.bfloat16: 2}
"""How many ε the kernels may be off where the module is exact: the terms of a sum are added in
another order, and an exponential is good to some digits of the last place. In half precision both
compute in float32. In float64 the formula itself is rounded, too."""

_WAYS = (
    (False, (torch.float64, torch.float64)),
    (False, (torch.bfloat16, torch.bfloat16)),
    (False, (torch.float16, torch.float16)),
    (False, (torch.bfloat16, torch.float32)),
    (False, (torch.float16, torch.float32)),
    (True, (torch.float32, torch.float32)),
    (True, (torch.bfloat16, torch.float32)),
    (True, (torch.bfloat16, torch.bfloat16)),
)
"""Whether under autocast, and dtypes of input and parameters. First of all float32 is tried."""

_F32 = (torch.float32, torch.float32)


@dataclass(frozen=True)
class _Trial:
    """One input to try.

    Attributes:
        shape: of the input.
        dtypes: of the input and of the parameters.
        training: the module's mode.
        scale: the standard deviation of the values.
        channels_last: the memory layout.
        odd: whether there are a row of zeros, a NaN and, if ``infinite``, an infinity.
        infinite: torch's own activations differ in that, between its vectorized loops and others.
        gain: by which γ and β are multiplied.
        graph: whether gradients are compared.
        autocast: whether the forward pass is under `torch.autocast`, in bfloat16.
        momentum: of a batch norm, in place of its own; "own" for that.
    """

    shape: tuple[int, ...]
    dtypes: tuple[torch.dtype, torch.dtype] = _F32
    training: bool = False
    scale: float = 2.0
    channels_last: bool = False
    odd: bool = False
    infinite: bool = False
    gain: float = 1.0
    graph: bool = True
    autocast: bool = False
    momentum: float | str | None = "own"


def prove(module: nn.Module, others: Iterable[Adoption]) -> Adoption | str:
    """Return what is proved of ``module``, of a class that somebody else wrote, or why nothing is.

    Copies of it are called, on the CPU; it and all random states stay as they are.

    Args:
        module: a norm.
        others: what is proved of others of its class. If one computes the same, of another size
            perhaps, few trials are enough.
    """
    own = has_own_forward(module)
    finding = finding_of(module) if own or not lineage(module) else Finding(feature_dim(module))
    if finding is None:
        return "gammabeta does not know what it computes"
    found = reason_untried(module) or recipe(module, finding)
    if isinstance(found, str):
        return found
    try:
        with apart():
            for other in others:
                if found == other.recipe:
                    return other if _resembles(module, other) else _DIFFERS
            covered = _covered(module, found)
    except Exception as error:  # whatever a stranger's code may raise
        return f"a trial of it raised {type(error).__name__}"
    return Adoption(found, covered) if covered else _DIFFERS


_DIFFERS = "the kernels do not compute the same to the last digits"


def _resembles(module: nn.Module, other: Adoption) -> bool:
    """Whether ``module`` computes the recipe of ``other`` where that was proved."""
    its = other.recipe
    for training in (False, True):
        if not any(training is one[-1] for one in other.covered):
            continue
        bases = [_Trial(shape, training=training) for shape in _shapes(module, its)]
        base = next((one for one in bases if _agrees(module, its, one)), None)
        if base is None or not all(_agrees(module, its, one) for one in _hard(module, its, base)):
            return False
    return True


def _covered(module: nn.Module, its: Recipe) -> frozenset[Covered]:
    """The calls for which the recipe ``its`` computes what ``module`` computes."""
    shapes = list(_shapes(module, its))
    found: set[Covered] = set()
    for training in (False, True):
        if training and its.statistics == "batch" and its.activation is not None and not found:
            break  # only by running statistics are values so large that an activation shows
        agreeing = [
            one
            for shape in shapes
            for last in ((False, True) if len(shape) > 3 else (False,))
            for one in (_Trial(shape, training=training, channels_last=last),)
            if _agrees(module, its, one)
        ]
        if not agreeing:
            continue
        base = agreeing[0]
        if not all(_agrees(module, its, one) for one in _hard(module, its, base)):
            continue
        alike = [(False, _F32)]
        for autocast, pair in _WAYS:
            scales = (2.0, 300.0, 1e-3) if pair[0].itemsize == 2 else (2.0, 1e-3)
            way = replace(base, dtypes=pair, autocast=autocast)
            if all(_agrees(module, its, replace(way, scale=scale)) for scale in scales):
                alike.append((autocast, pair))
        for one in agreeing:
            for autocast, pair in alike:
                copied, x = _given(module, replace(one, dtypes=pair))
                with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
                    found.add(covered_by(its, x, copied))
    return frozenset(found)


def _hard(module: Any, its: Recipe, base: _Trial) -> Iterator[_Trial]:
    """Inputs in which formulas differ that agree otherwise."""
    yield replace(base, scale=1e-3)  # ε counts
    yield replace(base, scale=1e-7)  # ε is all there is
    yield replace(base, scale=300.0)  # a limit would show
    yield replace(base, odd=True, infinite=its.activation in (None, "relu"), graph=False)
    yield replace(base, graph=False)
    if its.activation is not None:  # all that it does shows
        yield replace(base, gain=16.0)
    if its.statistics == "batch" and base.training and module.track_running_stats:
        yield replace(base, momentum=0.3)
        yield replace(base, momentum=None)


def _shapes(module: Any, its: Recipe) -> Iterator[tuple[int, ...]]:
    """Shapes of input to try."""
    by_class = getattr(module, "num_features", 0) or getattr(module, "num_channels", 6)
    c = int(features(module) or by_class)
    if its.kind in (ops.LAYER, ops.RMS) and not its.moved:
        last = getattr(module, "normalized_shape", (c,))
        yield from ((3, 2, *last), (4, *last), (2, 3, 2, *last))
    elif its.kind in (ops.LAYER, ops.RMS) or not its.moved:
        yield from ((4, c, 3, 2), (4, c, 5), (4, c), (2, c, 2, 3, 2))
    else:
        yield from ((4, 3, 2, c), (4, 5, c))


def _given(module: nn.Module, one: _Trial) -> tuple[Any, Tensor]:
    """A copy of ``module`` and an input, as ``one`` says."""
    dtype, parameters = one.dtypes
    copied = trial(module, parameters, one.gain).train(one.training)
    if one.momentum != "own":
        copied.momentum = one.momentum
    torch.default_generator.manual_seed(1)
    x = torch.randn(one.shape, dtype=torch.float64) * one.scale + 0.25 * one.scale
    if one.odd:
        x[0] = 0.0
        x[1].view(-1)[0] = torch.nan
        x[-1].view(-1)[-1] = torch.inf if one.infinite else 0.5
    x = x.to(dtype)
    if one.channels_last:
        form = torch.channels_last if x.dim() == 4 else torch.channels_last_3d
        x = x.contiguous(memory_format=form)
    return copied, x


def _agrees(module: nn.Module, its: Recipe, one: _Trial) -> bool:
    """Whether the kernels compute what ``module`` computes of one input."""
    pristine, x = _given(module, one)
    try:
        theirs = _outcome(pristine, None, x, one)
    except Exception:  # it takes no such input
        return False
    exact = _outcome(pristine, its, x, one, exact=True)
    if theirs is None or exact is None:
        return False
    for small in (False, True) if its.by_hand else (False,):
        ours = _outcome(pristine, its, x, one, small=small)
        if ours is None or not _alike(ours, theirs, exact, rounded=not one.odd):
            return False
    return True


@dataclass(frozen=True)
class _Outcome:
    """What a call gave and left behind."""

    y: Tensor
    gradients: tuple[Tensor, ...]
    buffers: tuple[Tensor, ...]


def _alike(ours: _Outcome, theirs: _Outcome, exact: _Outcome, rounded: bool) -> bool:
    """Whether ``ours`` can stand for ``theirs``.

    Args:
        ours: by the kernels.
        theirs: by a module's own code.
        exact: by the formula in float64.
        rounded: whether the outputs are to be the same to the last digit in half precision.
    """
    dtype = theirs.y.dtype
    if ours.y.stride() != theirs.y.stride() or len(ours.buffers) != len(theirs.buffers):
        return False
    if dtype.itemsize == 2 and rounded and not _as_rounded(ours.y, theirs.y):
        return False
    gradients = zip(ours.gradients, theirs.gradients, exact.gradients, strict=True)
    return (
        _as_good(ours.y, theirs.y, exact.y, dtype)
        and all(_as_good(mine, its, truth, dtype) for mine, its, truth in gradients)
        and all(map(_moved_alike, ours.buffers, theirs.buffers))
    )


def _outcome(
    pristine: nn.Module,
    its: Recipe | None,
    x: Tensor,
    one: _Trial,
    exact: bool = False,
    small: bool = False,
) -> _Outcome | None:
    """What a copy of ``pristine`` computes of ``x``: by its own code, or by a recipe.

    Args:
        pristine: it is not called.
        its: the recipe, or None.
        x: input.
        one: what ``x`` was made by.
        exact: whether the recipe is computed in float64 by the formula.
        small: whether it is computed as where ``x`` is too small for the kernels.
    """
    module = copy.deepcopy(pristine)
    x = x.clone()
    if exact:
        module, x = module.double(), x.double()
    g = torch.linspace(-1.0, 1.5, x.numel(), dtype=torch.float64).view(x.shape).to(x.dtype)
    parameters = list(module.parameters())
    if one.graph:
        x.requires_grad_()
        for parameter in parameters:
            parameter.requires_grad_()
    autocast = torch.autocast("cpu", torch.bfloat16, enabled=one.autocast and not exact)
    with torch.set_grad_enabled(one.graph), autocast:
        if its is None:
            before, drawn, values = _settings_of(module), torch.get_rng_state(), x.detach().clone()
            with Alone():  # type: ignore[no-untyped-call]
                y = module.forward(x)
            same = torch.equal(values.nan_to_num(7.0), x.detach().nan_to_num(7.0))
            if not same or before != _settings_of(module):
                return None
            if not torch.equal(drawn, torch.get_rng_state()):
                return None
        else:
            y = _by_recipe(its, module, x, exact, small)
        if not isinstance(y, Tensor) or y.shape != x.shape:
            return None
    gradients: tuple[Tensor, ...] = ()
    if one.graph:
        gradients = torch.autograd.grad(y, (x, *parameters), g.to(y.dtype))
    return _Outcome(y.detach(), gradients, tuple(b.detach() for b in module.buffers()))


def _by_recipe(
    its: Recipe, module: nn.Module, x: Tensor, exact: bool, small: bool
) -> Tensor | None:
    call = its.call(module, x)
    if call is None:
        return None
    if exact:
        y: Tensor | None = ops.BACKENDS["reference"].forward(call)
    elif its.kind == ops.BATCH or small:
        return its.run(call, x)
    else:
        plan = cpu.plan(call)  # the kernels, however small x is
        y = None if plan is None else run(call, plan)
    return None if y is None else its.finish(y, x)


def _settings_of(module: nn.Module) -> list[tuple[str, Any]]:
    """What a forward may not change."""
    plain = (bool, int, float, str, tuple, type(None))
    return [
        (f"{name}.{key}", value)
        for name, part in module.named_modules()
        for key, value in part.__dict__.items()
        if isinstance(value, plain)
    ]


def _as_good(ours: Tensor, theirs: Tensor, exact: Tensor, dtype: torch.dtype) -> bool:
    """Whether ``ours`` is as near to ``exact`` as ``theirs`` is, and that is near for ``dtype``."""
    if ours.shape != theirs.shape or ours.dtype is not theirs.dtype:
        return False
    if not torch.equal(ours.isnan(), theirs.isnan()):
        return False
    there = theirs.isfinite() & exact.isfinite()
    if not torch.equal(ours[~there].nan_to_num(), theirs[~there].nan_to_num()):
        return False
    if not there.any():
        return True
    truth = exact[there]
    size = truth.abs().max().item()
    off_theirs = (theirs[there].double() - truth).abs().max().item()
    off_ours = (ours[there].double() - truth).abs().max().item()
    rounding = _ROUNDINGS[dtype] * torch.finfo(dtype).eps * size
    near = off_theirs <= _TIGHT[dtype] * max(size, 1e-30)
    # Twice: two roundings of one value lie at most one rounding on either side of it.
    return near and off_ours <= 2 * off_theirs + rounding


def _as_rounded(ours: Tensor, theirs: Tensor) -> bool:
    """Whether two outputs in half precision are the same but for the last digit of each value.

    Two steps that round after one another, as x̂ and γ · x̂, are off by one digit each. A value that
    is small by cancellation, as where γx̂ is near −β, has the digits of what cancelled.
    """
    ulp = torch.finfo(theirs.dtype).eps
    size = theirs.double().abs()
    most = ulp * (size + 0.5 * size.max())
    return bool(((ours.double() - theirs.double()).abs() <= most).all())


def _moved_alike(ours: Tensor, theirs: Tensor) -> bool:
    """Whether a call left the same values in a buffer."""
    if not theirs.is_floating_point():
        return torch.equal(ours, theirs)
    if not torch.equal(ours.isfinite(), theirs.isfinite()):
        return False
    there = theirs.isfinite()
    close = 8 * torch.finfo(theirs.dtype).eps
    return torch.allclose(ours[there], theirs[there], rtol=close, atol=close)
