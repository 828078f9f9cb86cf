"""Time of a batch norm's forward and backward pass in training, beside its rivals'."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from gammabeta.lab.bench import rivals
from gammabeta.lab.bench.inputs import FORMATS, OPS, bytes_moved, draw, fits
from gammabeta.lab.bench.results import Row, Setting
from gammabeta.lab.bench.rivals import RIVALS, Absent
from gammabeta.lab.bench.shapes import Shape, chosen
from gammabeta.lab.bench.timing import Call, Timing, interleave
from gammabeta.names import known


@dataclass(frozen=True)
class Case:
    """One input: its shape and format, and the lists the shape is in."""

    shape: Shape
    lists: str
    format: str


class Plan:
    """What is to be measured.

    Args:
        shapes: names of lists, or shapes, see `gammabeta.lab.bench.shapes.chosen`.
        formats: of `gammabeta.lab.bench.inputs.FORMATS`.
        ops: of `gammabeta.lab.bench.inputs.OPS`.
        against: of `RIVALS`.

    Raises:
        ValueError: a name that is not known, or nothing to measure.
    """

    def __init__(
        self,
        shapes: Sequence[str] = ("bn-inception", "resnet-50", "tiny"),
        formats: Sequence[str] = tuple(FORMATS),
        ops: Sequence[str] = OPS,
        against: Sequence[str] = ("eager",),
    ) -> None:
        self.ops = [known("ops", name, OPS) for name in dict.fromkeys(ops)]
        self.against = [known("rivals", name, RIVALS) for name in dict.fromkeys(against)]
        names = [known("formats", name, FORMATS) for name in dict.fromkeys(formats)]
        self.cases = [
            Case(shape, lists, name)
            for name in names
            for shape, lists in chosen(list(shapes)).items()
            if fits(shape, name)
        ]
        if not self.cases or not self.ops:
            raise ValueError("nothing to measure: these shapes, formats and ops leave no case")


def measure(
    plan: Plan, setting: Setting, *, seconds: float = 1.0, rounds: int | None = None
) -> Iterator[list[Row]]:
    """Yield the rows of one case of ``plan`` after the other.

    All contenders of a case take turns on the same tensors: a copy, a bare ReLU, and each
    operation of gammabeta's layer and of every rival.

    Args:
        plan: what to measure.
        setting: of the rows.
        seconds: that the rounds of a case should take.
        rounds: how many of them to run instead.
    """
    for number, case in enumerate(plan.cases):
        rivals.forget()
        inputs = draw(case.shape, case.format, seed=number)
        calls: dict[tuple[str, str], Call] = {}
        absent: dict[tuple[str, str], str] = {}
        for what, who in [
            *((name, "torch") for name in ("copy", "relu")),
            *((what, who) for what in plan.ops for who in ("gammabeta", *plan.against)),
        ]:
            try:
                calls[what, who] = rivals.build(what if who == "torch" else who, what, inputs)
            except Absent as e:
                absent[what, who] = str(e)
        timings = interleave(calls, seconds=seconds, rounds=rounds, seed=number)
        copy = timings["copy", "torch"].q50
        yield [
            _row(setting, case, named, copy, timings.get(named), absent.get(named, ""))
            for named in (*timings, *absent)
        ]


def _row(
    setting: Setting,
    case: Case,
    named: tuple[str, str],
    copy: float,
    timing: Timing | None,
    note: str,
) -> Row:
    dtype, layout = case.format.split("-")
    what, who = named
    return Row(
        setting,
        "norm",
        case=case.lists,
        dtype=dtype,
        layout=layout,
        shape="x".join(map(str, case.shape)),
        what=what,
        who=who,
        unit="s",
        q20=timing.q20 if timing else math.nan,
        q50=timing.q50 if timing else math.nan,
        q80=timing.q80 if timing else math.nan,
        rounds=timing.rounds if timing else 0,
        calls=timing.calls if timing else 0,
        copy=copy,
        bytes=bytes_moved(what, case.shape, case.format),
        note=note,
    )
