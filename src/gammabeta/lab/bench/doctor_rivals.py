"""torchtest2 and torch-audit on the scripts of the set, as their documentation says.

torchtest2 checks a model with one batch: `torchtest2.check_model(model, inputs, targets, loss_fn=…,
optimizer=…)`. A script that trains is checked after its first step and at its end, with its first
batch, its optimizer, and the loss function that it calls.

torch-audit looks at a loop: `torch_audit.autopatch(model, optimizer=…, every_n_steps=1)`, which
includes its static checks. A script that builds a model gets the loop of torch-audit's
documentation: one step for each batch.
"""

from __future__ import annotations

import contextlib
import copy
import importlib
import importlib.metadata
import io
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from gammabeta.doctor.evidence import first_tensor, target_of
from gammabeta.lab.bench.doctor_set import Script
from gammabeta.lab.bench.doctor_tools import Complaint, Seen, quiet
from gammabeta.lab.bench.rivals import Absent

LOSSES = (
    *(F.cross_entropy, F.nll_loss, F.mse_loss, F.l1_loss, F.smooth_l1_loss),
    *(F.binary_cross_entropy, F.binary_cross_entropy_with_logits),
)
"""Functions that a loop may call as its loss."""

TRAINED = ("initial_loss",)
"""torchtest2's checks that are meant for a model before training, and skipped after it."""

SPEED_HINTS = "TA2"
"""Beginning of the codes of torch-audit's hints about speed, which count neither way."""

STEPS = 8
"""Most steps of torch-audit's loop for a script that builds a model."""


def torchtest2(script: Script, faulty: bool) -> Seen:
    """Run torchtest2 on a script.

    Raises:
        Absent: it is not installed.
    """
    library = _library("torchtest2")

    def check(loop: Loop, seen: Seen, skip: tuple[str, ...] = TRAINED) -> None:
        if loop.inputs is None:
            seen.notes.append("needs a batch")
            return
        report = library.check_model(
            *(loop.model, loop.inputs, loop.targets),
            loss_fn=loop.loss,
            optimizer=loop.optimizer,
            skip=skip,
        )
        severities = {"WARN": "warning", "FAIL": "error"}
        for result in report:
            if result.status.value in severities:
                severity = severities[result.status.value]
                text = f"{result.name}: {result.message}"
                seen.complaints.append(Complaint(result.name, severity, text=text))

    return _run(script, faulty, Looks(step=partial(check, skip=()), end=check, built=check))


def torch_audit(script: Script, faulty: bool) -> Seen:
    """Run torch-audit on a script.

    Raises:
        Absent: it is not installed.
    """
    library = _library("torch_audit")

    def begin(loop: Loop, seen: Seen) -> None:
        loop.auditor = library.autopatch(loop.model, optimizer=loop.optimizer, every_n_steps=1)

    def end(loop: Loop, seen: Seen) -> None:
        for found in loop.auditor.finish(report=False).findings:
            if found.rule_id.startswith(SPEED_HINTS):
                continue
            severity = {"INFO": "info", "WARN": "warning"}.get(found.severity.value, "error")
            layers = () if found.module_path is None else (found.module_path,)
            text = f"{found.rule_id}: {found.message}"
            seen.complaints.append(Complaint(found.rule_id, severity, layers, text=text))
        loop.auditor.unpatch()

    def steps(loop: Loop, seen: Seen) -> None:
        begin(loop, seen)
        with contextlib.suppress(Exception):  # what it found until then counts
            _train(loop)
        end(loop, seen)

    return _run(script, faulty, Looks(begin=begin, end=end, built=steps))


RIVALS: dict[str, Callable[[Script, bool], Seen]] = {
    "torchtest2": torchtest2,
    "torch-audit": torch_audit,
}


@dataclass(eq=False)
class Loop:
    """What a rival is given.

    Attributes:
        model, optimizer: of the script.
        inputs, targets: of its first batch; None if there is none.
        loss: ``loss(output, target)``, or None.
        batches: all batches of a script that builds a model.
        auditor: of torch-audit.
    """

    model: nn.Module
    optimizer: Any = None
    inputs: Any = None
    targets: Any = None
    loss: Callable[..., Any] | None = None
    batches: tuple[Any, ...] = ()
    auditor: Any = None


_Look = Callable[[Loop, Seen], None]


@dataclass(frozen=True, kw_only=True)
class Looks:
    """When a rival looks.

    Attributes:
        begin: as the loop begins.
        step: after its first step.
        end: at its end.
        built: at a script that builds a model.
    """

    end: _Look
    built: _Look
    begin: _Look | None = None
    step: _Look | None = None


def _run(script: Script, faulty: bool, looks: Looks) -> Seen:
    """Run a script; a tool that raises an error has nothing to say, and a note says why."""
    seen = Seen()
    began = time.perf_counter()
    with quiet(), contextlib.redirect_stdout(io.StringIO()):
        if script.builds:
            _attempt(looks.built, _built(script.build(faulty)), seen)
        else:
            watch = _Watch(looks, seen)
            with watch.losses:
                script.train(faulty, watch)
            watch.close()
    seen.complaints = list({each.key: each for each in seen.complaints}.values())
    seen.seconds = time.perf_counter() - began
    return seen


def _attempt(look: _Look, loop: Loop, seen: Seen) -> None:
    try:
        look(loop, seen)
    except Exception as error:
        words = " ".join(str(error).split())[:120]
        seen.notes.append(f"{type(error).__name__}: {words}")


def _built(arguments: Mapping[str, Any]) -> Loop:
    """Return what a script that builds a model gives."""
    model = arguments["model"]
    if isinstance(model, torch.export.ExportedProgram):
        model = model.module()
    loop = Loop(model, arguments.get("optimizer"), loss=arguments.get("loss"))
    loop.batches = tuple(arguments.get("batches") or ())[:STEPS]
    if loop.batches:
        loop.inputs, loop.targets = _parted(loop.batches[0])
    return loop


def _parted(batch: Any) -> tuple[Any, Any]:
    """Return the input and the target of a batch as `gammabeta.examine` reads it."""
    target = target_of(batch)
    if isinstance(batch, (tuple, list)):
        return (batch[0], target) if len(batch) > 1 else (batch[0], None)
    return batch, target


def _train(loop: Loop) -> None:
    """Train a step for each batch, with the script's loss or the mean square of the output."""
    if not any(p.requires_grad for p in loop.model.parameters()):
        return
    for batch in loop.batches:
        inputs, target = _parted(batch)
        output = loop.model(**inputs) if isinstance(inputs, Mapping) else loop.model(inputs)
        if loop.loss is None:
            found = first_tensor(output)
            loss = None if found is None else found.float().square().mean()
        else:
            loss = loop.loss(output) if target is None else loop.loss(output, target)
        if isinstance(loss, Tensor) and loss.requires_grad:
            loss.backward()  # type: ignore[no-untyped-call]
        if loop.optimizer is not None:
            loop.optimizer.step()
            loop.optimizer.zero_grad()


class _Watch:
    """Stands for `gammabeta.watch` in a script: it tells a rival when to look."""

    def __init__(self, looks: Looks, seen: Seen) -> None:
        self.looks, self.seen = looks, seen
        self.losses = _Losses()
        self._signals: list[_Signal] = []

    def __call__(self, model: nn.Module, *, optimizer: Any = None, **_: Any) -> _Signal:
        loop = Loop(model, optimizer)

        def first(module: nn.Module, args: Any, kwargs: Any) -> None:
            handle.remove()
            loop.inputs = copy.deepcopy(kwargs if kwargs else args if len(args) > 1 else args[0])

        handle = model.register_forward_pre_hook(first, with_kwargs=True)
        self._signals.append(_Signal(self, loop))
        self.look(self.looks.begin, loop)
        return self._signals[-1]

    def look(self, look: _Look | None, loop: Loop) -> None:
        """Have the rival look at ``loop``."""
        if look is not None:
            loop.loss, loop.targets = self.losses.function, self.losses.target
            with self.losses.paused():
                _attempt(look, loop, self.seen)

    def close(self) -> None:
        """End all loops that the script did not end."""
        for signal in self._signals:
            signal.close()


class _Signal:
    """Stands for what `gammabeta.watch` returns."""

    should_stop = False

    def __init__(self, watch: _Watch, loop: Loop) -> None:
        self._watch, self._loop = watch, loop
        self._steps, self._closed = 0, False
        self.findings: list[Any] = []

    def step(self, *_: Any, **__: Any) -> None:
        """An optimizer step ends."""
        self._steps += 1
        if self._steps == 1:
            self._watch.look(self._watch.looks.step, self._loop)

    def close(self) -> None:
        """The run ends."""
        if not self._closed:
            self._closed = True
            self._watch.look(self._watch.looks.end, self._loop)

    def __enter__(self) -> _Signal:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _Losses(TorchFunctionMode):
    """Notes the loss function that a loop calls first, and its target."""

    def __init__(self) -> None:
        super().__init__()
        self.function: Callable[..., Any] | None = None
        self.target: Any = None
        self._paused = False

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        if self.function is None and not self._paused and func in LOSSES and len(args) == 2:
            self.target = args[1].detach().clone()
            self.function = lambda output, target: func(first_tensor(output), target, **kwargs)
        return func(*args, **kwargs)

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Note nothing: the rival calls losses of its own."""
        self._paused = True
        try:
            yield
        finally:
            self._paused = False


def version(tool: str) -> str:
    """Return the version of a rival, ``""`` if it is not installed.

    Example:
        >>> version("no-such-tool")
        ''
    """
    try:
        return importlib.metadata.version(tool)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _library(module: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as e:
        raise Absent(f"not installed: pip install {module.replace('_', '-')}") from e
