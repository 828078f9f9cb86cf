"""Forward passes of the examined model on batches, each run once and at most twenty in all.

Every pass leaves the model as it was: buffers, modes, hooks and random states are restored.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice
from typing import Any

import torch
from torch import Tensor, fx, nn

from gammabeta.doctor.examplewise import Trace
from gammabeta.doctor.hidden import hidden_norms
from gammabeta.doctor.observe import Broken, Call, Functional, Look, Output, observing
from gammabeta.doctor.subject import Subject
from gammabeta.statistics.contents import Contents
from gammabeta.statistics.feed import Feed
from gammabeta.statistics.preserve import preserved
from gammabeta.statistics.targets import select
from gammabeta.statistics.undo import undo_all

PASSES = 20
"""Most forward passes of one examination."""
TRAINED = 8
"""Most batches that are run with norms in training mode."""
EVALUATED = 4
"""Most batches that are evaluated, before and after the calibration."""


class SpentError(RuntimeError):
    """A rule asked for a forward pass, but the examination has run all it may."""


class LossError(ValueError):
    """The loss function raised an error, or returned no scalar."""


@dataclass
class Pass:
    """One forward pass.

    Attributes:
        batch: index of the batch; −1 if it was made up from one.
        mode: ``"train"``: norms normalize by the batch, everything else (dropout) is in
            evaluation; ``"eval"``; ``"calibrated"``: evaluation with population statistics.
        calls: calls of norms, in order.
        functional: calls of functional norms that belong to no norm module, in order.
        unregistered: norm modules that were called but are not part of the model: path of the
            module that was at work → the norm.
        outputs: what each module without parts returned, summed up by feature; in order.
        dropouts: functional dropouts, those of modules included: path of the module that called
            it, p, and whether it was on.
        broken: the first module that made non-finite values, or None.
        traces: calls of all modules, example by example, inner ones first; only for the first
            batch in mode ``"eval"`` and for batches made from it.
        random: whether a random number was drawn on the CPU or on the first GPU.
        output: what the model returned.
        loss: the loss, or None if there is no loss function or no target.
        accuracy: share of correct predictions, or None if the batch is no classification.
    """

    batch: int
    mode: str
    calls: list[Call] = field(default_factory=list)
    functional: list[Functional] = field(default_factory=list)
    unregistered: list[tuple[str, nn.Module]] = field(default_factory=list)
    outputs: list[Output] = field(default_factory=list)
    dropouts: list[tuple[str, float, bool]] = field(default_factory=list)
    broken: Broken | None = None
    traces: list[Trace] = field(default_factory=list)
    random: bool = False
    output: Any = None
    loss: float | None = None
    accuracy: float | None = None

    def of(self, layer: str) -> list[Call]:
        """Return the calls of the norm at this path."""
        return [call for call in self.calls if call.layer == layer]


class Evidence:
    """What rules on batches may look at. Passes are run when they are first asked for.

    Args:
        subject: what is examined.
        batches: an iterable of batches, see `gammabeta.calibrate`.
        forward: called with each batch in place of the model; or None.
        done: called before each pass, for a progress bar.

    Attributes:
        batches: the first `TRAINED` batches.
        source: the iterable that was given, such as a DataLoader.
        complete: whether ``batches`` is everything there is.
        spent: number of forward passes so far.
        refused: index of a batch that cannot be run in training mode, such as one with one value
            per channel → what the model said.
    """

    def __init__(
        self,
        subject: Subject,
        batches: Iterable[Any],
        forward: Callable[[Any], Any] | None = None,
        done: Callable[[], None] = lambda: None,
    ) -> None:
        self.subject, self.source = subject, batches
        taken = list(islice(iter(batches), TRAINED + 1))
        self.complete = len(taken) <= TRAINED
        self.batches = taken[:TRAINED]
        self.spent = 0
        self.refused: dict[int, str] = {}
        self._forward = forward or Feed(subject.model)
        self._done = done

    # Batches

    def input(self, index: int) -> Tensor | None:
        """Return the first tensor of a batch, which is the model's input; None if there is none."""
        return first_tensor(self.batches[index])

    def target(self, index: int) -> Any:
        """Return what the loss compares with: the last item of a tuple, ``labels`` of a mapping."""
        return target_of(self.batches[index])

    @cached_property
    def sizes(self) -> list[int]:
        """Number of examples of each batch."""
        inputs = [self.input(index) for index in range(len(self.batches))]
        return [int(x.shape[0]) if x is not None and x.dim() else 1 for x in inputs]

    # Passes

    @cached_property
    def trained(self) -> list[Pass]:
        """A pass in mode ``"train"`` for each batch that the model accepts; see `refused`."""
        passes = []
        for index, batch in enumerate(self.batches):
            try:
                passes.append(self.run(batch, "train", index))
            except ValueError as error:  # one value per channel
                self.refused[index] = str(error)
        return passes

    @cached_property
    def evaluated(self) -> list[Pass]:
        """A pass in mode ``"eval"`` for the first batches."""
        few = self.batches[:EVALUATED]
        return [self.run(batch, "eval", index) for index, batch in enumerate(few)]

    @cached_property
    def with_dropout(self) -> Pass | None:
        """The largest of the first batches in mode ``"train"`` with dropout on.

        None if batch norms keep no statistics, if the model has no dropout, or if no pass is left.
        """
        ran = [p for p in self.trained if p.batch < EVALUATED] if self.targets else []
        if not ran or not has_dropout(self.subject.model, ran) or self.spent >= PASSES:
            return None
        index = max(ran, key=lambda p: self.sizes[p.batch]).batch
        return self.run(self.batches[index], "train", index, dropout=True)

    @cached_property
    def calibrated(self) -> list[Pass]:
        """The same with the statistics that `trained` measured; [] if there are none."""
        if not self.statistics:
            return []
        few = self.batches[:EVALUATED]
        return [self.run(batch, "calibrated", index) for index, batch in enumerate(few)]

    @cached_property
    def statistics(self) -> dict[str, tuple[Tensor, Tensor]]:
        """Path of a batch norm → mean and unbiased variance of its input, by channel, pooled.

        Only of batch norms whose running statistics evaluation uses, and that are not frozen.
        """
        found: dict[str, tuple[Tensor, Tensor]] = {}
        for path in self.targets:
            calls = [
                c for p in self.trained for c in p.of(path) if c.by_batch and c.mean is not None
            ]
            total = sum(c.values for c in calls)
            if total < 2:
                continue
            mean = sum(c.mean * (c.values / total) for c in calls)
            # the paper's Algorithm 2: the mean of unbiased variances, spread of means included
            square = sum((c.var + (c.mean - mean).square()) * (c.values / total) for c in calls)
            found[path] = (mean, square * (total / (total - 1)))
        return found

    @cached_property
    def targets(self) -> dict[str, Any]:
        """Path → batch norm that keeps running statistics and is not frozen."""
        try:
            return {
                path: t.layer for path, t in select(self.subject.model, "pooled").targets.items()
            }
        except (TypeError, ValueError):
            return {}

    def run(
        self,
        batch: Any,
        mode: str,
        index: int = -1,
        *,
        dropout: bool = False,
        look: Look | None = None,
    ) -> Pass:
        """Run the model on ``batch`` and restore it; counts as one pass.

        Args:
            batch: as those of ``batches``.
            mode: see `Pass`.
            index: index of the batch, if it is one of them.
            dropout: with ``"train"``, whether everything is in training mode, not only norms.
            look: called with each call of a norm and the norm's input.

        Raises:
            SpentError: `PASSES` passes were run.
        """
        if self.spent >= PASSES:
            raise SpentError(f"the examination may run {PASSES} forward passes, and has")
        self._done()
        self.spent += 1
        model, result = self.subject.model, Pass(index, mode)
        with preserved(model), preserved(self._hidden), intact(batch), self._without_gradients():
            self._set_mode(mode, dropout)
            drawn, traced = _random_states(), mode == "eval" and index <= 0
            with observing(self.subject, result, look, traced=traced):
                result.output = self._forward(batch)
            result.random = any(
                not torch.equal(a, b) for a, b in zip(drawn, _random_states(), strict=False)
            )
        result.loss = loss_of(self.subject.loss, result.output, target_of(batch))
        result.accuracy = accuracy_of(result.output, target_of(batch))
        return result

    @cached_property
    def _hidden(self) -> nn.Module:
        """Norms that the model calls but does not contain: a pass must not change them either."""
        return nn.ModuleList([each.norm for each in hidden_norms(self.subject)])

    def _without_gradients(self) -> AbstractContextManager[Any]:
        """Return the context of a pass: tensors of the inference mode are only written in it."""
        if any(buffer.is_inference() for buffer in self.subject.model.buffers()):
            return torch.inference_mode()
        return torch.no_grad()

    def _set_mode(self, mode: str, dropout: bool) -> None:
        model = self.subject.model
        held = {m for n in self.subject.batch_norms if _is_held(n.module) for m in [n.module]}
        flipped = [n.module for n in self.subject.batch_norms if _no_longer_tracks(n.module, model)]
        _switch(model, mode == "train" and dropout)
        if mode == "train":
            targets = list(self.targets.values())
            untracked = [n.module for n in self.subject.batch_norms if n.module not in held]
            for norm in {*targets, *flipped, *(m for m in untracked if _by_batch_always(m))}:
                norm.train()
        if mode == "calibrated":
            for path, (mean, var) in self.statistics.items():
                layer = self.targets[path]
                layer.running_mean.copy_(mean)
                layer.running_var.copy_(var)


def _switch(model: nn.Module, training: bool) -> None:
    """Set the mode of ``model``; modules of `torch.export` refuse ``train()``."""
    try:
        model.train(training)
    except NotImplementedError:
        for module in model.modules():
            if not _is_held(module) or isinstance(module, fx.GraphModule):
                module.training = training


def _random_states() -> list[Tensor]:
    states = [torch.get_rng_state()]
    if torch.cuda.is_available():
        states.append(torch.cuda.get_rng_state())
    return states


def has_dropout(model: nn.Module, passes: list[Pass]) -> bool:
    """Whether a model sets values to 0 at random while it trains, as far as can be seen."""
    if any(p > 0 for each in passes for _, p, _ in each.dropouts):
        return True
    return any(
        "Drop" in type(module).__name__
        and any(
            isinstance(p := getattr(module, name, None), (int, float)) and p > 0
            for name in ("p", "drop_prob", "drop_p", "drop_rate", "prob", "rate")
        )
        for module in model.modules()
    )


def _is_held(norm: nn.Module) -> bool:
    return "train" in norm.__dict__  # `gammabeta.freeze` replaces it


def _no_longer_tracks(norm: Any, model: nn.Module) -> bool:
    """Whether training normalizes by the batch, though there are buffers: see GB102."""
    off = getattr(norm, "track_running_stats", True) is False
    return off and (bool(norm.training) or not model.training)


def _by_batch_always(norm: Any) -> bool:
    return getattr(norm, "running_mean", None) is None


@contextmanager
def intact(batch: Any) -> Iterator[None]:
    """Restore the tensors of ``batch`` on leaving: a model may write to its input."""
    kept = [Contents(tensor) for tensor in _tensors(batch) if tensor.device.type != "meta"]
    try:
        yield
    finally:
        undo_all(each.restore for each in kept)


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (tuple, list, Mapping)):
        for each in value.values() if isinstance(value, Mapping) else value:
            yield from _tensors(each)


def first_tensor(value: Any) -> Tensor | None:
    """Return the first tensor in a batch or an output: of a tuple, list, mapping or dataclass."""
    if isinstance(value, Tensor):
        return value
    if isinstance(value, Mapping):
        for key in ("input", "x", "input_ids", "pixel_values", "inputs_embeds", "logits"):
            if isinstance(value.get(key), Tensor):
                return value[key]  # type: ignore[no-any-return]
        value = list(value.values())
    if isinstance(value, (tuple, list)):
        return next((t for each in value if (t := first_tensor(each)) is not None), None)
    return None


_TARGETS = ("labels", "label", "target", "targets", "y")


def target_of(batch: Any) -> Any:
    """Return the target of a batch, or None."""
    if isinstance(batch, Mapping):
        return next((batch[key] for key in _TARGETS if key in batch), None)
    if isinstance(batch, (tuple, list)) and len(batch) > 1:
        return batch[-1]
    return None


def loss_of(loss: Callable[..., Any] | None, output: Any, target: Any) -> float | None:
    """Return the loss as a number; None if there is no function for it.

    Raises:
        LossError: the function raises, or returns no scalar.
    """
    if loss is None:
        value = output.get("loss") if isinstance(output, Mapping) else getattr(output, "loss", None)
        return float(value) if isinstance(value, Tensor) and value.numel() == 1 else None
    device = getattr(first_tensor(output), "device", None)
    if isinstance(target, Tensor) and device is not None:
        target = target.to(device)
    try:
        with torch.no_grad():
            value = loss(output) if target is None else loss(output, target)
    except Exception as error:
        said = (str(error).strip().splitlines() or [""])[0]
        raise LossError(
            f"loss raised {type(error).__name__}: {said}; it is called with the model's output"
            f"{' ' if target is None else ' and the last item of a batch '}and must return a scalar"
        ) from error
    if isinstance(value, Tensor) and value.numel() != 1:
        raise LossError(
            f"loss returned a tensor of shape {tuple(value.shape)}; it must return a scalar, "
            "for example with reduction='mean'"
        )
    if not isinstance(value, (Tensor, int, float)):
        raise LossError(f"loss returned a {type(value).__name__}; it must return a scalar")
    return float(value)


def accuracy_of(output: Any, target: Any) -> float | None:
    """Return the share of right predictions if output and target are those of a classifier."""
    y = first_tensor(output)
    if y is None or not isinstance(target, Tensor) or target.dtype.is_floating_point:
        return None
    if y.dim() < 2 or target.shape != (y.shape[0], *y.shape[2:]) or not target.numel():
        return None
    return float((y.argmax(1) == target.to(y.device)).double().mean())
