"""Time of a network's training step, and its peak of activation memory, form by form."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from gammabeta.lab.bench.nets import load
from gammabeta.lab.bench.peak import peak_bytes
from gammabeta.lab.bench.results import Row, Setting
from gammabeta.lab.bench.rivals import Absent
from gammabeta.lab.bench.timing import interleave
from gammabeta.lab.bench.variants import VARIANTS, variant
from gammabeta.names import known

DTYPES = ("fp32", "bf16")
"""float32 throughout, or under bfloat16 autocast."""


@dataclass(frozen=True)
class Training:
    """A network and what it is trained on, channels last.

    Attributes:
        name: of the network.
        model: built of torch's layers.
        batch: images a step.
        size: height and width of an image, which has three channels.
    """

    name: str
    model: nn.Module
    batch: int
    size: int

    @classmethod
    def of(cls, model: str | None, batch: int = 64, size: int = 32) -> Training:
        """Load a network.

        Args:
            model: as of `gammabeta.lab.bench.nets.load`.
            batch: images a step.
            size: height and width of an image.

        Raises:
            ValueError: ``model`` names no network, or a number is out of range.
        """
        for argument, value, least in (("batch", batch, 2), ("size", size, 1)):
            if not least <= value <= 4096:
                raise ValueError(f"{argument}={value} must be between {least} and 4096")
        return cls(*load(model, size), batch, size)

    @property
    def shape(self) -> str:
        """Of the input, as in `Row.shape`."""
        return f"{self.batch}x3x{self.size}x{self.size}"


class Step:
    """Forward, loss, backward, and one step of SGD; fixed images and labels.

    Args:
        form: the network in the form that is measured.
        training: what it is trained on.
        dtype: of `DTYPES`.
    """

    def __init__(self, form: nn.Module, training: Training, dtype: str) -> None:
        self.form = form.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        # So small a step that the values, and with them the time, stay what they are.
        self.optimizer = torch.optim.SGD(form.parameters(), lr=1e-4, momentum=0.9, fused=True)
        generator = torch.Generator().manual_seed(0)
        size = (training.batch, 3, training.size, training.size)
        images = torch.randn(size, generator=generator)
        self.images = images.contiguous(memory_format=torch.channels_last)
        self.dtype = dtype

    def backward(self) -> None:
        """Forward and backward; gradients are added to those there are."""
        autocast: contextlib.AbstractContextManager[object] = contextlib.nullcontext()
        if self.dtype == "bf16":
            autocast = torch.autocast("cpu", dtype=torch.bfloat16)
        with autocast:
            out = self.form(self.images)
        _loss(out).backward()  # type: ignore[no-untyped-call]

    def __call__(self) -> None:
        """Take one training step."""
        self.optimizer.zero_grad()
        self.backward()
        self.optimizer.step()


def _loss(out: Tensor) -> Tensor:
    """Cross entropy where there are classes, else the mean square; in float32."""
    out = out.float()
    if out.dim() != 2:
        return out.square().mean()
    labels = torch.arange(out.shape[0]) % out.shape[1]
    return functional.cross_entropy(out, labels)


def forms(asked: Sequence[str]) -> list[str]:
    """Return ``asked``, each once.

    Raises:
        ValueError: a name that is not of `VARIANTS`.
    """
    return [known("variants", name, VARIANTS) for name in dict.fromkeys(asked)]


def measure_time(
    training: Training,
    dtypes: Sequence[str],
    variants: Sequence[str],
    setting: Setting,
    *,
    seconds: float = 20.0,
    rounds: int | None = None,
) -> Iterator[list[Row]]:
    """Yield the rows of one dtype after the other: the time of a step of every form.

    Args:
        training: network and input.
        dtypes: of `DTYPES`.
        variants: of `VARIANTS`.
        setting: of the rows.
        seconds: that the rounds should take, a dtype.
        rounds: how many of them to run instead.
    """
    for dtype in dtypes:
        steps, absent = _steps(training, dtype, variants)
        timings = interleave(steps, seconds=seconds, rounds=rounds)
        yield [
            *(
                _row(setting, training, "step", dtype, who, "s", t.q20, t.q50, t.q80, t.rounds)
                for who, t in timings.items()
            ),
            *(_absent(setting, training, "step", dtype, who, n) for who, n in absent.items()),
        ]


def measure_memory(
    training: Training, dtypes: Sequence[str], variants: Sequence[str], setting: Setting
) -> Iterator[list[Row]]:
    """Yield the rows of one dtype after the other: peak bytes of a forward and backward pass.

    Parameters, their gradients and the images are there before, and so not counted.

    Args:
        training: network and input.
        dtypes: of `DTYPES`.
        variants: of `VARIANTS`.
        setting: of the rows.
    """
    for dtype in dtypes:
        steps, absent = _steps(training, dtype, variants)
        peaks = {who: float(peak_bytes(step.backward)) for who, step in steps.items()}
        yield [
            *(
                _row(setting, training, "peak", dtype, who, "bytes", peak, peak, peak)
                for who, peak in peaks.items()
            ),
            *(_absent(setting, training, "peak", dtype, who, n) for who, n in absent.items()),
        ]


def _steps(
    training: Training, dtype: str, variants: Sequence[str]
) -> tuple[dict[str, Step], dict[str, str]]:
    """A step of each form, and why the others have none."""
    steps, absent = {}, {}
    for who in variants:
        try:
            steps[who] = Step(variant(who, training.model), training, dtype)
        except Absent as e:
            absent[who] = str(e)
    return steps, absent


def _row(
    setting: Setting,
    training: Training,
    what: str,
    dtype: str,
    who: str,
    unit: str,
    q20: float,
    q50: float,
    q80: float,
    rounds: int = 1,
    note: str = "",
) -> Row:
    return Row(
        setting,
        "step" if what == "step" else "memory",
        case=training.name,
        dtype=dtype,
        layout="channels_last",
        shape=training.shape,
        what=what,
        who=who,
        unit=unit,
        q20=q20,
        q50=q50,
        q80=q80,
        rounds=rounds,
        note=note,
    )


def _absent(
    setting: Setting, training: Training, what: str, dtype: str, who: str, note: str
) -> Row:
    nan = math.nan
    return _row(setting, training, what, dtype, who, "s", nan, nan, nan, 0, note)
