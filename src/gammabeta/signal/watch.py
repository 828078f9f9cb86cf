"""Watch a model while it trains: measure the forward passes that become frames, and record them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from numbers import Real
from typing import Any, Literal

import torch
from torch import nn

from gammabeta.names import known
from gammabeta.signal import ranks as processes
from gammabeta.signal.attending import attendant
from gammabeta.signal.cadence import Cadence
from gammabeta.signal.inert import InertWatch
from gammabeta.signal.pace import Pace
from gammabeta.signal.record import Record, record_path
from gammabeta.signal.wanted import Wanted
from gammabeta.signal.watching import Watch

__all__ = ["Watch", "watch"]

BUDGET = 0.01
RANKS = ("zero", "all")


def watch(
    model: nn.Module,
    record: Record | str | os.PathLike[str],
    *,
    arm: str = "model",
    budget: float | None = None,
    every: int | None = None,
    cadence: Cadence | None = None,
    modules: str | Iterable[str] | None = None,
    stages: str | Iterable[str] | None = None,
    optimizer: torch.optim.Optimizer | None = None,
    uncompiled: bool = False,
    ranks: Literal["zero", "all"] = "zero",
    resume: bool | int = False,
    overwrite: bool = False,
    title: str = "",
    settings: Mapping[str, Any] | None = None,
    doctor: bool | str | Iterable[str] = False,
    on_finding: Callable[[Any], object] | None = None,
) -> Watch:
    """Record the signal in every layer of ``model`` while it trains.

    Train as usual, and call ``signal.step(loss=loss)`` after each optimizer step.

    Args:
        model: any module, in whatever way it computes: with modules or functions, compiled, wrapped
            for distributed training. It is not changed: the watch adds hooks, and removes them when
            it closes.
        record: the file to create (``"runs/first"`` creates ``runs/first.sqlite``; ``~`` is the
            home folder), or a `Record` that several watches share, one arm each.
        arm: name of this model in the record, for example ``"with batch norm"``.
        budget: largest share of the run's time that recording may take. The watch measures what it
            costs, and spaces its frames accordingly: dense at the start, then fewer. Default 0.01,
            and no limit if ``every`` or ``cadence`` is given.
        every: record every ``every``-th step, and the first.
        cadence: which steps become frames, more generally.
        modules: globs of module names, such as ``"layer3.*"``; a module that matches is measured
            with everything in it. One that begins with ``!`` leaves modules out. Default: all.
        stages: names of the stages to measure, see `gammabeta.signal.stages.STAGES`. Default: all.
        optimizer: its learning rates, weight norms and update ratios are recorded by parameter
            group.
        uncompiled: run the recorded passes of compiled models and parts uncompiled, to see inside.
            Otherwise they are seen from outside, with their parameters: an uncompiled pass rounds
            differently, which would change the training.
        ranks: in distributed training, whether rank 0 records (``"zero"``) or every rank, each in a
            file of its own (``"all"``), which `gammabeta.Run` merges. Every rank must then have
            the same frames, so the budget is not used.
        resume: continue the file if it exists, as a job does that is started again. A number is the
            last step to keep: what was recorded after it is deleted.
        overwrite: replace the file if it exists.
        title: title of the run on the page; only for a new record.
        settings: settings of the run, shown on the page; only for a new record.
        doctor: look for faults of the training: True for all rules, or a list of their codes.
            Findings become marks in the record and ``signal.findings``; ``signal.should_stop``
            becomes True at one that spoils the run.
        on_finding: called with each finding (`gammabeta.doctor.Finding`), at the end of a step.

    Returns:
        A `Watch`, which is a context manager.

    Raises:
        RecordError: the file exists and neither ``resume`` nor ``overwrite`` is given, or it cannot
            be created.
        ValueError: the shared record already has an arm with this name, a pattern matches no
            module, or a number is out of range.
        TypeError: ``model`` is not a module, or another argument has the wrong type.

    Numerics:
        Only forward passes in training mode are measured, and only the first one of each step. At
        most `gammabeta.signal.sampling.SAMPLE` values of each signal are looked at; the record has
        the standard error. x̂ is computed from a norm's output with γ and β. A gradient is the L2
        norm of ∂loss/∂signal as the backward pass computes it, divided by the loss scale if
        ``step`` is given the ``scaler``.

    Example:
        >>> import tempfile
        >>> model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2))
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        >>> with watch(model, tempfile.mkdtemp() + "/first") as signal:
        ...     for _ in range(3):
        ...         loss = model(torch.randn(16, 4)).square().mean()
        ...         optimizer.zero_grad()
        ...         loss.backward()
        ...         optimizer.step()
        ...         signal.step(loss=loss)
        >>> signal.steps
        3
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model is a {type(model).__name__}; give a torch.nn.Module")
    for name, value, kinds, remedy in (
        ("record", record, (Record, str, os.PathLike), "give a path or a gammabeta.Record"),
        ("arm", arm, str, "give a name, such as 'model'"),
        ("cadence", cadence, (Cadence, type(None)), "give a gammabeta.Cadence"),
        ("optimizer", optimizer, (torch.optim.Optimizer, type(None)), "give a torch optimizer"),
        ("uncompiled", uncompiled, bool, "give True or False"),
        ("title", title, str, "give text"),
        ("settings", settings, (Mapping, type(None)), "give a dict"),
    ):
        if not isinstance(value, kinds):
            raise TypeError(f"{name} is a {type(value).__name__}; {remedy}")
    known("ranks", ranks, RANKS)
    pace = Pace(*_pace(budget, every, cadence, ranks), fixed=cadence is not None)
    wanted = Wanted(model, modules, stages)
    looks = attendant(model, optimizer, doctor, on_finding)
    rank = processes.rank()
    owned = not isinstance(record, Record)
    if not isinstance(record, Record):
        path = record_path(record)
        if rank and ranks == "zero":
            return InertWatch(f"rank {rank} does not record; rank 0 does", looks)
        record = Record(
            processes.path_of(path, rank),
            title or type(model).__name__,
            settings,
            resume=resume,
            overwrite=overwrite,
            meta={"ranks": "all", "rank": rank} if ranks == "all" else None,
        )
    elif resume is not False or overwrite:
        raise ValueError("resume and overwrite are for a path; give them to gammabeta.Record")
    elif arm in record.arms:
        raise ValueError(
            f"arm={arm!r} already exists in this record; give each watched model its own name"
        )
    try:
        return Watch(model, record, arm, pace, owned, wanted, optimizer, uncompiled, looks)
    except BaseException:
        if owned:
            record.discard()
        raise


def _pace(
    budget: float | None, every: int | None, cadence: Cadence | None, ranks: str
) -> tuple[Cadence, float | None]:
    """Return the steps that are wanted, and the budget."""
    if every is not None and cadence is not None:
        raise ValueError("every and cadence exclude each other; give one of them")
    if every is not None:
        if not isinstance(every, int) or isinstance(every, bool):
            raise TypeError(f"every={every!r} must be a whole number, at least 1")
        if every < 1:
            raise ValueError(f"every={every} must be at least 1")
        cadence = _Every(every=every)
    if budget is not None:
        if not isinstance(budget, Real) or isinstance(budget, bool):
            raise TypeError(f"budget={budget!r} must be a number, such as 0.01")
        if not 0 < budget < float("inf"):
            raise ValueError(f"budget={budget} must be above 0; 0.01 is 1% of the run's time")
    elif cadence is None and ranks == "zero":
        budget = BUDGET
    if ranks == "all":
        if budget is not None:
            raise ValueError(
                'budget and ranks="all" exclude each other: ranks would differ in frames'
            )
        return cadence or Cadence(early=10, ratio=1.1), None
    return cadence or Cadence(), None if budget is None else float(budget)


class _Every(Cadence):
    """The first step, and every ``every``-th."""

    def __init__(self, every: int) -> None:
        super().__init__(early=1, ratio=float("inf"))
        object.__setattr__(self, "every", every)

    def due(self, step: int) -> bool:
        """Return whether ``step`` becomes a frame."""
        every: int = self.every  # type: ignore[attr-defined]
        return super().due(step) or (step >= 1 and step % every == 0)
