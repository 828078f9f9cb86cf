"""Time of whole networks: with torch's norms, converted by one line, compiled, without norms."""

from __future__ import annotations

import contextlib
import gc
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from gammabeta.lab.bench.net_models import (
    CONVOLUTIONAL,
    Network,
    check,
    load,
    loss_of,
    takes_pictures,
)
from gammabeta.lab.bench.net_profile import WHO, split
from gammabeta.lab.bench.net_variants import VARIANTS, variant
from gammabeta.lab.bench.results import Row, Setting
from gammabeta.lab.bench.rivals import Absent, forget
from gammabeta.lab.bench.timing import Timing, interleave, paired
from gammabeta.names import known

NAMES = (
    *(f"pytorchcv:{name}" for name in CONVOLUTIONAL),
    *("transformers:vit", "transformers:convnext", "transformers:bert", "transformers:llama"),
)
"""The networks that are measured unless others are asked for."""

LAYOUTS = ("nchw", "channels_last")
DTYPES = ("fp32", "bf16")
MODES = ("training", "evaluation")
BASES = ("torch", "bare")
"""Variants that the others are compared with."""

SAMPLE = 0.1
"""Seconds that a sample lasts at least; a shorter step is repeated within one."""


@dataclass(frozen=True)
class Plan:
    """What is measured.

    Attributes:
        names: of networks, as `gammabeta.lab.bench.net_models.load` takes them.
        layouts, dtypes, modes: of `LAYOUTS`, `DTYPES` and `MODES`.
        variants: of `gammabeta.lab.bench.net_variants.VARIANTS`.
        batch: examples in a mini-batch.
        size: height and width of a picture.

    Raises:
        ValueError: an unknown name, a number out of range, or nothing to measure.
    """

    names: Sequence[str]
    layouts: Sequence[str] = LAYOUTS
    dtypes: Sequence[str] = DTYPES
    modes: Sequence[str] = MODES
    variants: Sequence[str] = tuple(VARIANTS)
    batch: int = 4
    size: int = 224

    def __post_init__(self) -> None:
        choices = {"layouts": LAYOUTS, "dtypes": DTYPES, "modes": MODES, "variants": VARIANTS}
        for argument, names in choices.items():
            asked = [known(argument, name, names) for name in getattr(self, argument)]
            object.__setattr__(self, argument, tuple(dict.fromkeys(asked)))
            if not asked:
                raise ValueError(f"{argument}= is empty; one or more of: {', '.join(names)}")
        object.__setattr__(self, "names", tuple(dict.fromkeys(self.names)))
        if not self.names:
            raise ValueError("networks= is empty; give one such as pytorchcv:resnet50")
        for name in self.names:
            check(name)
        for argument, value, most in (("batch", self.batch, 4096), ("size", self.size, 4096)):
            if not 1 <= value <= most:
                raise ValueError(f"{argument}={value} must be between 1 and {most}")

    def cases(self, name: str) -> list[tuple[str, str, str]]:
        """Return (layout, dtype, mode) of each case of a network; words have one layout."""
        layouts = self.layouts if takes_pictures(name) else self.layouts[:1]
        return [(at, dtype, mode) for at in layouts for dtype in self.dtypes for mode in self.modes]

    @property
    def total(self) -> int:
        """Return the number of cases."""
        return sum(len(self.cases(name)) for name in self.names)


class Pass:
    """One pass over the mini-batch: forward, loss, backward; or forward in evaluation mode.

    The optimizer's step is left out: it is the same work for every variant.

    Args:
        model: in the form that is measured; its mode and layout are set.
        network: the mini-batch is taken from it.
        layout, dtype, mode: of `LAYOUTS`, `DTYPES` and `MODES`.
    """

    def __init__(
        self, model: nn.Module, network: Network, layout: str, dtype: str, mode: str
    ) -> None:
        if layout == "channels_last":
            model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.model = model.train(mode == "training")
        self.args, self.kwargs = network.inputs(layout)
        self.dtype = dtype
        self.parameters = list(model.parameters())

    def __call__(self) -> None:
        """Run the pass; gradients are those of this pass only."""
        if not self.model.training:
            with torch.inference_mode(), self._autocast():
                self.model(*self.args, **self.kwargs)
            return
        for parameter in self.parameters:
            parameter.grad = None
        with self._autocast():
            out = self.model(*self.args, **self.kwargs)
        loss_of(out).backward()  # type: ignore[no-untyped-call]

    def _autocast(self) -> contextlib.AbstractContextManager[object]:
        if self.dtype == "bf16":
            return torch.autocast("cpu", dtype=torch.bfloat16)
        return contextlib.nullcontext()


def passes(
    network: Network, variants: Sequence[str], layout: str, dtype: str, mode: str
) -> tuple[dict[str, Pass], dict[str, str]]:
    """Return a pass of each variant that can take part, and why the others cannot.

    Each of them has run once, so that what is compiled at the first call is compiled.
    """
    found, absent = {}, {}
    for who in variants:
        try:
            made = Pass(variant(who, network.model), network, layout, dtype, mode)
            made()
        except Absent as e:
            absent[who] = str(e)
        except (RuntimeError, ValueError, TypeError, AttributeError) as e:
            absent[who] = f"{type(e).__name__}: {' '.join(str(e).split())[:160]}"
        else:
            found[who] = made
    return found, absent


def measure(
    plan: Plan,
    setting: Setting,
    *,
    seconds: float = 20.0,
    rounds: int | None = None,
    profile: bool = False,
) -> Iterator[list[Row]]:
    """Yield the rows of one case after the other.

    Args:
        plan: what is measured.
        setting: of the rows.
        seconds: how long the rounds of a case should take.
        rounds: how many of them to run instead.
        profile: whether the time is split by kind of operator too.
    """
    for name in plan.names:
        try:
            network = load(name, plan.batch, plan.size)
        except Absent as e:
            for case in plan.cases(name):
                yield [_row(setting, name, "", *case, "torch", note=str(e))]
            continue
        for layout, dtype, mode in plan.cases(name):
            at = (setting, name, network.shape, layout, dtype, mode)
            found, absent = passes(network, plan.variants, layout, dtype, mode)
            timings = interleave(found, seconds=seconds, rounds=rounds, sample=SAMPLE)
            rows = [_row(*at, who, timing=t) for who, t in timings.items()]
            rows += [_row(*at, who, note=why) for who, why in absent.items()]
            for base in BASES:
                if base in timings:
                    rows += [
                        _row(*at, who, timing=t, base=(base, timings[base]))
                        for who, t in timings.items()
                        if who != base
                    ]
            if profile:
                kinds = split({who: found[who] for who in WHO if who in found})
                rows += [
                    _row(*at, who, kind=(of, value))
                    for who, times in kinds.items()
                    for of, value in times.items()
                ]
            del found  # one network's variants are in memory at a time
            forget()
            gc.collect()
            yield rows


def _row(
    setting: Setting,
    name: str,
    shape: str,
    layout: str,
    dtype: str,
    mode: str,
    who: str,
    *,
    timing: Timing | None = None,
    base: tuple[str, Timing] | None = None,
    kind: tuple[str, float] | None = None,
    note: str = "",
) -> Row:
    """Return the seconds of ``who``: the ratio to a ``base``, or of one ``kind`` of operator."""
    quantiles = (kind[1] if kind else math.nan,) * 3
    if timing is not None:
        quantiles = (timing.q20, timing.q50, timing.q80)
        quantiles = paired(timing, base[1]) if base else quantiles
    given: dict[str, Any] = dict(zip(("q20", "q50", "q80"), quantiles, strict=True))
    return Row(
        setting,
        "net",
        case=name,
        dtype=dtype,
        layout=layout,
        shape=shape,
        what=f"{mode} ÷ {base[0]}" if base else f"{mode}: {kind[0]}" if kind else mode,
        who=who,
        unit="1" if base else "s",
        rounds=timing.rounds if timing else int(kind is not None),
        calls=timing.calls if timing else 1,
        note=note,
        **given,
    )
